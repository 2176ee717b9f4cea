"""What of a VPD network is trained: weights of the denoiser, or LoRA beside them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from perception.backbones.backbone import DiffusionBackbone
from perception.errors import UserError


def unlock_denoiser(backbone: DiffusionBackbone, single_token: bool) -> nn.Module:
    """Let gradients into the denoiser, and return it; what cannot influence the features stays frozen.

    Args:
        backbone: its `unet` is changed.
        single_token: the text is one token and no map is read, so that queries and keys do nothing.
    """
    backbone.unet.requires_grad_(True)
    for module in backbone.idle_modules(single_token):
        module.requires_grad_(False)
    return backbone.unet


def add_lora(backbone: DiffusionBackbone, rank: int, single_token: bool) -> nn.Module:
    """Low-rank updates W + B A of all attention projections (Hu et al. 2021, arXiv 2106.09685); B starts at zero.

    Returns:
        A module that holds the new layers alone, under the names of the layers that they update.

    Raises:
        UserError: peft is not installed, or a rank below 1.
    """
    if rank < 1:
        raise UserError(f"lora_rank is {rank}; expected at least 1, usually 4 to 64")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("train='lora' needs the package peft; install it with pip install peft") from error
    idle = {id(module) for module in backbone.idle_modules(single_token)}
    targets = [
        name
        for name, module in backbone.unet.named_modules()
        if name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")) and id(module) not in idle
    ]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)  # alpha = rank: the update is B A itself
    inject_adapter_in_model(config, backbone.unet)
    layers = {
        name: module
        for name, module in backbone.unet.named_modules()
        if name.rpartition(".")[2] in ("lora_A", "lora_B") and any(p.requires_grad for p in module.parameters())
    }
    tree = nn.Module()
    for name, module in layers.items():
        _plant(tree, name.split("."), module)
    return tree


def _plant(tree: nn.Module, path: Sequence[str], module: nn.Module) -> None:
    for part in path[:-1]:
        if part not in dict(tree.named_children()):
            tree.add_module(part, nn.Module())
        tree = tree.get_submodule(part)
    tree.add_module(path[-1], module)
