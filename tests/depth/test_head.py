"""The depth head for any pyramid and image size."""

import pytest
import torch
from torch import nn

from perception.depth import DepthHead
from perception.errors import UserError

SMALL = {"fusion_channels": 16, "num_filters": (8, 8, 8), "decoder_channels": 8}


def pyramid(channels, height, width, stride=8):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, -(-height // s), -(-width // s), generator=generator)
        for c, s in zip(channels, (stride, 2 * stride, 4 * stride, 8 * stride), strict=True)
    ]


@pytest.mark.parametrize(("padded", "size"), [((128, 192), (100, 130)), ((64, 64), (64, 64)), ((128, 128), (96, 96))])
@pytest.mark.parametrize("kernels", [(2, 2, 2), (4, 3, 2)])
def test_any_size(padded, size, kernels):
    head = DepthHead((8, 12, 16, 24), deconv_kernels=kernels, max_depth=80.0, **SMALL)
    depth = head(pyramid((8, 12, 16, 24), *padded), size)
    assert depth.shape == (2, 1, *size)
    assert 0 < depth.min() <= depth.max() < 80


def test_finer_pyramids_end_at_the_image_size_too():
    head = DepthHead((8, 12, 16, 24), stride=4, **SMALL)
    assert head.upsamplings == 1
    assert head(pyramid((8, 12, 16, 24), 64, 96, stride=4), (64, 96)).shape == (2, 1, 64, 96)


def test_log_depth():
    """The same decoder, read in logarithms: half of the range is the geometric mean, and the ends are the limits."""
    head = DepthHead((8, 12, 16, 24), max_depth=100.0, min_depth=1.0, **SMALL)
    maps = pyramid((8, 12, 16, 24), 64, 64)
    for bias, metres in ((0.0, 10.0), (-40.0, 1.0), (40.0, 100.0)):
        nn.init.constant_(head.last[-1].bias, bias)
        nn.init.zeros_(head.last[-1].weight)
        torch.testing.assert_close(head(maps, (64, 64)), torch.full((2, 1, 64, 64), metres))


def test_gradients_and_batch_invariance():
    head = DepthHead((8, 12, 16, 24), **SMALL)
    maps = pyramid((8, 12, 16, 24), 64, 64)
    head(maps, (64, 64)).sum().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []
    head.eval()
    assert torch.allclose(head([x[:1] for x in maps], (64, 64)), head(maps, (64, 64))[:1], atol=1e-6)


def test_initial_weights_are_those_of_the_reference():
    head = DepthHead((64, 64, 64, 64), fusion_channels=64, num_filters=(32, 32, 32))
    assert head.fusion[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert head.deconvolutions[0].weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert head.last[0].weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert all(not layer.bias.any() for layer in head.modules() if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (8, 8, 8)}, "fuses 4 maps"),
        ({"stride": 6}, "needs a power of two"),
        ({"max_depth": 0.0}, "min_depth is None and max_depth 0.0; expected metres, 0 < min < max"),
        ({"min_depth": 10.0}, "min_depth is 10.0 and max_depth 10.0; expected metres, 0 < min < max"),
        ({"deconv_kernels": (2, 2)}, "need one entry per layer"),
        ({"deconv_kernels": (2, 5, 2)}, "choose each from 2, 3 and 4"),
        ({"num_filters": (8,) * 6, "deconv_kernels": (2,) * 6}, "enlarge 64 times.*stride 32; use at most 5"),
    ],
)
def test_impossible_heads(options, message):
    with pytest.raises(UserError, match=message):
        DepthHead(**{"channels": (8, 8, 8, 8)} | options)
