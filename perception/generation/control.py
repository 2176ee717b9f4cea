"""A frozen backbone with control networks (Zhang et al. 2023), one or several."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.conditioning.condition import Condition
from perception.backbones.denoisers.compiled import filled_up
from perception.backbones.denoisers.unet import UNetDenoiser, with_residuals
from perception.backbones.prediction import Prediction
from perception.checks import check_tensor_lists
from perception.errors import UserError

ControlledRows = Literal["both", "conditional", "guess"]
Residuals = tuple[list[Tensor], Tensor]  # of the skip connections in order, of the middle block
_AS_IT_IS = nn.Identity()  # one for all calls: torch.compile would compile again for another one


class ControlledDenoiser:
    """The denoiser of `backbone` with the residuals of all control networks added; weights are shared, not copied.

    The style swap is the choice of the backbone: control networks are trained on the source-style denoiser and used
    with the prior one. Where the denoiser is compiled (`compile_denoiser`), the control networks are, too.

    Raises:
        UserError: for no control network, one that does not fit the backbone, or another number of scales.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        controls: Sequence[nn.Module],  # diffusers ControlNetModel
        scales: Sequence[float] | None = None,  # of the residuals, one per control network; None: 1
        controlled_rows: ControlledRows = "both",  # rows of a guided batch with control; "guess": diffusers' guess mode
    ) -> None:
        self.backbone = backbone
        self.controls: tuple[Any, ...] = tuple(controls)
        self.scales = tuple(scales) if scales is not None else (1.0,) * len(self.controls)
        self.controlled_rows = controlled_rows
        self._compiled = backbone.is_compiled
        self._networks: list[Any] = [torch.compile(c, dynamic=False) if self._compiled else c for c in controls]
        if not self.controls or len(self.scales) != len(self.controls):
            raise UserError(
                f"{len(self.controls)} control networks were given with {len(self.scales)} scales; "
                "expected at least one network and one scale for each"
            )
        for control in self.controls:
            check_control(control, backbone)

    def __deepcopy__(self, memo: dict[int, Any]) -> ControlledDenoiser:
        """Shares the backbone; the copied control networks are those of the module being copied around it."""
        controls = [copy.deepcopy(control, memo) for control in self.controls]
        return ControlledDenoiser(self.backbone, controls, self.scales, self.controlled_rows)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the control image of each network."""
        return tuple(control.config["conditioning_channels"] for control in self.controls)

    def embed(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Control images [N, C, H, W], one tensor per network -> embeddings [N, D, h, w].

        They depend neither on the timestep nor on the text. Raises UserError for another number of channels.
        """
        check_tensor_lists(images=images)
        if tuple(image.shape[1] for image in images) != self.channels:
            found = ", ".join(str(image.shape[1]) for image in images)
            expected = ", ".join(map(str, self.channels))
            raise UserError(f"the control images have {found} channels; these control networks take {expected}")
        return [
            control.controlnet_cond_embedding(image.to(control.device, control.dtype).contiguous())
            for control, image in zip(self.controls, images, strict=True)
        ]

    def __call__(
        self,
        x_t: Tensor,  # [N, C, h, w]
        t: int | Tensor,  # one timestep, or one per row
        condition: Condition,  # N rows
        embeddings: Sequence[Tensor],  # of `embed`, [M, D, h, w] per network
        guided: bool = False,  # rows are [unconditional M, conditional M]: N = 2 M; False: N = M
    ) -> Prediction:
        """One call of the control networks and the denoiser; both halves of a guided batch share their embedding."""
        residuals = self._residuals(*self.backbone.network_inputs(x_t, t, condition), embeddings, guided)
        return self.backbone.denoise(x_t, t, with_residuals(condition.expand(len(x_t)), *residuals))

    def _residuals(
        self, x_t: Tensor, time: Tensor, condition: Condition, embeddings: Sequence[Tensor], guided: bool
    ) -> Residuals:
        """The sum over all control networks of `network_inputs`; zeros for rows that are not controlled."""
        skipped = len(x_t) // 2 if guided and self.controlled_rows != "both" else 0  # unconditional rows come first
        rows = torch.arange(skipped, len(x_t), device=x_t.device)
        if self._compiled:
            rows = rows[filled_up(len(rows), rows.device)]
        x, times, text, outputs = x_t[rows], time[rows], condition[rows], []
        added = UNetDenoiser(self.backbone.unet).added(x, text, self.backbone.latent_stride)
        for number, (control, embedding) in enumerate(zip(self._networks, embeddings, strict=True)):
            dtype = self.controls[number].dtype
            with _given_embedding(self.controls[number]):
                outputs += [
                    control(
                        x.to(dtype),
                        times,
                        text.hidden.to(dtype),
                        embedding[(rows - skipped) % len(embedding)].to(dtype),
                        self.scales[number],
                        added_cond_kwargs=added,
                        guess_mode=self.controlled_rows == "guess",
                        return_dict=False,
                    )
                ]
        kept = len(x_t) - skipped
        downs = [_summed(parts, x_t, kept) for parts in zip(*(down for down, _ in outputs), strict=True)]
        return downs, _summed([middle for _, middle in outputs], x_t, kept)


def check_control(control: nn.Module, backbone: DiffusionBackbone) -> None:
    """UserError unless a control network fits the denoiser: latent channels, text width, blocks."""
    ours: Any = control.config
    theirs: Any = backbone.unet.config
    if "block_out_channels" not in theirs:
        raise UserError(f"{backbone.name} has no UNet; control networks work with Stable Diffusion 1.x, 2.x and XL")
    for key in ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block"):
        if ours[key] != theirs[key]:
            raise UserError(
                f"the control network's {key} is {ours[key]} and the denoiser's {theirs[key]}; "
                f"use a control network that was made for {backbone.name}"
            )


def _summed(parts: Sequence[Tensor], like: Tensor, kept: int) -> Tensor:
    """The sum of all control networks' residuals in the denoiser's dtype, `kept` rows behind rows of zeros."""
    total = torch.stack(list(parts)).sum(0) if len(parts) > 1 else parts[0]
    rows, zeros = total[:kept].to(like.dtype), len(like) - kept
    return torch.cat([rows.new_zeros(zeros, *rows.shape[1:]), rows]) if zeros else rows


@contextmanager
def _given_embedding(control: Any) -> Iterator[None]:
    """Inside, the control network takes the embedding of the control image in place of the image."""
    layer = control.controlnet_cond_embedding
    control.controlnet_cond_embedding = _AS_IT_IS
    try:
        yield
    finally:
        control.controlnet_cond_embedding = layer
