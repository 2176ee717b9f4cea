"""Sources of noise: a seed per image, or one file for all images."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from perception.backbones.spec import sample_noise
from perception.classification.stopping.schedules import TimestepNoise
from perception.data.inputs import UNREADABLE
from perception.errors import UserError


class NoiseSource(Protocol):
    """The noise of one sample of one image."""

    def __call__(self, image_id: str, sample: TimestepNoise, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal noise of the given latent shape, float32, on the CPU."""


class SeededNoise:
    """Noise as a function of (seed, image id, timestep, trial): equal for every batch size, order and stopping rule."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, image_id: str, sample: TimestepNoise, shape: tuple[int, ...]) -> Tensor:
        """Trial 0 is the noise `FeatureSpec(noise="per_image")` uses for the same image."""
        name = f"{image_id}#{sample.trial}" if sample.trial else image_id
        return sample_noise(self.seed, name, sample.timestep, shape)


class SharedNoise:
    """One noise tensor [N, C, h, w] for all images: the sample of index i uses row i (the reference's order)."""

    def __init__(self, noise: Tensor) -> None:
        if noise.ndim != 4 or not noise.is_floating_point():
            raise UserError(
                f"the noise has shape {tuple(noise.shape)} and type {noise.dtype}; "
                "expected floating point [samples, channels, height, width]"
            )
        self.noise = noise.float()

    def __call__(self, image_id: str, sample: TimestepNoise, shape: tuple[int, ...]) -> Tensor:
        """Raises UserError when the tensor has too few rows or other latent sizes."""
        self.check(sample.index + 1, shape)
        return self.noise[sample.index]

    def check(self, samples: int, shape: tuple[int, ...]) -> None:
        """Raises UserError unless the tensor holds `samples` latents of this shape."""
        if len(self.noise) < samples or tuple(self.noise.shape[1:]) != tuple(shape):
            raise UserError(
                f"the noise has shape {tuple(self.noise.shape)}, but this schedule and image size need "
                f"({samples} or more, {', '.join(map(str, shape))}); make a larger file or change --samples or --size"
            )


def read_noise(path: Path) -> SharedNoise:
    """Read a noise file: .npy, .pt (a bare tensor) or .safetensors (a single tensor).

    Raises UserError for a missing or unreadable file, another suffix, or anything but one [N, C, h, w] tensor.
    """
    if path.suffix not in _READERS:
        raise UserError(f"the noise file {path} must end with {', '.join(_READERS)}; save the tensor in one of these")
    if not path.is_file():
        raise UserError(f"the noise file {path} does not exist; check the path")
    try:
        noise = _READERS[path.suffix](path)
    except (*UNREADABLE, SafetensorError) as error:
        raise UserError(f"cannot read the noise file {path} ({error}); save the tensor anew") from error
    if not isinstance(noise, Tensor):
        raise UserError(f"the noise file {path} holds a {type(noise).__name__}; save one bare tensor in it")
    if noise.numel() * noise.element_size() > noise.untyped_storage().nbytes():
        raise UserError(f"the noise file {path} repeats its numbers to the shape {tuple(noise.shape)}; save them all")
    return SharedNoise(noise)


def _read_npy(path: Path) -> Tensor:
    import numpy as np

    stored = np.load(path, mmap_mode="r", allow_pickle=False)  # a header that promises more than the file has raises
    return torch.from_numpy(np.array(stored))


def _read_pt(path: Path) -> Tensor:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> Tensor:
    from safetensors.torch import load_file

    (noise,) = load_file(path).values()
    return noise


_READERS = {".npy": _read_npy, ".pt": _read_pt, ".safetensors": _read_safetensors}
