"""Monocular depth from a diffusion backbone: VPD's fusion head, its loss and its test-time windows."""

from perception.depth.head import DepthHead
from perception.depth.loss import silog_loss
from perception.depth.windows import shift_window_flip

__all__ = ["DepthHead", "shift_window_flip", "silog_loss"]
