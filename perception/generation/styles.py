"""The parts of the style swap: control networks for any vocabulary, and a backbone with another denoiser."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.denoisers.unet import UNetDenoiser
from perception.backbones.loading.build import build_model, check_skeleton
from perception.backbones.loading.folder import read_component, unusable
from perception.backbones.loading.hub import download, is_hub_id
from perception.backbones.shipped import MINI
from perception.errors import UserError
from perception.generation.control import check_control

SHIPPED = ("mini-control", "mini-source")  # control by Cityscapes labels for `mini`, and its source-style denoiser


def new_control(
    backbone: DiffusionBackbone,
    channels: int,  # of the control image: classes + 1 for label maps
    embedding_channels: tuple[int, ...] = (16, 32, 96, 256),  # of the conditioning embedding
) -> Any:
    """An untrained `diffusers.ControlNetModel` whose trunk is a copy of the backbone's denoiser, float32, trainable.

    The projections of its residuals are zero, so it changes nothing yet (Zhang et al. 2023, section 3.1). The trunk
    should be the source-style denoiser (`with_denoiser`), so that only the layout is left to learn.
    """
    from diffusers import ControlNetModel

    with torch.random.fork_rng(devices=[]):  # from_unet draws the embedding's weights from the global generator
        torch.default_generator.manual_seed(0)
        control: Any = ControlNetModel.from_unet(
            backbone.unet, conditioning_channels=channels, conditioning_embedding_out_channels=embedding_channels
        )
    return control.float().to(backbone.device).requires_grad_(True)


def load_control(name: str | Path, backbone: DiffusionBackbone) -> Any:
    """A trained `diffusers.ControlNetModel` of a folder, the hub or the package: frozen, on the backbone's device.

    Raises:
        UserError: the folder is incomplete, weights are missing, unexpected or mis-shaped, or it does not fit.
    """
    control = _load(name, "ControlNetModel", "controlnet", backbone.dtype)
    check_control(control, backbone)
    return control.requires_grad_(False).eval().to(backbone.device)


def with_denoiser(backbone: DiffusionBackbone, unet: nn.Module | str | Path) -> DiffusionBackbone:
    """The same VAE, text encoders and schedule (shared, not copied) around another UNet: U^S for U^P or back.

    Raises:
        UserError: a folder that is incomplete, or a UNet of another architecture.
    """
    name = backbone.name if isinstance(unet, nn.Module) else str(unet)
    module: Any = unet if isinstance(unet, nn.Module) else _load(unet, "UNet2DConditionModel", "unet", backbone.dtype)
    base: Any = backbone
    for key in ("in_channels", "cross_attention_dim", "block_out_channels"):
        if module.config[key] != base.unet.config[key]:
            raise UserError(
                f"the denoiser {name} has {key} {module.config[key]} and {backbone.name} {base.unet.config[key]}; "
                "use a UNet fine-tuned from this backbone's own"
            )
    return DiffusionBackbone(
        name=name,
        identity=f"{backbone.fingerprint}/{weights_fingerprint(module)}",
        denoiser=UNetDenoiser(_placed(module, backbone)),
        vae=backbone.vae,
        conditioner=backbone.conditioner,
        path=backbone.noise_path,
        micro_batch=backbone.micro_batch,
    )


def weights_fingerprint(module: nn.Module) -> str:
    """16 hex digits that name the weights and the class of a module."""
    digest = hashlib.sha256(type(module).__name__.encode())
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key}\0{list(value.shape)}\0{value.dtype}\0".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()[:16]


def _placed(module: Any, backbone: DiffusionBackbone) -> Any:
    """On the backbone's device and in its dtype; diffusers warns of a cast, even of one that changes nothing."""
    cast = module if module.dtype == backbone.dtype else module.to(backbone.dtype)
    return cast.to(backbone.device)


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _load(name: str | Path, class_name: str, place: str, dtype: torch.dtype) -> nn.Module:
    folder = network_folder(name)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} has no config.json, so it is not the folder of a diffusers model; "
            "pass the folder that save_pretrained wrote"
        )
    problems: list[str] = []
    part = read_component(folder, place, problems, supported=(class_name,))
    if problems:
        raise unusable(folder, problems)
    if str(name) not in SHIPPED:
        check_skeleton(place, part)
    with torch.random.fork_rng(devices=[]):
        return build_model(place, part, dtype, None)


def network_folder(name: str | Path) -> Path:
    """Where a network lies: shipped with the package (`SHIPPED`), on disk, or fetched from the hub."""
    if str(name) in SHIPPED:
        return MINI.with_name(str(name))
    return download(str(name)) if is_hub_id(name) else Path(name).expanduser()
