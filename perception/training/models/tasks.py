"""mmengine models over the pure networks: what a batch of data samples is told, loses and predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from perception.depth import DepthNet, silog_loss
from perception.depth.windows import averaged_depth
from perception.encoders.network import TaskNetwork
from perception.encoders.vpd.encoder import VPD
from perception.segmentation.referring import ReferringNet, referring_loss
from perception.training.config.check import find_type
from perception.training.models.features import StoredFeatures, open_store
from perception.training.models.frozen import shared_backbone
from perception.training.registry import MODELS

Samples = Sequence[SegDataSample]


class TaskModel(BaseModel):
    """A `TaskNetwork` with the features of its frozen backbone behind a store, where one is named."""

    def __init__(
        self,
        network: dict[str, Any],  # type (ReferringNet, DepthNet) and its arguments
        data_preprocessor: dict[str, Any] | None,
        store: str | None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.network = build_network(network)
        encoder = self.network.encoder
        self._features = StoredFeatures(encoder, open_store(store)) if isinstance(encoder, VPD) else None

    def features(self, images: Tensor, given: Sequence[Any] | None) -> tuple[Tensor, ...]:
        """The encoder's maps of images [B, 3, H, W] in [0, 1], from the store where it has them."""
        if self._features is None:
            return self.network.encoder(images, given)
        return self._features(images, given)

    def flush_store(self) -> None:
        """Write what the store still holds in memory."""
        if self._features is not None:
            self._features.flush()


@MODELS.register_module()
class ReferringSegmentor(TaskModel):
    """`ReferringNet` under mmengine; data samples hold `sentence` and the mask `gt_sem_seg` (0, 1)."""

    network: ReferringNet

    def __init__(
        self,
        network: dict[str, Any],  # type ReferringNet and its arguments
        weights: Sequence[float] = (0.9, 1.1),  # of background and foreground in the loss
        store: str | None = None,  # folder of computed features or latents
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(network, data_preprocessor, store)
        self.weights = (weights[0], weights[1])

    def forward(self, inputs: Tensor, data_samples: Samples = (), mode: Literal["loss", "predict"] = "loss") -> Any:
        """Loss by name, or the data samples with `pred_sem_seg` [1, H, W] at the size of their masks."""
        maps = self.features(inputs, [sample.sentence for sample in data_samples])
        logits = self.network.decode(maps, (inputs.shape[-2], inputs.shape[-1]))
        if mode == "loss":
            target = torch.cat([sample.gt_sem_seg.data for sample in data_samples])
            return {"loss": referring_loss(logits, target, self.weights)}
        for row, sample in zip(logits, data_samples, strict=True):
            size = sample.gt_sem_seg.shape if "gt_sem_seg" in sample else sample.ori_shape
            mask = resized(row[None], size).argmax(1)  # [1, H, W]
            sample.pred_sem_seg = PixelData(data=mask)
        return list(data_samples)


@MODELS.register_module()
class DepthEstimator(TaskModel):
    """`DepthNet` under mmengine; data samples hold `gt_depth_map` [metres] and perhaps `given`, such as a room id."""

    network: DepthNet

    def __init__(
        self,
        network: dict[str, Any],  # type DepthNet and its arguments
        reduction: Literal["batch", "image"] = "batch",  # of the loss: pool the pixels, or average over images
        windows: int | None = None,  # in tests: square windows along the longer side; None: the whole image
        flip: bool = False,  # in tests: average with the mirror image
        store: str | None = None,  # folder of computed features or latents
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(network, data_preprocessor, store)
        self.reduction: Literal["batch", "image"] = reduction
        self.windows, self.flip = windows, flip

    def forward(self, inputs: Tensor, data_samples: Samples = (), mode: Literal["loss", "predict"] = "loss") -> Any:
        """Loss by name, or the data samples with `pred_depth_map` [1, H, W] in metres at the size of their maps."""
        given = [sample.given for sample in data_samples] if data_samples and "given" in data_samples[0] else None
        if mode == "loss":
            target = torch.stack([sample.gt_depth_map.data for sample in data_samples])
            return {"loss": silog_loss(self.depth(inputs, given), target, reduction=self.reduction)}
        depth = averaged_depth(self.depth, inputs, given, windows=self.windows, flip=self.flip)
        for row, sample in zip(depth, data_samples, strict=True):
            size = sample.gt_depth_map.shape if "gt_depth_map" in sample else sample.ori_shape
            sample.pred_depth_map = PixelData(data=resized(row[None], size)[0])
        return list(data_samples)

    def depth(self, images: Tensor, given: Sequence[Any] | None = None) -> Tensor:
        """Depth float32 [B, 1, H, W] in metres; see `DepthNet.forward`."""
        padded = self.network.pad(images)
        maps = self.network.with_side(padded, self.features(padded, given))
        return self.network.decode(maps, (images.shape[-2], images.shape[-1]))


def build_network(network: dict[str, Any]) -> TaskNetwork:
    """The network of a config; a backbone that stays frozen is the process's shared one.

    Raises:
        UserError: whatever the network raises.
    """
    arguments = dict(network)
    kind = arguments.pop("type")
    target: Any = find_type(kind) if isinstance(kind, str) else kind
    if arguments.get("train", "head") in ("head", "text"):
        chosen = (arguments.get(key) for key in ("random_init_seed", "vae"))
        name, dtype = arguments.get("backbone", "mini"), arguments.get("dtype", "float32")
        arguments["backbone"] = shared_backbone(str(name), dtype, *chosen)
    return target(**arguments)


def resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, h, w] -> [B, C, H, W], bilinear; the same where the size is right."""
    if values.shape[-2:] == tuple(size):
        return values
    return nn.functional.interpolate(values, tuple(size), mode="bilinear", align_corners=False)
