"""All draws x timesteps x images through the denoiser, micro-batched, with noise that depends on the sample alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from perception.backbones.conditioning.condition import Condition
from perception.backbones.spec import FeatureSpec, sample_noise
from perception.checks import check_tensors
from perception.errors import UserError


def extract(
    x0: Tensor,  # clean latents [B, C, h, w]
    ids: Sequence[str],  # of `noise_ids`
    spec: FeatureSpec,
    condition: Condition,  # 1 or B rows
    micro_batch: int,  # rows per call of the denoiser
    noise: Callable[[Tensor, Tensor, Tensor], Tensor],  # DiffusionBackbone.noise
    capture: Callable[[Tensor, Tensor, Condition, Sequence[str]], dict[str, Tensor]],  # DiffusionBackbone.capture
) -> dict[str, Tensor]:
    """Feature maps of clean latents, tap -> [B, T*C', h', w']; see `DiffusionBackbone.features`."""
    rows = [(image, t, draw) for image in range(len(x0)) for t in spec.timesteps for draw in range(spec.draws)]
    condition = condition.expand(len(x0))
    inner = [name for name in spec.taps if name != "latent"]
    means = {name: _Draws(spec.draws) for name in inner}
    for start in range(0, len(rows) if inner else 0, micro_batch):
        chunk = rows[start : start + micro_batch]
        images, steps = torch.tensor([i for i, _, _ in chunk]), torch.tensor([t for _, t, _ in chunk])
        x_t = x0[images.to(x0.device)]
        if spec.noise != "none":
            eps = torch.stack([sample_noise(spec.seed, ids[i], t, x0.shape[1:], draw) for i, t, draw in chunk])
            x_t = noise(x_t, steps, eps)
        for name, value in capture(x_t, steps, condition[images], inner).items():
            means[name].add(value)
    return {name: _over_time(means.get(name), x0, spec) for name in spec.taps}


def features_source(inputs: Tensor | None, latents: Tensor | None) -> Tensor:
    """The one of both that is there. UserError for both, none, or no tensor."""
    if (inputs is None) == (latents is None):
        raise UserError("features needs either inputs (images or latents) or latents=..., and not both")
    source = inputs if inputs is not None else latents
    check_tensors(**{"latents" if inputs is None else "inputs": source})
    assert source is not None
    return source


def clean_latents(
    source: Tensor,  # images [B, 3, H, W] or latents [B, C, h, w], told apart by the number of channels
    encode: Callable[[Tensor], Tensor] | None,  # images -> latents; None: the source is latents
    latent_channels: int,
    micro_batch: int,  # rows per call of `encode`
) -> Tensor:
    """Latents of images; latents as they are. UserError for another number of channels."""
    channels = source.shape[1] if source.dim() == 4 else None
    if encode is not None and channels not in (3, latent_channels):
        raise UserError(
            f"inputs have the shape {list(source.shape)}; expected images [batch, 3, height, width] "
            f"or latents [batch, {latent_channels}, height, width]"
        )
    if encode is None or (channels == latent_channels and channels != 3):
        return source
    return torch.cat([encode(chunk) for chunk in source.split(micro_batch)])


def noise_ids(source: Tensor, spec: FeatureSpec, image_ids: Sequence[str] | None) -> list[str]:
    """The image id of each row that its noise is a function of. UserError unless there is one for each row."""
    if spec.noise != "per_image":
        return [""] * len(source)
    if image_ids is None:
        return [_content_id(row) for row in source]
    if len(image_ids) != len(source):
        raise UserError(f"{len(image_ids)} image_ids were given for {len(source)} images; expected one id per image")
    return list(image_ids)


class _Draws:
    """Maps of one tap as the calls give them, row by row; the mean over the draws is taken once they are complete."""

    def __init__(self, draws: int) -> None:
        self.draws = draws
        self.parts: list[Tensor] = []  # means so far
        self._open: Tensor | None = None  # draws of a mean that the next call completes

    def add(self, rows: Tensor) -> None:
        """Rows [n, ...], the draws of one image and timestep behind each other."""
        if self.draws == 1:
            self.parts.append(rows)
            return
        rows = rows if self._open is None else torch.cat([self._open, rows])
        whole = len(rows) - len(rows) % self.draws
        self._open = rows[whole:].clone()  # a view would keep all of them in memory
        if whole:
            groups = rows[:whole].unflatten(0, (-1, self.draws))  # [n, D, ...]
            self.parts.append(groups.float().mean(1).to(rows.dtype))


def _over_time(means: _Draws | None, x0: Tensor, spec: FeatureSpec) -> Tensor:
    """Rows [B*T, C, h, w] -> the layout of `spec.aggregate`; the clean latent stands for every timestep."""
    steps = len(spec.timesteps)
    if means is None:
        stacked = x0.unsqueeze(1).expand(-1, steps, -1, -1, -1)  # [B, T, C, h, w]
    else:
        stacked = torch.cat(means.parts).unflatten(0, (-1, steps))  # [B, T, C, h, w]
    if spec.aggregate == "stack":
        return stacked
    return stacked.mean(dim=1) if spec.aggregate == "mean" else stacked.flatten(1, 2)


def _content_id(row: Tensor) -> str:
    """Hash of the values of one image or latent."""
    values = row.detach().float().cpu().contiguous()
    return hashlib.sha256(repr(tuple(values.shape)).encode() + values.numpy().tobytes()).hexdigest()
