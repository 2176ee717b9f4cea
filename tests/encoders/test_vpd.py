"""The VPD network: shapes it declares, independence of the batch, latents, what it saves, mistakes by their message."""

import copy

import pytest
import torch

from perception.backbones import load_backbone
from perception.conditioning import ClassNames, build_conditioning
from perception.data.store import TensorStore
from perception.encoders import VPD
from perception.encoders.attention_maps import token_maps
from perception.encoders.vpd.checks import check_training
from perception.encoders.vpd.taps import vpd_taps
from perception.errors import UserError

KINDS = ("class_names", "learned", "captions", "empty", "class_id")


@pytest.mark.parametrize("kind", ["class_names", "captions"])
def test_declared_channels_and_strides_are_real_for_every_backbone(any_backbone, pixels, given, kind):
    conditioning = build_conditioning(kind, any_backbone, names=("cat", "sky"), length=12)
    network = VPD(any_backbone, conditioning).eval()
    pyramid = network(pixels, given.get(kind))
    assert len(pyramid) == len(network.channels) == len(network.strides)
    assert list(network.strides) == sorted(network.strides)
    for value, channels, stride in zip(pyramid, network.channels, network.strides, strict=True):
        assert value.shape == (2, channels, 64 // stride, 128 // stride)
        assert value.dtype == torch.float32 and torch.isfinite(value).all() and not value.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_depend_on_its_batch(make_vpd, pixels, given, kind):
    network = make_vpd(kind, adapter=True).eval()
    together = network(pixels, given.get(kind))
    for row in range(2):
        entry = [given[kind][row]] if kind in given else None
        for alone, value in zip(network(pixels[row : row + 1], entry), together, strict=True):
            rounding = 1e-5 * float(value[row].abs().max())
            torch.testing.assert_close(alone[0], value[row], rtol=0, atol=rounding)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_probabilities_over_the_tokens(make_vpd, pixels, given, kind):
    network = make_vpd(kind, map_strides=(32, 8)).eval()
    tokens = network.conditioning.tokens
    for value, stride in zip(network(pixels, given.get(kind)), network.strides, strict=True):
        if stride in (8, 32):
            torch.testing.assert_close(value[:, -tokens:].sum(dim=1), torch.ones(2, 64 // stride, 128 // stride))


def test_taps_come_from_the_architecture(tiny_backbone, make_folder):
    assert vpd_taps(tiny_backbone) == (
        "up_blocks.3.attentions.2",
        "up_blocks.2.attentions.1",
        "up_blocks.1.attentions.1",
        "up_blocks.0.resnets.1",
    )
    xl = vpd_taps(load_backbone(make_folder("sdxl"), device="cpu"))
    assert xl == ("up_blocks.2.resnets.1", "up_blocks.1.attentions.1", "up_blocks.0.attentions.1")


def test_the_latent_scale_is_a_factor_on_the_raw_mean(make_vpd, tiny_backbone, pixels):
    with torch.no_grad():
        scaled = tiny_backbone.encode(pixels)
    assert torch.equal(make_vpd().encode(pixels), scaled)
    factor = tiny_backbone.vae.config["scaling_factor"]
    torch.testing.assert_close(make_vpd(latent_scale=1.0).encode(pixels), scaled / factor)
    torch.testing.assert_close(make_vpd(latent_scale=factor).encode(pixels), scaled)


@pytest.mark.parametrize("upsample", [1, 2])
def test_maps_of_the_encoder_are_the_finest_levels(make_vpd, pixels, upsample):
    common = {"upsample": upsample, "map_strides": (8, 32)}
    network, plain = make_vpd(encoder_strides=(4, 8), **common).eval(), make_vpd(**common).eval()
    assert network.strides == (4 // upsample, 8 // upsample, *plain.strides)
    features = network(pixels)
    (fine, last, *rest), size = features, (64 * upsample, 128 * upsample)
    assert fine.shape == (2, network.channels[0], size[0] // 4, size[1] // 4)
    assert last.shape == (2, network.channels[1], size[0] // 8, size[1] // 8)
    torch.testing.assert_close(token_maps(network, features), token_maps(plain, plain(pixels)))
    assert all(map(torch.equal, rest, plain(pixels)))
    encoder, enlarged = network.backbone.vae.encoder, network.enlarge(pixels) * 2 - 1
    with torch.no_grad():
        expected = encoder.down_blocks[1](encoder.down_blocks[0](encoder.conv_in(enlarged)))
    torch.testing.assert_close(fine, expected)


@pytest.mark.parametrize("train", ["head", "lora"])
def test_the_store_keeps_maps_of_the_encoder(make_vpd, pixels, tmp_path, train, monkeypatch):
    network = make_vpd(encoder_strides=(2, 4), upsample=2, train=train).eval()
    eight_bit = (pixels[..., :32, :64] * 255).round() / 255
    stored = network.stored(TensorStore(tmp_path / "store"))
    first = stored(eight_bit)
    for value, other in zip(first, network(eight_bit), strict=True):
        torch.testing.assert_close(value, other, rtol=5e-2, atol=5e-2)  # latents passed through the store's dtype
    monkeypatch.setattr(network, "read", None)  # neither VAE nor encoder runs again
    assert all(map(torch.equal, stored(eight_bit), first))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"encoder_strides": (16,)}, "expected ascending ones of 2, 4, 8"),
        ({"encoder_strides": (4, 2)}, "expected ascending ones of 2, 4, 8"),
        ({"encoder_strides": (2,), "upsample": 4}, "expected multiples of 4"),
    ],
)
def test_strides_that_the_encoder_lacks(make_vpd, options, sentence):
    with pytest.raises(UserError, match=sentence):
        make_vpd(**options)


def test_latents_without_the_maps_of_the_encoder(make_vpd, pixels):
    network = make_vpd(encoder_strides=(4,))
    with pytest.raises(UserError, match="0 maps of the encoder came with the latents"):
        network(latents=network.encode(pixels))


def test_upsampled_images_give_the_maps_of_enlarged_ones_at_finer_strides(make_vpd, pixels, tmp_path):
    network, plain = make_vpd(upsample=2).eval(), make_vpd().eval()
    small = pixels[..., :32, :64]
    assert network.strides == tuple(stride // 2 for stride in plain.strides)
    expected = plain(network.enlarge(small))
    for value, other, stride in zip(network(small), expected, network.strides, strict=True):
        assert value.shape[-2:] == (32 // stride, 64 // stride)
        assert torch.equal(value, other)
    store = TensorStore(tmp_path / "store")
    plain.stored(store)(pixels)  # the same pictures at their own size are other entries
    stored = network.stored(store)
    eight_bit = (pixels * 255).round() / 255
    for value, other in zip(stored(eight_bit), network(eight_bit), strict=True):
        torch.testing.assert_close(value, other, rtol=2e-2, atol=2e-2)  # half precision
    for value, other in zip(stored(eight_bit), stored(eight_bit), strict=True):
        assert torch.equal(value, other)


def test_images_and_their_latents_give_the_same(make_vpd, pixels):
    network = make_vpd(latent_scale=1.0)
    for a, b in zip(network(pixels), network(latents=network.encode(pixels)), strict=True):
        assert torch.equal(a, b)


def test_a_text_for_all_is_told_to_every_image(make_vpd, pixels):
    network = make_vpd("captions")
    for a, b in zip(network(pixels, ["sky"]), network(pixels, ["sky", "sky"]), strict=True):
        torch.testing.assert_close(a, b)


def test_the_text_matters(make_vpd, pixels):
    network = make_vpd("captions")
    one, other = network(pixels, ["a cat"]), network(pixels, ["the sky at night"])
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(one[:3], other[:3], strict=True))


def test_every_distinct_text_is_encoded_once(make_vpd, tiny_sd, pixels):
    network, rows = make_vpd("captions", load_backbone(tiny_sd, device="cpu"), adapter=True).eval(), []
    network.backbone.text_encoder.register_forward_hook(lambda module, args, out: rows.append(len(out[0])))
    for told in (["sky", "a cat"], ["a cat", "a cat"], ["sky"]):
        network(pixels, told)
    assert rows == [2, 1], "the texts, and the empty one, which SDXL's pooled text is of"


@pytest.mark.parametrize("train", ["denoiser", "lora"])
def test_what_one_token_makes_idle_is_not_trained(make_vpd, pixels, train):
    """The softmax over one key is 1, so queries and keys change nothing."""
    network, maps = (make_vpd("class_id", train=train), make_vpd("class_id", train=train, map_strides=(16,)))
    trained, more = ({n for n, p in each.named_parameters() if p.requires_grad} for each in (network, maps))
    assert more > trained and all(".attn2.to_q." in n or ".attn2.to_k." in n or ".norm2." in n for n in more - trained)
    idle = network.backbone.idle_modules(single_token=True)
    before = network(pixels, [2, -1])
    with torch.no_grad():
        for module in idle:
            for parameter in module.parameters():
                parameter.add_(0.1)
    assert all(map(torch.equal, network(pixels, [2, -1]), before))


def test_a_frozen_backbone_is_shared_and_not_saved(make_vpd, tiny_backbone):
    network = make_vpd(adapter=True)
    assert set(network.state_dict()) == {"conditioning.table"} | {
        f"adapter.{name}" for name in ("gamma", "fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias")
    }
    assert copy.deepcopy(network).backbone is tiny_backbone is network.backbone
    assert network.train().backbone.training is False


def test_state_round_trip(make_vpd, pixels):
    network = make_vpd(adapter=True).eval()
    other = VPD(network.backbone, ClassNames(torch.zeros(3, 32)), adapter=True).eval()
    before = other(pixels)
    other.load_state_dict(network.state_dict())
    for a, b, c in zip(network(pixels), other(pixels), before, strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "everything"}, "train is 'everything'; expected one of head, text, denoiser, lora"),
        ({"train": "text"}, "nothing to train; add adapter=True"),
        ({"timestep": 1000}, "timestep 1000 is outside"),
        ({"upsample": 3}, "upsample is 3; expected 1, 2, 4 or 8"),
        ({"map_strides": (128,)}, "expected different ones of 8, 16, 32, 64, the strides"),
        ({"map_strides": (16, 16)}, "expected different ones of 8, 16, 32, 64"),
        ({"map_places": ("top",)}, "expected some of up, down, mid"),
        ({"train": "denoiser", "attn_grad": True, "checkpointing": True}, "switch checkpointing off"),
        ({"train": "lora", "lora_rank": 0}, "lora_rank is 0; expected at least 1"),
        ({"adapter": True, "adapter_hidden": 0}, "hidden of the text adapter is 0"),
    ],
)
def test_mistakes_in_options(make_vpd, options, message):
    with pytest.raises(UserError, match=message):
        make_vpd(**options)


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("class_names", {"adapter": True}, "adapter=True would"),
        ("learned", {}, "learned tokens would"),
        ("class_names", {"attn_grad": True}, "attn_grad=True would"),
        ("learned", {"adapter": True, "attn_grad": True}, "adapter=True and learned tokens and attn_grad=True would"),
    ],
)
def test_a_training_of_the_head_alone_refuses_what_it_would_not_train(make_vpd, kind, options, named):
    with pytest.raises(UserError, match=rf"so {named} have no effect; leave out .* or choose train='text'"):
        check_training(make_vpd(kind, **options))
    check_training(make_vpd(kind, **{"adapter": True, **options}, train="text"))
    check_training(make_vpd())


def test_mistakes_in_inputs(make_vpd, pixels):
    network = make_vpd("captions")
    latents = network.encode(pixels)
    for images, told, message in (
        (pixels[..., :96], ["cat"], "images are 64x96 pixels; expected sides that are multiples of 64: .* 64x128"),
        (pixels[0], ["cat"], r"shape \[3, 64, 128\]; expected \[batch, 3"),
        (pixels * 255, ["cat"], "divide 8-bit values by 255"),
        (pixels, None, "one sentence per image"),
        (pixels, ["cat"] * 3, "3 texts were given for 2 images"),
        (pixels, [""] * 2, "a sentence is empty"),
        (None, ["cat"], "either images or latents"),
    ):
        with pytest.raises(UserError, match=message):
            network(images, told)
    with pytest.raises(UserError, match="latents are 8x12 cells; expected sides that are multiples of 8"):
        network(given=["cat"], latents=latents[..., :12])
    with pytest.raises(UserError, match="either images or latents"):
        network(pixels, ["cat"], latents=latents)


def test_text_of_another_model_is_refused(tiny_backbone):
    with pytest.raises(UserError, match="tokens of width 16 and this denoiser attends to text of width 32"):
        VPD(tiny_backbone, ClassNames(torch.zeros(3, 16)))
