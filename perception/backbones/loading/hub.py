"""Fetching model folders from the Hugging Face hub, without the files that nothing here reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RevisionNotFoundError

from perception.errors import UserError

_NEEDED = ("*.json", "*/*.txt", "*/spiece.model", "*/*.safetensors", "diffusion_pytorch_model.safetensors")
_UNUSED = ("*non_ema*", "*openvino*", "safety_checker/*", "feature_extractor/*", "text_encoders/*")
_CLIP = ("*.json", "merges.txt", "model*.safetensors")
_HEAD = ("config.json", "model.safetensors")
_HALF = ("*.fp16.*",)  # fetched only where there is nothing else: half precision is a cast away


def is_hub_id(name: str | Path) -> bool:
    """Whether a name means a model of the hub: owner/model, and no local path is called so."""
    text_id = isinstance(name, str) and name.count("/") == 1 and name[0] not in "./~" and not name.endswith("/")
    return text_id and not Path(name).exists()


def revision_of(path: str | Path) -> str | None:
    """The commit of a hub snapshot, or of a folder in one, by its place in the cache; None for any other folder."""
    for folder in (Path(path), *Path(path).parents):
        if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
            return folder.name
    return None


def check_revision(name: str | Path | None, revision: str | None) -> None:
    """UserError for a revision of what is no model of the hub."""
    if revision is not None and (name is None or not is_hub_id(name if isinstance(name, str) else name.as_posix())):
        raise UserError(
            f"the revision {revision!r} was given for {str(name or 'a shipped model')!r}, which is no model of the hub "
            "(owner/model); leave it out, or name such a model"
        )


def download(name: str, revision: str | None = None) -> Path:
    """The local snapshot of the hub model `name` (owner/model), downloaded when it is not in the cache.

    `revision`: a branch, tag or commit; None: the main branch.

    Raises:
        UserError: when the hub has no such model or only pickled weights of it, it needs a licence to be accepted, or
            there is no network.
    """
    with _explained(name):
        path = _snapshot(name, _NEEDED, (*_UNUSED, *_HALF), revision)
        if _lacks_weights(path):
            path = _snapshot(name, _NEEDED, _UNUSED, revision)
        if _lacks_weights(path):
            raise UserError(
                f"the hub has no weights of {name!r} in the format safetensors, only pickled ones, which are not read; "
                "load it with diffusers, write it with save_pretrained(FOLDER), and name that folder"
            )
        return path


def _lacks_weights(path: Path) -> bool:
    """Whether a snapshot of a pipeline holds a denoiser without weights."""
    denoisers = [path / name for name in ("unet", "transformer") if (path / name / "config.json").is_file()]
    return bool(denoisers) and not any(any(folder.glob("*.safetensors")) for folder in denoisers)


def download_clip(name: str) -> Path:
    """The same for a CLIP model in transformers layout; raises as `download`."""
    with _explained(name):
        return _snapshot(name, _CLIP, _HALF)


def download_head(name: str, revision: str | None = None) -> Path:
    """The same for a head trained by this toolkit; raises as `download`."""
    with _explained(name):
        return _snapshot(name, _HEAD, (), revision)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """UserError in place of what the hub raises."""
    try:
        yield
    except LocalEntryNotFoundError:
        raise UserError(
            f"{name!r} is neither a local folder nor in the local hub cache, and the hub cannot be reached; "
            "check the spelling of the path, or connect once to download it"
        ) from None
    except (HfHubHTTPError, HFValidationError, RevisionNotFoundError) as error:
        raise UserError(
            f"the hub does not give {name!r} ({' '.join(str(error).split())[:200]}); check the name, accept the "
            "model's licence on its page and log in with `hf auth login`, or pass a local folder"
        ) from None


def _snapshot(name: str, needed: tuple[str, ...], without: tuple[str, ...], revision: str | None = None) -> Path:
    path = snapshot_download(name, revision=revision, allow_patterns=list(needed), ignore_patterns=list(without))
    return Path(path)
