"""Fetching a diffusers folder from the Hugging Face hub, without the files a backbone never reads."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from perception.errors import UserError

_NEEDED = ("*.json", "*/*.txt", "*/spiece.model", "*/*.safetensors", "diffusion_pytorch_model.safetensors")
_UNUSED = ("*non_ema*", "*openvino*", "safety_checker/*", "feature_extractor/*", "text_encoders/*")
_HALF = ("*.fp16.*",)  # fetched only where there is nothing else: half precision is a cast away


def download(name: str) -> Path:
    """The local snapshot of the hub model `name` (owner/model), downloaded when it is not in the cache.

    Raises:
        UserError: when the hub has no such model, it needs a licence to be accepted, or there is no network.
    """
    try:
        path = _snapshot(name, (*_UNUSED, *_HALF))
        whole = any(any((path / denoiser).glob("*.safetensors")) for denoiser in ("unet", "transformer"))
        if (path / "model_index.json").is_file() and not whole:
            path = _snapshot(name, _UNUSED)
        return path
    except LocalEntryNotFoundError:
        raise UserError(
            f"{name!r} is neither a local folder nor in the local hub cache, and the hub cannot be reached; "
            "check the spelling of the path, or connect once to download it"
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        raise UserError(
            f"the hub does not give {name!r} ({' '.join(str(error).split())[:200]}); check the name, accept the "
            "model's licence on its page and log in with `hf auth login`, or pass a local folder"
        ) from None


def _snapshot(name: str, without: tuple[str, ...]) -> Path:
    return Path(snapshot_download(name, allow_patterns=list(_NEEDED), ignore_patterns=list(without)))
