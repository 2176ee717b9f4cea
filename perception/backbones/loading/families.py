"""The kinds of diffusers folders this toolkit drives: what they hold, and how their configs must fit together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Configs = Mapping[str, Mapping[str, Any]]  # component -> its config.json

_VAE = ("AutoencoderKL", "AutoencoderTiny")
_CLIP, _CLIP_PROJECTED, _T5 = ("CLIPTextModel",), ("CLIPTextModelWithProjection",), ("T5EncoderModel",)
_CLIP_TOKENIZER, _T5_TOKENIZER = ("CLIPTokenizer", "CLIPTokenizerFast"), ("T5Tokenizer", "T5TokenizerFast")
LEGACY = "Transformer2DModel"  # what DiT and PixArt transformers were called before diffusers 0.29


@dataclass(frozen=True)
class Family:
    """One kind of model folder."""

    name: str
    title: str  # for error messages
    models: Mapping[str, tuple[str, ...]]  # component -> supported classes; the denoiser comes first
    tokenizers: Mapping[str, tuple[str, ...]]
    optional: tuple[str, ...]  # components that may be absent
    disagreements: Callable[[Configs], list[str]]  # where the configs cannot belong to one model


def class_in(index: Mapping[str, Any], name: str) -> str | None:
    """The class that model_index.json names for a component; diffusers writes [null, null] for an absent one."""
    entry = index.get(name)
    found = entry[-1] if isinstance(entry, list) and entry else None
    return found if isinstance(found, str) else None


def family_of(index: Mapping[str, Any], config: Mapping[str, Any]) -> Family | None:
    """The family of a folder, from its model_index.json and the config of its transformer; None: unsupported."""
    if "unet" in index or "transformer" not in index:
        return FAMILIES["unet"]
    class_name = class_in(index, "transformer")
    if class_name == LEGACY:
        norm = str(config.get("norm_type", ""))
        return FAMILIES.get({"ada_norm_zero": "dit", "ada_norm_single": "pixart"}.get(norm, ""))
    return next((f for f in FAMILIES.values() if class_name in f.models.get("transformer", ())), None)


def _unet(configs: Configs) -> list[str]:
    unet, vae = configs["unet"], configs["vae"]
    found = []
    if unet.get("in_channels") != vae.get("latent_channels"):
        found.append(
            f"the unet takes {unet.get('in_channels')} channels and the vae makes {vae.get('latent_channels')} "
            "(inpainting and image-editing models are not supported)"
        )
    texts = [configs[name] for name in ("text_encoder", "text_encoder_2") if name in configs]
    width = sum(int(text.get("hidden_size", 0)) for text in texts)
    if unet.get("cross_attention_dim") != width:
        found.append(f"the unet attends to text of width {unet.get('cross_attention_dim')}, the encoders give {width}")
    for key in ("encoder_hid_dim_type", "class_embed_type"):
        if unet.get(key) is not None:
            found.append(f"the unet's {key} {unet[key]!r} is not supported")
    return found + _unet_additions(unet, texts)


def _unet_additions(unet: Mapping[str, Any], texts: list[Mapping[str, Any]]) -> list[str]:
    """What enters the time embedding: nothing, or SDXL's pooled text and sizes."""
    embedding = unet.get("addition_embed_type")
    if embedding not in (None, "text_time"):
        return [f"the unet's addition_embed_type {embedding!r} is not supported"]
    if (embedding == "text_time") != (len(texts) == 2):
        return [f"a unet with addition_embed_type {embedding!r} does not go with {len(texts)} text encoders"]
    if embedding == "text_time":
        # pooled text and six size numbers (original, crop, target) enter the time embedding
        inputs = texts[1].get("projection_dim", 0) + 6 * (unet.get("addition_time_embed_dim") or 0)
        if unet.get("projection_class_embeddings_input_dim") != inputs:
            return [
                f"the unet's projection_class_embeddings_input_dim is "
                f"{unet.get('projection_class_embeddings_input_dim')}, text_encoder_2 and six sizes give {inputs}"
            ]
    return []


