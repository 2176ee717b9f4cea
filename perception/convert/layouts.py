"""Layouts of the three checkpoints of VPD (Zhao et al. 2023): which name is which part of our networks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from perception.backbones.ldm_names import UNET_PREFIX, unet_ldm_names
from perception.errors import UserError

VAE = "encoder_vq."
# Left behind by the reference: buffers of the noise schedule, and the denoiser's last layers, which VPD never runs.
_JUNK = re.compile(r"(encoder\.)?(sd_model\.\w+|unet\.unet\.diffusion_model\.out\.[02]\.(weight|bias))")
_NEVER_RUN = re.compile(r".*\bunet\.(conv_norm_out|conv_out)\.(weight|bias)")


@dataclass(frozen=True)
class Layout:
    """One task's checkpoint."""

    task: str  # as the command calls it
    sign: str  # a weight that only this task has
    ours: str  # prefix of the VPD in our network
    theirs: str  # prefix of it in the checkpoint
    head: Mapping[str, str]  # prefixes of the head: ours -> theirs

    def names(self, state: Iterable[str]) -> dict[str, str]:
        """Our name -> theirs, for all of our network's names but those of layers that VPD never runs."""
        state = list(state)
        unet = f"{self.ours}unet."
        inner = unet_ldm_names(name.removeprefix(unet) for name in state if name.startswith(unet))
        named = {f"{unet}{name}": f"{self.theirs}{UNET_PREFIX}{ldm}" for name, ldm in inner.items()}
        parts = {
            f"{self.ours}adapter.fc.": f"{self.theirs}text_adapter.fc.",
            f"{self.ours}adapter.gamma": f"{self.theirs}gamma",
            f"{self.ours}conditioning.table": f"{self.theirs}class_embeddings",
            **self.head,
        }
        for name in state:
            prefix = next((prefix for prefix in parts if name.startswith(prefix)), None)
            if prefix is not None:
                named[name] = parts[prefix] + name.removeprefix(prefix)
        return {name: named[name] for name in state if not _NEVER_RUN.fullmatch(name)}


_STAGE = {"0": "conv1_{}", "1": "bn1_{}", "3": "conv2_{}", "4": "bn2_{}"}  # layers of a stage of the referring decoder

LAYOUTS: Mapping[str, Layout] = {
    "vpd-seg": Layout(
        "vpd-seg",
        sign="decode_head.conv_seg.weight",
        ours="backbone.vpd.",
        theirs="",
        head={"neck.": "neck.", "decode_head.": "decode_head."},
    ),
    "vpd-refer": Layout(
        "vpd-refer",
        sign="classifier.conv1_1.weight",
        ours="encoder.",
        theirs="",
        head={
            **{
                f"decoder.stages.{stage}.{layer}.": f"classifier.{name.format(4 - stage)}."
                for stage in range(3)
                for layer, name in _STAGE.items()
            },
            "decoder.classifier.": "classifier.conv1_1.",
        },
    ),
    "vpd-depth": Layout(
        "vpd-depth",
        sign="last_layer_depth.0.weight",
        ours="encoder.",
        theirs="encoder.",
        head={
            "head.fine.": "encoder.layer1.",
            "head.middle.": "encoder.layer2.0.",
            "head.fusion.": "encoder.out_layer.",
            "head.deconvolutions.": "decoder.deconv_layers.",
            "head.refine.": "decoder.conv_layers.",
            "head.last.": "last_layer_depth.",
        },
    ),
}


def check_task(task: str, weights: Mapping[str, Tensor], path: object) -> None:
    """Raise UserError where the weights carry the sign of another task."""
    others = [layout for layout in LAYOUTS.values() if layout.task != task and layout.sign in weights]
    if others and LAYOUTS[task].sign not in weights:
        raise UserError(
            f"{path} is a checkpoint of {others[0].task} (it holds {others[0].sign}), not of {task};"
            f" use `perception convert {others[0].task}`"
        )


def is_junk(name: str) -> bool:
    """Whether a name of the checkpoint is of a tensor that nothing uses."""
    return _JUNK.fullmatch(name) is not None


def size_of(weights: Mapping[str, Tensor], pattern: str, axis: int, default: int) -> int:
    """The most common size along `axis` of the tensors whose whole name matches; `default` where none does.

    One mis-shaped tensor then disagrees with the others, instead of deciding for all.
    """
    sizes = [v.shape[axis] for name, v in weights.items() if v.ndim > axis and re.fullmatch(pattern, name)]
    return Counter(sizes).most_common(1)[0][0] if sizes else default
