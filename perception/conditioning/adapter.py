"""The text adapter of VPD: a small residual correction of the text embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perception.checks import check_tensors
from perception.errors import UserError


class TextAdapter(nn.Module):
    """t' = t + gamma * fc(t), fc = Linear, GELU (erf), Linear (Zhao et al. 2023, arXiv 2303.02153, section 3.2).

    gamma starts at 1e-4 in every channel, so a new adapter hardly changes the text.
    """

    def __init__(
        self,
        width: int,  # channels of the text tokens
        hidden: int | None = None,  # channels between the two layers; None: `width`
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("hidden", width if hidden is None else hidden)):
            if value < 1:
                raise UserError(f"the {name} of the text adapter is {value}; expected at least 1")
        self.width = width
        self.fc = nn.Sequential(nn.Linear(width, hidden or width), nn.GELU(), nn.Linear(hidden or width, width))
        self.gamma = nn.Parameter(torch.full((width,), 1e-4))

    def forward(self, tokens: Tensor) -> Tensor:
        """Text tokens [..., D] -> corrected tokens [..., D]."""
        check_tensors(tokens=tokens)
        return tokens + self.gamma * self.fc(tokens)
