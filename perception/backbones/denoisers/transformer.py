"""What the denoisers made of transformer blocks have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from perception.backbones.conditioning.condition import Condition
from perception.backbones.denoisers.base import height_and_width
from perception.backbones.spec import TapKind
from perception.errors import UserError

Adapter = TypeVar("Adapter", bound="TransformerDenoiser")


class TransformerDenoiser(ABC):
    """Adapter of a diffusers transformer that works on patches of the latent in raster order.

    The adapters of the families say how the transformer is called and where it is tapped.
    """

    module: Any
    patch: int  # cells per side of a token

    def __init__(self, transformer: nn.Module) -> None:
        self.module = transformer
        config: Any = transformer.config
        self.config = config
        self.latent_channels: int = config["in_channels"]
        self.training_size = height_and_width(config.get("sample_size"))
        self.patch = config["patch_size"]
        self.text_width: int = 0

    @abstractmethod
    def __call__(self, x_t: Tensor, model_time: Tensor, condition: Condition, stride: int) -> Tensor:
        """Raw prediction, see `Denoiser`."""

    def skeleton(self: Adapter) -> Adapter:
        """The same transformer on the meta device."""
        with torch.device("meta"):
            return type(self)(type(self.module).from_config(self.config))

    def check_size(self, height: int, width: int) -> None:
        """Sides that the patches divide."""
        if height % self.patch or width % self.patch:
            raise UserError(
                f"latents of {height}x{width} cells do not fit this transformer, whose patches are {self.patch} cells "
                f"wide; resize or crop the images so that both sides are multiples of {self.patch} cells"
            )

    def image_tokens(self, height: int, width: int) -> int:
        """One per patch."""
        return (height // self.patch) * (width // self.patch)

    def tap_modules(self) -> Mapping[str, tuple[nn.Module, TapKind]]:
        """Every block, and the attentions inside it that have maps of their own."""
        found: dict[str, tuple[nn.Module, TapKind]] = {}
        for i, block in enumerate(self.module.transformer_blocks):
            name = f"transformer_blocks.{i}"
            found |= {f"{name}.{part}": tapped for part, tapped in self.attentions_of(block).items()}
            found[name] = (block, "transformer_block")
        return found

    def attentions_of(self, block: Any) -> dict[str, tuple[nn.Module, TapKind]]:
        """The tappable attentions of a block in order of execution; none where text and image attend jointly."""
        return {}

    def feature_of(self, output: Any) -> Tensor:
        """Tokens [B, N, C]; joint blocks return (text tokens, image tokens)."""
        return output[-1] if isinstance(output, tuple) else output

    def final_modules(self) -> list[nn.Module]:
        """The final norm and projection."""
        return [self.module.norm_out, self.module.proj_out]

    def query_modules(self) -> list[nn.Module]:
        """None: every query also meets image tokens, or a mask."""
        return []

    def zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor for `probe`, on the device of the module."""
        return torch.zeros(*shape, dtype=dtype, device=next(self.module.parameters()).device)
