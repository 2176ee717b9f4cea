"""The diffusion backbone under mmseg: declared channels, the store, and what stays out of checkpoints."""

import copy

import pytest
import torch

from perception.errors import UserError
from perception.training.config.channels import with_channels
from perception.training.models.backbones import DiffusionFeatures
from perception.training.registry import MODELS

TAPS = ("up_blocks.2", "up_blocks.1", "mid_block")


def _images(count=3, seed=0):
    levels = torch.randint(0, 256, (count, 3, 64, 128), generator=torch.Generator().manual_seed(seed))
    return levels / 255


@pytest.fixture
def calls(tiny_sd):
    """Counts the images that VAE and denoiser see; [VAE, denoiser]."""
    counted = [0, 0]
    backbone = DiffusionFeatures(tiny_sd).frozen.backbone
    hooks = [
        backbone.vae.encoder.register_forward_pre_hook(
            lambda module, args: counted.__setitem__(0, counted[0] + len(args[0]))
        ),
        backbone.unet.conv_in.register_forward_pre_hook(
            lambda module, args: counted.__setitem__(1, counted[1] + len(args[0]))
        ),
    ]
    yield counted
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(("aggregate", "times"), [("concat", 2), ("mean", 1)])
def test_declared_channels_and_strides_are_real(tiny_sd, aggregate, times):
    module = DiffusionFeatures(tiny_sd, taps=TAPS, timesteps=(10, 200), aggregate=aggregate)
    maps = module(_images())
    assert [m.shape[1] for m in maps] == list(module.frozen.channels)
    assert [m.shape[1] // times for m in maps] == [module.frozen.backbone.taps[tap].channels for tap in TAPS]
    assert [(64 // m.shape[2], 128 // m.shape[3]) for m in maps] == [(s, s) for s in module.frozen.strides]
    assert all(m.dtype == torch.float32 and m.isfinite().all() for m in maps)


def test_maps_are_the_backbone_features(tiny_sd, tiny_backbone):
    module = DiffusionFeatures(tiny_sd, taps=TAPS, timesteps=(10,))
    wanted = tiny_backbone.features(_images(), module.frozen.spec)
    for tap, got in zip(TAPS, module(_images()), strict=True):
        assert torch.equal(got, wanted[tap])


def test_second_epoch_runs_neither_vae_nor_denoiser(tiny_sd, tmp_path, calls):
    module = DiffusionFeatures(tiny_sd, taps=TAPS, store=str(tmp_path))
    first = module(_images())
    assert calls == [3, 3]
    second = module(_images().flip(0))
    assert calls == [3, 3]
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b.flip(0))
    module.frozen.flush()
    DiffusionFeatures(tiny_sd, taps=TAPS, store=str(tmp_path))(_images())
    assert calls == [3, 3]
    module(_images(1, seed=1))
    assert calls == [4, 4]


def test_frozen_weights_are_no_part_of_the_module(tiny_sd):
    module = DiffusionFeatures(tiny_sd, taps=TAPS)
    assert not module.state_dict()
    assert not list(module.parameters())
    assert copy.deepcopy(module).frozen is module.frozen
    assert not any(p.requires_grad for p in module.frozen.backbone.parameters())
    assert module.train().frozen.backbone.training is False


def test_autocast_changes_nothing(tiny_sd):
    module = DiffusionFeatures(tiny_sd, taps=TAPS)
    plain = module(_images(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = module(_images(1))
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))


def test_random_weights_are_another_backbone(tiny_sd):
    trained, random = (DiffusionFeatures(tiny_sd, taps=TAPS, random_init_seed=seed) for seed in (None, 0))
    assert trained.frozen.channels == random.frozen.channels
    assert trained.frozen.backbone.fingerprint != random.frozen.backbone.fingerprint


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"taps": ["up_block.1"]}, "unknown tap 'up_block.1'; the nearest taps"),
        ({"timesteps": [5000]}, "5000"),
        ({"timesteps": 50}, "timesteps"),
        ({"noise": "some"}, "FeatureSpec.noise is 'some'"),
        ({"taps": ["up_blocks.1.attentions.0.transformer_blocks.0.attn1"]}, "as many channels as the image has cells"),
        ({"aggregate": "stack"}, "needs 'concat' or 'mean'"),
    ],
)
def test_bad_arguments(tiny_sd, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        DiffusionFeatures(tiny_sd, **arguments)


def _segmentor(tiny_sd, **parts):
    norm = {"type": "BN"}
    return {
        "type": "EncoderDecoder",
        "backbone": {"type": "perception.DiffusionFeatures", "name": str(tiny_sd), "taps": list(TAPS)},
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
        **parts,
        "norm": norm,
    }


@pytest.mark.parametrize(
    "parts",
    [
        {
            "neck": {"type": "FPN", "out_channels": 8, "num_outs": 3},
            "decode_head": {"type": "FPNHead", "in_index": [0, 1, 2]},
        },
        {"decode_head": {"type": "FCNHead", "in_index": 1, "num_convs": 1}},
        {"decode_head": {"type": "FCNHead", "num_convs": 1}, "auxiliary_head": {"type": "FCNHead", "in_index": 0}},
        {"decode_head": {"type": "SegformerHead", "in_index": [0, 1, 2]}},
        {"decode_head": {"type": "UPerHead", "in_index": [0, 1, 2], "pool_scales": (1, 2)}},
    ],
)
def test_any_mmseg_head_trains_on_the_maps(tiny_sd, parts):
    for head in ("decode_head", "auxiliary_head"):
        if head in parts:
            parts[head] |= {"channels": 8, "num_classes": 4, "norm_cfg": {"type": "BN"}}
    config = _segmentor(tiny_sd, **parts)
    del config["norm"]
    model = MODELS.build(with_channels(config)).train()
    logits = model(_images(2))
    assert logits.shape[:2] == (2, 4)
    logits.sum().backward()
    trained = [p.grad for n, p in model.named_parameters() if not n.startswith("auxiliary")]
    assert all(g is not None for g in trained)


def test_names_are_found_from_mmseg_registries():
    from mmseg import registry

    assert registry.MODELS.get("perception.DiffusionFeatures") is DiffusionFeatures
    assert registry.DATASETS.get("perception.CamVid").__name__ == "CamVid"
    assert registry.TRANSFORMS.get("perception.FixedCrop").__name__ == "FixedCrop"


def test_channels_that_no_one_tells():
    model = {
        "backbone": {"type": "ResNet", "depth": 18},
        "decode_head": {"type": "FCNHead", "channels": 8, "num_classes": 2},
    }
    with pytest.raises(UserError, match="the backbone ResNet does not tell its channels; write in_channels"):
        with_channels(model)


def test_given_channels_stay():
    model = {"backbone": {"type": "ResNet"}, "decode_head": {"type": "FCNHead", "in_channels": 7}}
    assert with_channels(model) == model
