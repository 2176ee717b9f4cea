"""Dense prediction from diffusion backbones: pure torch networks and their predictors."""

from perception.segmentation.vpd import VPD
from perception.segmentation.vpd_taps import vpd_taps

__all__ = ["VPD", "vpd_taps"]
