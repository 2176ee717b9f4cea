"""Monocular depth from a diffusion backbone: VPD's network, its loss and its test-time windows."""

from perception.depth.head import DepthHead, silog_loss
from perception.depth.net import DepthNet
from perception.depth.windows import shift_window_flip

__all__ = ["DepthHead", "DepthNet", "shift_window_flip", "silog_loss"]
