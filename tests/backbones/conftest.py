"""Images that the tests of this folder share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Three images [3, 3, 64, 72] in [0, 1]; the width is a multiple of 8 but not of 64."""
    return torch.rand(3, 3, 64, 72, generator=torch.Generator().manual_seed(0))
