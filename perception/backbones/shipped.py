"""The backbones that come with the package."""

from __future__ import annotations

from pathlib import Path

MINI = Path(__file__).parent / "mini"
MINI_DIT = Path(__file__).parent / "mini-dit"
SHIPPED = {"mini": MINI, "mini-dit": MINI_DIT}
