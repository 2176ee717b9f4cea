"""How trained heads come into the package: half precision, as all weights in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from perception.data.files import replacing_folder
from perception.encoders.artifact import read_artifact
from perception.errors import UserError
from perception.training.export.mmseg_model import read_file


def write_half(folder: Path, out: Path) -> None:
    """The folder of a trained head once more, weights in float16; one at `out` is replaced when all is written.

    Loading casts them back, so a head computes in float32 as before, with weights rounded to eleven bits.

    Raises:
        UserError: no whole head is in the folder, it is `out` itself, or a weight is beyond float16.
    """
    read_artifact(folder)
    if folder.resolve() == out.resolve():
        raise UserError(f"{folder} is the place to write to; name the folder of a training, such as WORK_DIR/model")
    weights = read_file(folder)
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    for name, value in half.items():
        if not torch.equal(value.isfinite(), weights[name].isfinite()):
            raise UserError(f"{folder}: {name} holds values up to {weights[name].abs().max():.3g}, beyond float16")
    with replacing_folder(out) as fresh:
        for path in (folder / "config.json", folder / "README.md"):
            if path.exists():  # the card may be missing
                shutil.copyfile(path, fresh / path.name)
        save_file(half, fresh / "model.safetensors", metadata={"format": "pt"})
        (fresh / "model.safetensors").chmod(0o644)
