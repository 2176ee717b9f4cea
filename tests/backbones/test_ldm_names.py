"""Names of the original latent-diffusion code, against the converter that diffusers itself uses."""

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from perception.backbones.ldm_names import ldm_name, unet_ldm_names, vae_ldm_names, with_shape


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key].reshape(wanted[key].shape), wanted[key]) for key in wanted)


def test_unet_round_trip(any_backbone):
    unet = any_backbone.unet
    state, names = unet.state_dict(), unet_ldm_names(unet.state_dict())
    assert len(set(names.values())) == len(names)
    checkpoint = {f"model.diffusion_model.{names[name]}": value for name, value in state.items()}
    assert_same(convert_ldm_unet_checkpoint(checkpoint, unet.config), state)


def test_vae_round_trip(tiny_backbone):
    vae = tiny_backbone.vae
    state = {name: value for name, value in vae.state_dict().items() if not name.startswith("decoder.")}
    names = vae_ldm_names(vae.state_dict())
    assert names.keys() == state.keys()
    attention = [
        name for name in names.values() if ".attn_1." in name and name.endswith("weight") and "norm" not in name
    ]
    assert sorted(name.split(".")[-2] for name in attention) == ["k", "proj_out", "q", "v"]
    checkpoint = {
        f"first_stage_model.{names[name]}": value[..., None, None] if names[name] in attention else value
        for name, value in state.items()
    }
    assert_same(convert_ldm_vae_checkpoint(checkpoint, vae.config), state)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [  # the table of tapped layers in Zhao et al. 2023's code
        ("up_blocks.0.resnets.1.norm1.bias", "output_blocks.1.0.in_layers.0.bias"),
        ("up_blocks.1.attentions.1.proj_out.weight", "output_blocks.4.1.proj_out.weight"),
        ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
        ("down_blocks.2.attentions.1.norm.weight", "input_blocks.8.1.norm.weight"),
        ("down_blocks.0.downsamplers.0.conv.bias", "input_blocks.3.0.op.bias"),
        ("mid_block.resnets.1.conv2.weight", "middle_block.2.out_layers.3.weight"),
        ("conv_norm_out.weight", "out.0.weight"),
        ("encoder.down_blocks.2.resnets.0.conv_shortcut.bias", "encoder.down.2.block.0.nin_shortcut.bias"),
        ("quant_conv.bias", "quant_conv.bias"),
    ],
)
def test_single_names(name, wanted):
    assert ldm_name(name) == wanted


def test_unknown_names():
    with pytest.raises(KeyError, match=r"head\.weight is no parameter of a UNet2DConditionModel"):
        ldm_name("head.weight")
    with pytest.raises(KeyError, match=r"encoder\.head\.weight is no parameter of an AutoencoderKL"):
        ldm_name("encoder.head.weight")


def test_linear_and_convolution_of_one_cell():
    value = torch.arange(6.0).view(2, 3)
    assert with_shape(value, (2, 3, 1, 1)).shape == (2, 3, 1, 1)
    assert torch.equal(with_shape(value[..., None, None], (2, 3)), value)
    assert with_shape(value, (3, 2)).shape == (2, 3)
    assert with_shape(torch.zeros(4, 1), (4,)).shape == (4,)
