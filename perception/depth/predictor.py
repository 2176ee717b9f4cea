"""Images in, depth maps out.

metres = DepthPredictor(network)(image)                     # PIL image -> float32 [H, W]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from perception.checks import check_picture
from perception.data.images import MIN_SIDE, image_tensor
from perception.depth.net import DepthNet
from perception.depth.windows import averaged_depth
from perception.errors import UserError

Size = tuple[int, int]  # height, width in pixels


class DepthPredictor:
    """A depth network for images of any size.

    The published test on NYUv2 (VPD, section 4.3) is `size=(480, 640), windows=2, flip=True`.

    Raises:
        UserError: a size or number of windows below the least, and what loading a folder raises.
    """

    def __init__(
        self,
        model: DepthNet | str | Path,  # or its folder
        size: Size | None = None,  # the network sees; None: see `seen_size`
        device: torch.device | str = "cpu",
        windows: int = 0,  # mean over so many squares of the shorter side; 0: the whole image at once
        flip: bool = False,  # mean with the mirror image
    ) -> None:
        if size is not None and min(size) < MIN_SIDE:
            raise UserError(f"size {size[0]}x{size[1]} is too small; at least {MIN_SIDE}x{MIN_SIDE} pixels are needed.")
        if windows < 0:
            raise UserError(f"windows is {windows}; expected 0 (the whole image at once) or a number of squares.")
        network = model if isinstance(model, DepthNet) else DepthNet.from_pretrained(model)
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.size = size
        self.windows, self.flip = windows, flip

    def seen_size(self, image: Image.Image) -> Size:
        """Height and width in which the network sees an image.

        Without a `size` the shorter side is that of its training, and the aspect ratio stays: networks are trained on
        crops, and metres depend on how large a thing appears. A network for any size sees the image as it is.
        """
        check_picture(image)
        if self.size is not None or self.network.image_size is None:
            return self.size or (image.height, image.width)
        scale = min(self.network.image_size) / min(image.size)
        return round(image.height * scale), round(image.width * scale)

    @torch.no_grad()
    def __call__(self, image: Image.Image, given: Any = None) -> np.ndarray:
        """Depth float32 [H, W] in metres, at the image's own size.

        Args:
            image: any mode, any size.
            given: what the network is told of this image: a room id, a caption, or nothing.
        """
        size = self.seen_size(image)
        pixels = image_tensor(image.convert("RGB"), size, fit="squash", interpolation="bilinear")[None]
        told = None if given is None else [given]
        depth = averaged_depth(self.network, pixels.to(self.device), told, windows=self.windows, flip=self.flip)
        if depth.shape[-2:] != (image.height, image.width):
            depth = F.interpolate(depth, (image.height, image.width), mode="bilinear")
        return depth[0, 0].cpu().numpy()
