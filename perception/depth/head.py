"""VPD's depth head (fuse a pyramid at its third level, decode, squash to metres) and the scale-invariant log loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import gcd, inf
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.checks import check_tensor_lists, check_tensors
from perception.errors import UserError
from perception.metrics.depth import check_same_size

_DECONV = {2: (0, 0), 3: (1, 1), 4: (1, 0)}  # kernel -> padding, output padding, so that stride 2 doubles the size


class DepthHead(nn.Module):
    """Pyramid -> depth in metres (Zhao et al. 2023, section 3.3; the decoder is Xiao et al.'s deconvolution head).

    Maps have the strides s, 2s, 4s, 8s, finest first. Fused at stride 4s, doubled by the deconvolutions and then
    bilinearly up to the image's size. Any image size: the fused map is cropped to the ceil(H/4s) x ceil(W/4s) cells
    that hold the image, so padding at the bottom and right costs nothing in the decoder.

    The last step is a sigmoid of depth itself as published, or of its logarithm if there is a `min_depth`: half of the
    range is then the geometric mean. Rooms need the first. Streets, where most is within 10 m of 100, need the second:
    what is far tends to saturate at half of `max_depth` otherwise, where the last ReLUs are all dead.

    Raises:
        UserError: other than four maps, a kernel other than 2, 3, 4, more deconvolutions than the stride allows, or
            depths that are no range.
    """

    def __init__(
        self,
        channels: Sequence[int],  # of the four maps, finest first
        stride: int = 8,  # s: pixels per cell of the finest map
        fusion_channels: int = 1536,  # after the 1x1 convolution over all four maps
        num_filters: Sequence[int] = (32, 32, 32),  # channels after each deconvolution
        deconv_kernels: Sequence[int] = (2, 2, 2),
        decoder_channels: int = 192,  # at full resolution
        max_depth: float = 10.0,  # metres
        min_depth: float | None = None,  # metres, of a sigmoid in log depth; None: in depth, from 0
    ) -> None:
        super().__init__()
        doublings = (4 * stride).bit_length() - 1
        _check(channels, stride, num_filters, deconv_kernels, doublings)
        if not 0 < (max_depth / 2 if min_depth is None else min_depth) < max_depth < inf:
            raise UserError(f"min_depth is {min_depth} and max_depth {max_depth}; expected metres, 0 < min < max")
        fine, middle = channels[0], channels[1]
        self.stride, self.min_depth, self.max_depth = stride, min_depth, max_depth
        self.upsamplings = doublings - len(num_filters)  # bilinear ones
        self.fine = nn.Sequential(_halving(fine), _group_norm(fine), nn.ReLU(), _halving(fine))
        self.middle = _halving(middle)
        self.fusion = nn.Sequential(
            nn.Conv2d(sum(channels), fusion_channels, 1), _group_norm(fusion_channels), nn.ReLU()
        )
        widths = [fusion_channels, *num_filters]
        stages = zip(pairwise(widths), deconv_kernels, strict=True)
        self.deconvolutions = nn.Sequential(*(layer for pair, side in stages for layer in _deconvolution(*pair, side)))
        self.refine = nn.Sequential(
            nn.Conv2d(widths[-1], decoder_channels, 3, padding=1), nn.BatchNorm2d(decoder_channels), nn.ReLU()
        )
        self.last = nn.Sequential(
            nn.Conv2d(decoder_channels, decoder_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(decoder_channels, 1, 3, padding=1),
        )
        self._init_weights()

    def _init_weights(self) -> None:
        """Fusion convolutions N(0, 0.02^2) truncated; decoder N(0, 0.001^2); biases 0, as in the reference."""
        fusing = {id(layer) for part in (self.fine, self.middle, self.fusion) for layer in part.modules()}
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                if id(layer) in fusing:
                    nn.init.trunc_normal_(layer.weight, std=0.02)
                else:
                    nn.init.normal_(layer.weight, std=0.001)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Depth float32 [B, 1, H, W] in metres, in (min_depth or 0, max_depth).

        Args:
            features: four maps of the (padded) image, finest first.
            size: (H, W) of the image before padding, which is at the bottom and right.
        """
        return self.decode(self.fuse(features), size)

    def fuse(self, features: Sequence[Tensor]) -> Tensor:
        """The fused map [B, fusion_channels, h, w] at stride 4s."""
        check_tensor_lists(features=features)
        finest, fine, middle, coarse = features
        upsampled = F.interpolate(coarse, middle.shape[-2:], mode="nearest")
        return self.fusion(torch.cat([self.fine(finest), self.middle(fine), middle, upsampled], dim=1))

    def expand(self, fused: Tensor, size: tuple[int, int]) -> Tensor:
        """The decoded map [B, decoder_channels, H', W'] of a fused one; H' and W' are multiples of 4s, >= size."""
        cells = [-(-side // (4 * self.stride)) for side in size]
        x = self.refine(self.deconvolutions(fused[..., : cells[0], : cells[1]].contiguous()))
        for _ in range(self.upsamplings):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return x

    def decode(self, fused: Tensor, size: tuple[int, int]) -> Tensor:
        """Depth float32 [B, 1, H, W] in metres of a fused map."""
        raw = self.last(self.expand(fused, size))[..., : size[0], : size[1]]
        share = raw.float().sigmoid()
        if self.min_depth is None:
            return self.max_depth * share
        return self.max_depth * (self.min_depth / self.max_depth) ** (1 - share)


def _check(
    channels: Sequence[int], stride: int, num_filters: Sequence[int], kernels: Sequence[int], doublings: int
) -> None:
    if len(channels) != 4:
        raise UserError(f"the depth head fuses 4 maps, finest first, but got channels {tuple(channels)}")
    if stride & (stride - 1) or stride < 1:
        raise UserError(f"the finest map has stride {stride}; the depth head needs a power of two")
    if len(num_filters) != len(kernels) or not num_filters:
        raise UserError(
            f"num_filters {tuple(num_filters)} and deconv_kernels {tuple(kernels)} need one entry per layer"
        )
    if set(kernels) - set(_DECONV):
        raise UserError(f"deconv_kernels is {tuple(kernels)}; choose each from 2, 3 and 4")
    if len(num_filters) > doublings:
        raise UserError(
            f"{len(num_filters)} deconvolutions enlarge {2 ** len(num_filters)} times, but the fused map has stride"
            f" {2**doublings}; use at most {doublings}"
        )


def _halving(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride=2, padding=1)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(16, channels), channels)  # 16 groups in the reference


def _deconvolution(width: int, wider: int, kernel: int) -> tuple[nn.Module, ...]:
    padding, output_padding = _DECONV[kernel]
    layer = nn.ConvTranspose2d(
        width, wider, kernel, stride=2, padding=padding, output_padding=output_padding, bias=False
    )
    return layer, nn.BatchNorm2d(wider), nn.ReLU()


def silog_loss(
    prediction: Tensor,  # metres, positive, [B, 1, H, W] or [B, H, W]
    target: Tensor,  # metres, the same shape; pixels with 0 have no measurement
    *,
    variance_focus: float = 0.5,  # lambda: 0 = root mean square log error, 1 = invariant to scale
    reduction: Literal["batch", "image"] = "batch",  # pool all pixels (VPD), or average the images' losses (mmseg)
) -> Tensor:
    """sqrt(mean d^2 - lambda mean(d)^2), d = ln g - ln p over pixels with g > 0 (Eigen et al. 2014, eq. 4).

    An image without any measurement is left out; if none has one the loss is 0. Predictions below 1e-6 m count as
    1e-6 m, and the root starts at 1e-6, where its slope would be infinite.

    Raises:
        UserError: prediction and target differ in size.
    """
    check_tensors(prediction=prediction, target=target)
    check_same_size(prediction, target)
    valid = (target > 0).flatten(1)
    truth, guess = torch.where(valid, target.flatten(1).float(), 1.0), prediction.flatten(1).float()
    ratio = truth.log() - guess.clamp(min=1e-6).log()  # [B, H*W]
    groups = [ratio[valid]] if reduction == "batch" else [row[kept] for row, kept in zip(ratio, valid, strict=True)]
    squares = [d.square().mean() - variance_focus * d.mean().square() for d in groups if len(d)]
    losses = [square.clamp(min=1e-12).sqrt() for square in squares]
    return torch.stack(losses).mean() if losses else 0.0 * prediction.sum()
