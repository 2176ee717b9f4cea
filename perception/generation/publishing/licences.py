"""Licences of what a generated set is made from: they bind whoever uses it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from perception.errors import UserError

UNKNOWN = "unknown"
_SHIPPED = "Apache-2.0"  # the license of this package
_KNOWN: Mapping[str, str] = MappingProxyType(
    {
        "mini": _SHIPPED,
        "mini-control": _SHIPPED,
        "mini-source": _SHIPPED,
        "stable-diffusion-v1-5/stable-diffusion-v1-5": "CreativeML OpenRAIL-M",
        "runwayml/stable-diffusion-v1-5": "CreativeML OpenRAIL-M",
        "stabilityai/stable-diffusion-2-1": "CreativeML OpenRAIL++-M",
        "stabilityai/stable-diffusion-2-1-base": "CreativeML OpenRAIL++-M",
        "stabilityai/stable-diffusion-xl-base-1.0": "CreativeML OpenRAIL++-M",
        "yurujaja/DGInStyle": "CC-BY-SA-4.0",
    }
)


def licence_of(name: str | Path) -> str:
    """The licence of a model: as its card (README.md in its folder, or the one above) states it, else as known here.

    Returns "unknown" where neither says anything.
    """
    if str(name) in _KNOWN:
        return _KNOWN[str(name)]
    folder = Path(name).expanduser()
    stated = [_of_card(place / "README.md") for place in (folder, folder.parent) if (place / "README.md").is_file()]
    return next((licence for licence in stated if licence), UNKNOWN)


def stated_licences(texts: tuple[str, ...]) -> dict[str, str]:
    """'backbone=...', 'autoencoder=...', 'control=...', 'labels=...' and 'photos=...' as a mapping.

    Raises:
        UserError: for another form.
    """
    found = {}
    for text in texts:
        part, separator, licence = (piece.strip() for piece in text.partition("="))
        if part not in ("backbone", "autoencoder", "control", "labels", "photos") or not separator or not licence:
            raise UserError(
                f"the licence {text!r} is not usable; expected PART=NAME with the part backbone, autoencoder, control, "
                'labels or photos, such as "labels=for research use only"'
            )
        found[part] = licence
    return found


def _of_card(path: Path) -> str | None:
    from huggingface_hub.repocard import metadata_load

    try:
        data = metadata_load(path) or {}
    except (ValueError, OSError):  # a README that is no model card
        return None
    name = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return str(name) if name else None
