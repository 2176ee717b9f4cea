"""The depth network: any image size, rooms or none, windows, and the folder it is saved to."""

import json

import pytest
import torch

from perception.backbones import load_backbone
from perception.depth import DepthNet, shift_window_flip, silog_loss
from perception.errors import UserError
from perception.metrics import DepthMetrics
from perception.segmentation.referring import ReferringNet

SMALL = {"fusion_channels": 16, "num_filters": (8, 8, 8), "decoder_channels": 8}
ROOMS = ("kitchen", "office", "cafe")


def make(backbone, **options):
    """A network whose head gives other depths than half of the range."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DepthNet(backbone, **{**SMALL, "names": ROOMS, **options})
        for parameter in network.head.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return network.eval()


@pytest.fixture(scope="module")
def network(tiny_sd):
    return make(load_backbone(tiny_sd, device="cpu"))


def pictures(count, height, width):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height + width))


@pytest.mark.parametrize("size", [(64, 64), (64, 192), (65, 63), (1, 1), (37, 129), (130, 60)])
@torch.no_grad()
def test_any_image_size(network, size):
    images = pictures(2, *size)
    depth = network(images, [0, 2])
    assert depth.shape == (2, 1, *size) and depth.dtype == torch.float32
    assert 0 < depth.min() <= depth.max() < 10
    for row in range(2):
        torch.testing.assert_close(network(images[row : row + 1], [(0, 2)[row]])[0], depth[row], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_is_mid_grey_at_the_bottom_and_right(network):
    image = pictures(1, 40, 100)
    padded = torch.full((1, 3, 64, 128), 0.5)
    padded[..., :40, :100] = image
    assert torch.equal(network.pad(image), padded)
    assert network.pad(padded) is padded


@torch.no_grad()
def test_an_unknown_room_is_the_mean_of_all(network):
    image = pictures(1, 64, 64)
    assert torch.equal(network(image), network(image, [-1]))
    depths = [network(image, [room]) for room in (-1, 0, 1, 2)]
    assert all((a - b).abs().max() > 1e-6 for i, a in enumerate(depths) for b in depths[:i])
    mean = network.vpd.conditioning.table.mean(dim=0)
    torch.testing.assert_close(network.vpd.conditioning([-1])[0, 0], mean)
    with pytest.raises(UserError, match="3"):
        network(image, [3])


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (48, 133), (64, 64)])
@pytest.mark.parametrize("count", [2, 3])
def test_windows_leave_no_gap(network, size, count):
    images = pictures(2, *size)
    depth = shift_window_flip(network, images, [1, -1], count=count)
    assert depth.shape == (2, 1, *size) and depth.isfinite().all() and 0 < depth.min() <= depth.max() < 10
    alone = shift_window_flip(network, images[1:], None, count=count)  # no room ids
    torch.testing.assert_close(depth[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("judge", [silog_loss, DepthMetrics.of])
def test_a_depth_map_of_another_size_is_one_sentence(network, judge):
    with torch.no_grad():
        depth = network(pictures(1, 64, 64))
    with pytest.raises(UserError) as caught:
        judge(depth, torch.ones(1, 1, 64, 65))
    assert "depth has shape (1, 1, 64, 64) but the target (1, 1, 64, 65)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["empty", "learned", "captions", "class_id"])
def test_a_saved_network_is_the_same_network(tiny_sd, tmp_path, kind):
    network = make(str(tiny_sd), conditioning=kind, length=12, max_depth=80.0, deconv_kernels=(4, 3, 2))
    given = {"captions": ["a street"], "class_id": [1]}.get(kind)
    image = pictures(1, 50, 70)
    network.save_pretrained(tmp_path / "model")
    again = DepthNet.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(again(image, given), network(image, given))
    assert 10 < again.head.max_depth == 80


def test_a_side_network_joins_the_maps(tiny_sd, tmp_path):
    network = make(str(tiny_sd), side="resnet18")
    assert network.side.strides == (4, *network.encoder.strides)
    assert network.side.joined(network.encoder.channels) == (
        64,
        *(width + extra for width, extra in zip(network.encoder.channels, (128, 256, 0, 0), strict=True)),
    )
    assert network.head.stride == 4, "the finest four of the five maps"
    image = pictures(1, 50, 70)
    network.save_pretrained(tmp_path / "model")
    with torch.no_grad():
        depth = network(image)
        assert torch.equal(DepthNet.from_pretrained(tmp_path / "model")(image), depth)
        for weight in network.side.parameters():
            weight.mul_(1.5)
        assert not torch.equal(network(image), depth)
    with pytest.raises(UserError, match="encoder takes its place; set one"):
        DepthNet(str(tiny_sd), side="resnet18", encoder="resnet18", **SMALL)


def test_the_text_table_comes_with_the_weights(network, tmp_path, monkeypatch):
    network.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["templates"] == []
    monkeypatch.setattr("perception.conditioning.build.class_table", None)  # would raise when called
    again = DepthNet.from_pretrained(tmp_path / "model")
    assert torch.equal(again.vpd.conditioning.table, network.vpd.conditioning.table)


def test_folders_of_others_are_refused(network, tmp_path):
    network.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="is a model for depth, not for referring"):
        ReferringNet.from_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="was trained on backbone weights"):
        DepthNet.from_pretrained(tmp_path / "model", random_init_seed=0)
    with pytest.raises(UserError, match=r"do not fit its config.json: .*head.refine.0.weight"):
        DepthNet.from_pretrained(tmp_path / "model", decoder_channels=16)
