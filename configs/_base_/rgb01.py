"""Pictures as the diffusion models take them: RGB in [0, 1]. A model adds how they are padded."""

from mmseg.models import SegDataPreProcessor

rgb01 = {
    "type": SegDataPreProcessor,
    "mean": [0.0, 0.0, 0.0],
    "std": [255.0, 255.0, 255.0],
    "bgr_to_rgb": True,
}
