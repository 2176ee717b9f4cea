"""Dense prediction from diffusion backbones: pure torch networks and their predictors."""

from perception.segmentation.vpd import VPD
from perception.segmentation.vpd_stored import StoredVPD
from perception.segmentation.vpd_taps import vpd_taps

__all__ = ["VPD", "StoredVPD", "vpd_taps"]
