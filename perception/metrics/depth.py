"""Monocular depth: the nine figures of the NYUv2 benchmark (Eigen et al. 2014), averaged over images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perception.checks import check_tensors
from perception.errors import UserError

NAMES = ("d1", "d2", "d3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog")
NYU_CROP = (45, 471, 41, 601)  # rows 45..470, columns 41..600 of 480 x 640 pixels (Eigen et al. 2014)

Crop = tuple[int, int, int, int]


@dataclass(frozen=True)
class DepthMetrics:
    """Sums over images of nine figures, each a mean over the image's valid pixels; states add up.

    d1, d2, d3: share of pixels with max(g/p, p/g) below 1.25, 1.25^2, 1.25^3. abs_rel = mean |p-g|/g; sq_rel =
    mean (p-g)^2/g [m]; rmse [m]; rmse_log = sqrt(mean e^2) and silog = sqrt(mean e^2 - 0.5 mean(e)^2) with
    e = ln p - ln g; log10 = mean |log10 p - log10 g|.
    """

    sums: Tensor  # float64 [9], in the order of NAMES
    images: int  # with at least one valid pixel
    pixels: int  # valid ones

    @classmethod
    def empty(cls) -> DepthMetrics:
        """The neutral element of the addition."""
        return cls(torch.zeros(len(NAMES), dtype=torch.float64), 0, 0)

    @classmethod
    def of(
        cls,
        prediction: Tensor,  # metres, [H, W] or [B, H, W] or [B, 1, H, W]
        target: Tensor,  # metres, the same shape; 0 = no measurement
        *,
        min_depth: float = 1e-3,  # metres; pixels with min_depth < target < max_depth are valid
        max_depth: float = 10.0,  # metres
        crop: Crop | None = None,  # first row, end row, first column, end column of the pixels that count
    ) -> DepthMetrics:
        """Figures of some images; one without a valid pixel is not counted.

        A prediction that is infinite counts as `max_depth`, one that is NaN as `min_depth`; others are not clamped.

        Raises:
            UserError: shapes differ.
        """
        check_same_size(prediction, target)
        total = cls.empty()
        rows = zip(*(x.detach().reshape(-1, *x.shape[-2:]) for x in (prediction, target)), strict=True)
        for guess, truth in rows:
            valid = valid_pixels(truth, min_depth, max_depth, crop)
            if valid.any():
                seen = guess[valid].double().nan_to_num(nan=min_depth, posinf=max_depth, neginf=max_depth)
                total = total + cls(_figures(seen, truth[valid].double()).cpu(), 1, int(valid.sum()))
        return total

    def __add__(self, other: DepthMetrics) -> DepthMetrics:
        return DepthMetrics(self.sums + other.sums, self.images + other.images, self.pixels + other.pixels)

    @property
    def values(self) -> dict[str, float]:
        """Mean over the images of each figure, by name; NaN without an image."""
        count = self.images or float("nan")
        return {name: value / count for name, value in zip(NAMES, self.sums.tolist(), strict=True)}

    def report(self) -> dict[str, Any]:
        """JSON-ready `values`, rounded to 6 digits (None without an image), and the number of images and pixels."""
        figures = {name: round(value, 6) if value == value else None for name, value in self.values.items()}
        return {**figures, "images": self.images, "pixels": self.pixels}


def valid_pixels(target: Tensor, min_depth: float = 1e-3, max_depth: float = 10.0, crop: Crop | None = None) -> Tensor:
    """Bool mask of the pixels [H, W] that count: depth strictly between the bounds [m], inside the crop."""
    valid = (target > min_depth) & (target < max_depth)
    if crop is None:
        return valid
    top, bottom, left, right = crop
    inside = torch.zeros_like(valid)
    inside[..., top:bottom, left:right] = True
    return valid & inside


def check_same_size(prediction: Tensor, target: Tensor) -> None:
    """Raise UserError unless predicted and true depth maps have one shape."""
    check_tensors(prediction=prediction, target=target)
    if prediction.shape != target.shape:
        raise UserError(
            f"the predicted depth has shape {tuple(prediction.shape)} but the target {tuple(target.shape)};"
            " resize the target with nearest neighbours, or the image with it"
        )


def _figures(p: Tensor, g: Tensor) -> Tensor:
    """The nine figures [9] of prediction p and ground truth g, float64 vectors of valid pixels."""
    ratio = torch.maximum(g / p, p / g)
    e = p.log() - g.log()
    square = (p - g).square()
    return torch.stack(
        [
            *((ratio < 1.25**power).double().mean() for power in (1, 2, 3)),
            ((p - g).abs() / g).mean(),
            (square / g).mean(),
            square.mean().sqrt(),
            e.square().mean().sqrt(),
            (p.log10() - g.log10()).abs().mean(),
            (e.square().mean() - 0.5 * e.mean().square()).sqrt(),
        ]
    )
