"""Reference to a backbone that keeps its weights out of `state_dict()` and `parameters()`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone


class SharedBackbone:
    """A frozen backbone that is shared, not copied and not saved, by the modules that use it.

    An attribute of this type keeps the backbone out of `parameters()` and `state_dict()`; a deep copy of the module
    (such as its EMA) shares the backbone.
    """

    def __init__(self, backbone: DiffusionBackbone) -> None:
        self.backbone = backbone

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow the module to another device (`nn.Module._apply`); the backbone's dtype stays as chosen."""
        device = fn(torch.empty(0)).device
        if device != self.backbone.device:
            self.backbone.to(device)

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedBackbone:
        return self


class OwnedBackbone(SharedBackbone):
    """A backbone whose denoiser belongs to one module: a deep copy copies the denoiser and shares all the rest."""

    def __deepcopy__(self, memo: dict[int, Any]) -> OwnedBackbone:
        encoders = [module for name, module in self.backbone.named_children() if name != "unet"]
        memo.update({id(module): module for module in encoders})
        return OwnedBackbone(copy.deepcopy(self.backbone, memo))
