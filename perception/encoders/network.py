"""What the networks of all tasks share: an encoder chosen by flat arguments, and a folder they are saved to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import ModelCard
from torch import nn

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.loading.load import load_backbone
from perception.encoders.head_folder import HeadFolder
from perception.encoders.head_rules import check_arguments
from perception.encoders.timm import TimmEncoder
from perception.encoders.vpd.encoder import VPD
from perception.errors import UserError

_CARD = """---
library_name: perception
tags: [{task}]
---
# {name}: {task}

Trained on the backbone `{backbone}` (weights {fingerprint}); what of it is frozen is not part of the weights here.

```python
from {module} import {name}
network = {name}.from_pretrained(FOLDER)
```

{figures}
"""


class TaskNetwork(nn.Module, HeadFolder):
    """A network that is saved as config.json (its constructor's arguments), model.safetensors and a model card.

    A frozen diffusion backbone is not saved; loading checks that the one found has the same fingerprint, and that
    every weight is there.
    """

    task: ClassVar[str]
    encoder: VPD | TimmEncoder
    image_size: tuple[int, int] | None  # height, width of the training images; None: any
    metrics: dict[str, Any]  # of the validation that chose these weights

    @property
    def backbone(self) -> DiffusionBackbone | None:
        """The diffusion model under the encoder; None for an encoder that has none."""
        return getattr(self.encoder, "backbone", None)

    @property
    def vpd(self) -> VPD:
        """The encoder, where it is no control. Raises UserError where it is."""
        if not isinstance(self.encoder, VPD):
            raise UserError("this network is a control without a diffusion model, so it has no latents; call it whole")
        return self.encoder

    def _describe(
        self,
        task: str,
        fingerprint: str | None,  # of the backbone that the weights were trained on; None: they are new
        image_size: Sequence[int] | None,
        metrics: Mapping[str, Any] | None,
    ) -> None:
        """Set what every task has; call it once the encoder is there.

        Raises:
            UserError: the weights are for another task or another backbone.
        """
        if task != self.task:
            raise UserError(f"task is {task!r}, but {type(self).__name__} is for {self.task}; drop the argument")
        backbone = self.backbone
        found = None if backbone is None else backbone.fingerprint
        if fingerprint is not None and fingerprint != found:
            raise UserError(
                f"this {self.task} network was trained on backbone weights {fingerprint}, but "
                f"{getattr(backbone, 'name', 'none')!r} is {found} here; use the same backbone or train again"
            )
        self.fingerprint = found
        self.image_size = None if image_size is None else (int(image_size[0]), int(image_size[1]))
        self.metrics = dict(metrics or {})

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments that make this network again, JSON-ready."""
        known = {
            "task": self.task,
            "backbone_fingerprint": self.fingerprint,
            "image_size": None if self.image_size is None else list(self.image_size),
            "metrics": self.metrics,
        }
        if self.backbone is not None:
            known["backbone"] = self.backbone.name
        arguments: Any = self._hub_mixin_config or {}  # filled by the mixin before __init__
        return {**arguments, **known}

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Write the folder; `image_size` and `metrics` are taken as they are now."""
        return super().save_pretrained(save_directory, **{"config": self.config, **kwargs})

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The README of the folder: usage and the figures of the chosen validation."""
        commit = None if self.backbone is None else self.backbone.revisions.get("backbone")
        names = {
            "task": f"{self.task} estimation" if self.task == "depth" else f"{self.task} segmentation",
            "name": type(self).__name__,
            "module": type(self).__module__,
            "backbone": self.config["backbone"],
            "fingerprint": f"{self.fingerprint}{'' if commit is None else f', commit {commit} of the hub'}",
            "figures": "\n".join(f"- {key}: {value}" for key, value in self.metrics.items()),
        }
        return ModelCard(_CARD.format(**names))

    @classmethod
    def check_config(cls, config: Mapping[str, Any], folder: str | Path) -> None:
        """Raise UserError unless config.json is of this task and holds plain arguments of the constructor alone."""
        where = f"{folder}/config.json"
        if config.get("task") != cls.task:
            found = str(config.get("task") or "semantic segmentation, or of no network of this toolkit")[:80]
            raise UserError(
                f"{folder} is a model for {found}, not for {cls.task}; name a folder of a {cls.task} network"
            )
        if unknown := sorted(set(config) - set(cls._hub_mixin_init_parameters)):
            raise UserError(
                f"{where} holds {', '.join(unknown)[:200]}, which {cls.__name__} does not take; "
                "it was written by another version, so install that one or train again"
            )
        check_arguments(config, where)


def open_backbone(
    backbone: str | DiffusionBackbone,  # a name that load_backbone takes, or a backbone that is loaded
    dtype: str,
    vae: str | None,
    random_init_seed: int | None,
) -> DiffusionBackbone:
    """The backbone itself, or the one of this name, on the CPU."""
    if isinstance(backbone, DiffusionBackbone):
        return backbone
    return load_backbone(backbone, dtype=dtype, device="cpu", vae=vae, random_init_seed=random_init_seed)
