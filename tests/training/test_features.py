"""VPD under mmseg: declared channels, what is trained and saved, the conditionings, the store."""

import copy

import pytest
import torch

from perception.errors import UserError
from perception.training.config.channels import with_channels
from perception.training.models.features import VPDFeatures
from perception.training.models.frozen import shared_backbone
from perception.training.registry import MODELS

NAMES = ("road", "sky", "car")


def _images(count=2, seed=0):
    return torch.randint(0, 256, (count, 3, 64, 128), generator=torch.Generator().manual_seed(seed)) / 255


@pytest.fixture
def calls(tiny_sd):
    """Counts the images that VAE and denoiser of the shared backbone see; [VAE, denoiser]."""
    counted = [0, 0]
    backbone = shared_backbone(str(tiny_sd), "float32", None, None)

    def counter(place):
        return lambda module, args: counted.__setitem__(place, counted[place] + len(args[0]))

    hooks = [
        backbone.vae.encoder.register_forward_pre_hook(counter(0)),
        backbone.unet.conv_in.register_forward_pre_hook(counter(1)),
    ]
    yield counted
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"conditioning": "class_names", "names": NAMES}, 3),
        ({"conditioning": "class_names", "names": "perception.CamVid"}, 11),
        ({"conditioning": "learned", "names": NAMES}, 3),
        ({"conditioning": "learned", "tokens": 5}, 5),
        ({"conditioning": "empty", "length": 4}, 4),
        ({"conditioning": "empty", "map_strides": ()}, 0),
    ],
)
def test_declared_channels_are_real(tiny_sd, options, tokens):
    module = VPDFeatures(tiny_sd, **options)
    maps = module(_images())
    assert tuple(m.shape[1] for m in maps) == module.channels
    assert module.channels[1] - VPDFeatures(tiny_sd, names=NAMES, map_strides=()).channels[1] == tokens
    assert tuple(64 // m.shape[2] for m in maps) == module.strides == (8, 16, 32, 64)
    assert all(m.isfinite().all() for m in maps)


@pytest.mark.parametrize(
    ("options", "trained", "saved"),
    [
        ({"train": "head"}, set(), {"conditioning.table"}),
        ({"train": "text", "adapter": True}, {"adapter"}, {"adapter", "conditioning.table"}),
        ({"train": "denoiser"}, {"unet"}, {"unet", "conditioning.table"}),
        ({"train": "lora"}, {"lora"}, {"lora", "conditioning.table"}),
    ],
)
def test_what_is_trained_and_what_is_saved(tiny_sd, options, trained, saved):
    module = VPDFeatures(tiny_sd, names=NAMES, **options)
    learned = {name.removeprefix("vpd.") for name, p in module.named_parameters() if p.requires_grad}
    assert {part for part in trained if any(name.startswith(part) for name in learned)} == trained
    assert all(name.startswith(tuple(trained)) for name in learned)
    kept = {name.removeprefix("vpd.") for name in module.state_dict()}
    assert all(any(name.startswith(part) for name in kept) for part in saved)
    assert all(name.startswith(tuple(saved)) for name in kept)
    shared = shared_backbone(str(tiny_sd), "float32", None, None)
    assert not any(p.requires_grad for p in shared.parameters())  # training took a backbone of its own
    assert module.fingerprint == shared.fingerprint
    if trained:
        sum(m.sum() for m in module.train()(_images(1))).backward()
        assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


def test_second_epoch_runs_neither_vae_nor_denoiser(tiny_sd, tmp_path, calls):
    module = VPDFeatures(tiny_sd, names=NAMES, store=str(tmp_path))
    first = module(_images())
    assert calls == [2, 2]
    again = module(_images())
    assert calls == [2, 2]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    module.flush_store()
    VPDFeatures(tiny_sd, names=NAMES, store=str(tmp_path))(_images())
    assert calls == [2, 2]
    VPDFeatures(tiny_sd, names=NAMES[:2], store=str(tmp_path))(_images())  # other text: the latents are there
    assert calls == [2, 4]


def test_text_training_stores_latents(tiny_sd, tmp_path, calls):
    module = VPDFeatures(tiny_sd, names=NAMES, adapter=True, train="text", store=str(tmp_path)).train()
    for _ in range(2):
        sum(m.sum() for m in module(_images())).backward()
    assert calls == [2, 4]


def test_standardized_maps_weigh_the_same(tiny_sd):
    module = VPDFeatures(tiny_sd, names=NAMES, standardize=True).train()
    for value in module(_images(4)):
        assert value.mean((0, 2, 3)).abs().max() < 1e-4
        assert value.var((0, 2, 3), unbiased=False).median() == pytest.approx(1, abs=0.05)
    assert not list(module.parameters())


def test_a_side_network_is_trained_beside_the_stored_features(tiny_sd, tmp_path, calls):
    options = {"names": NAMES, "standardize": True, "store": str(tmp_path)}
    module = VPDFeatures(tiny_sd, **options, side="resnet18").train()
    plain = VPDFeatures(tiny_sd, **options)
    assert module.strides == (4, *plain.strides)
    assert [a - b for a, b in zip(module.channels, (0, *plain.channels), strict=True)] == [64, 128, 256, 0, 0]
    for _ in range(2):
        maps = module(_images())
        assert tuple(value.shape[1] for value in maps) == module.channels
        sum(value.sum() for value in maps).backward()
    assert calls == [2, 2]
    module.flush_store()
    module.side.drop = 0.0
    for before, value in zip(plain.train()(_images()), module(_images())[1:], strict=True):
        assert torch.equal(before, value[:, : before.shape[1]])
    assert all(name.startswith("side.") and p.grad is not None for name, p in module.named_parameters())


def test_copies_share_the_frozen_backbone(tiny_sd, tmp_path):
    module = VPDFeatures(tiny_sd, names=NAMES, adapter=True, train="text", store=str(tmp_path))
    twin = copy.deepcopy(module)
    assert twin.vpd.backbone is module.vpd.backbone
    assert twin.features.vpd is twin.vpd
    assert twin.features.store is module.features.store
    assert twin.vpd.adapter is not module.vpd.adapter


def test_channels_reach_neck_and_head(tiny_sd):
    config = {
        "type": "EncoderDecoder",
        "backbone": {"type": "perception.VPDFeatures", "name": str(tiny_sd), "names": NAMES},
        "neck": {"type": "FPN", "out_channels": 8, "num_outs": 4},
        "decode_head": {"type": "FPNHead", "in_index": [0, 1, 2, 3], "channels": 8, "num_classes": 3},
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }
    filled = with_channels(config)
    assert filled["neck"]["in_channels"] == list(VPDFeatures(tiny_sd, names=NAMES).channels)
    assert filled["decode_head"]["feature_strides"] == [8, 16, 32, 64]
    logits = MODELS.build(filled)(_images())
    assert logits.shape == (2, 3, 8, 16)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "needs class names or a table"),
        ({"names": "perception.CamVit"}, "names is 'perception.CamVit'; expected a list of class names, or a data set"),
        ({"names": NAMES, "timestep": 5000}, "5000"),
        ({"names": NAMES, "map_strides": (8, 16, 64)}, "map_strides is"),
        ({"conditioning": "sentences"}, "conditioning 'sentences' is unknown"),
        ({"names": NAMES, "side": "resnet"}, "timm has no model 'resnet'; expected one such as"),
        ({"names": NAMES, "side": "vit_small_patch14_dinov2"}, "has maps at strides .14, .*, none of the pyramid's"),
    ],
)
def test_bad_arguments(tiny_sd, options, sentence):
    with pytest.raises(UserError, match=sentence):
        VPDFeatures(tiny_sd, **options)