def _channels(configs: Configs, packed: int = 1, learned_sigma: bool = False) -> list[str]:
    """Input and output channels of the transformer against the latents; `packed` cells make one token's input."""
    transformer, vae = configs["transformer"], configs.get("vae")
    takes, gives = transformer.get("in_channels"), transformer.get("out_channels")
    found = []
    if vae is None and takes not in (1, 3):
        found.append(f"without a vae the transformer must take 1 (grey) or 3 (RGB) channels, not {takes}")
    if vae is not None and takes != packed * vae.get("latent_channels", 0):
        found.append(
            f"the transformer takes {takes} channels and the vae makes {vae.get('latent_channels')}"
            + (f" in {packed} packed cells" if packed > 1 else "")
        )
    allowed = [None, takes] + ([2 * takes] if learned_sigma and takes else [])
    if gives not in allowed:
        found.append(f"the transformer gives {gives} channels, supported is one of {allowed[1:]}")
    return found


def _width(what: str, expected: Any, given: Any) -> list[str]:
    return [] if expected == given else [f"the transformer's {what} is {expected}, the text encoders give {given}"]


def _dit(configs: Configs) -> list[str]:
    return _channels(configs, learned_sigma=True)


def _pixart(configs: Configs) -> list[str]:
    transformer, text = configs["transformer"], configs["text_encoder"]
    return [
        *_channels(configs, learned_sigma=True),
        *_width("caption_channels", transformer.get("caption_channels"), text.get("d_model")),
    ]


def _sd3(configs: Configs) -> list[str]:
    transformer, clips = configs["transformer"], [configs["text_encoder"], configs["text_encoder_2"]]
    found = _channels(configs)
    pooled, width = (sum(int(c.get(key) or 0) for c in clips) for key in ("projection_dim", "hidden_size"))
    found += _width("pooled_projection_dim", transformer.get("pooled_projection_dim"), pooled)
    joint = transformer.get("joint_attention_dim") or 0
    if width > joint:
        found.append(f"the transformer's joint_attention_dim is {joint}, the CLIP text encoders alone give {width}")
    if "text_encoder_3" in configs:
        found += _width("joint_attention_dim", joint, configs["text_encoder_3"].get("d_model"))
    return found


def _flux(configs: Configs) -> list[str]:
    transformer = configs["transformer"]
    return [
        *_channels(configs, packed=4),
        *_width(
            "joint_attention_dim", transformer.get("joint_attention_dim"), configs["text_encoder_2"].get("d_model")
        ),
        *_width(
            "pooled_projection_dim",
            transformer.get("pooled_projection_dim"),
            configs["text_encoder"].get("hidden_size"),
        ),
    ]


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="unet",
            title="Stable Diffusion 1.x, 2.x and XL",
            models={
                "unet": ("UNet2DConditionModel",),
                "vae": _VAE,
                "text_encoder": _CLIP,
                "text_encoder_2": _CLIP_PROJECTED,
            },
            tokenizers={"tokenizer": _CLIP_TOKENIZER, "tokenizer_2": _CLIP_TOKENIZER},
            optional=("text_encoder_2", "tokenizer_2"),  # SDXL has both
            disagreements=_unet,
        ),
        Family(
            name="dit",
            title="DiT",
            models={"transformer": ("DiTTransformer2DModel",), "vae": _VAE},
            tokenizers={},
            optional=("vae",),  # without: pixel space
            disagreements=_dit,
        ),
        Family(
            name="pixart",
            title="PixArt-alpha and -sigma",
            models={"transformer": ("PixArtTransformer2DModel",), "vae": _VAE, "text_encoder": _T5},
            tokenizers={"tokenizer": _T5_TOKENIZER},
            optional=(),
            disagreements=_pixart,
        ),
        Family(
            name="sd3",
            title="Stable Diffusion 3 and 3.5",
            models={
                "transformer": ("SD3Transformer2DModel",),
                "vae": _VAE,
                "text_encoder": _CLIP_PROJECTED,
                "text_encoder_2": _CLIP_PROJECTED,
                "text_encoder_3": _T5,
            },
            tokenizers={"tokenizer": _CLIP_TOKENIZER, "tokenizer_2": _CLIP_TOKENIZER, "tokenizer_3": _T5_TOKENIZER},
            optional=("text_encoder_3", "tokenizer_3"),  # saves 9 GB; zeros stand for its tokens
            disagreements=_sd3,
        ),
        Family(
            name="flux",
            title="Flux",
            models={
                "transformer": ("FluxTransformer2DModel",),
                "vae": _VAE,
                "text_encoder": _CLIP,
                "text_encoder_2": _T5,
            },
            tokenizers={"tokenizer": _CLIP_TOKENIZER, "tokenizer_2": _T5_TOKENIZER},
            optional=(),
            disagreements=_flux,
        ),
    )
}
AUTOENCODERS = _VAE
DENOISERS = tuple(next(iter(family.models.values()))[0] for family in FAMILIES.values())
