"""Fetching a diffusers folder from the Hugging Face hub, without the files a backbone never reads."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from perception.errors import UserError

_NEEDED = ("model_index.json", "config.json", "*/*.json", "*/*.txt", "*.safetensors")
# single-file checkpoints at the top, other frameworks, safety checkers
_UNUSED = ("v1-*", "v2-*", "sd_xl_*", "*non_ema*", "safety_checker/*", "feature_extractor/*", "*openvino*", "*.msgpack")


def download(name: str) -> Path:
    """The local snapshot of the hub model `name` (owner/model), downloaded when it is not in the cache.

    Raises:
        UserError: when the hub has no such model, it needs a licence to be accepted, or there is no network.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=list(_NEEDED), ignore_patterns=list(_UNUSED)))
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
