"""Heads on their way into the package: the same answers from half the bytes."""

import runpy

import pytest
import torch
from safetensors.torch import load_file, save_file

from perception.depth import DepthNet

tool = runpy.run_path("tools/ship_head.py")["main"]


@pytest.fixture
def trained(tiny_sd, tmp_path):
    """The folder of a depth network with a side network."""
    network = DepthNet(str(tiny_sd), conditioning="empty", fusion_channels=16, num_filters=(8, 8, 8), side="resnet18")
    network.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_half_the_bytes_and_nearly_the_same_depth(trained, tmp_path, capsys):
    (tmp_path / "heads" / "mini-depth").mkdir(parents=True)
    assert tool([str(trained), "depth", "--heads", str(tmp_path / "heads")]) == 0
    folder = tmp_path / "heads" / "mini-depth"
    assert "MB of weights" in capsys.readouterr().out
    sizes = [(place / "model.safetensors").stat().st_size for place in (trained, folder)]
    assert sizes[1] < 0.55 * sizes[0]
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert [path.name for path in folder.parent.iterdir()] == ["mini-depth"]
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (DepthNet.from_pretrained(place).eval()(image) for place in (trained, folder))
    torch.testing.assert_close(before, after, rtol=1e-2, atol=0)
    assert after.dtype == torch.float32


def test_what_is_refused(trained, tmp_path, capsys):
    assert tool([str(tmp_path), "depth", "--heads", str(tmp_path / "heads")]) == 2
    assert "is no folder of a trained model: config.json is missing" in capsys.readouterr().err
    (tmp_path / "heads").mkdir()
    trained.rename(tmp_path / "heads" / "mini-depth")
    trained = tmp_path / "heads" / "mini-depth"
    assert tool([str(trained), "depth", "--heads", str(tmp_path / "heads")]) == 2
    assert "is the place to write to" in capsys.readouterr().err
    weights = load_file(trained / "model.safetensors")
    name = next(name for name, value in weights.items() if value.is_floating_point())
    weights[name][..., 0] = 1e6
    save_file(weights, trained / "model.safetensors")
    assert tool([str(trained), "referring", "--heads", str(tmp_path / "heads")]) == 2
    assert "holds values up to 1e+06, beyond float16" in capsys.readouterr().err
    assert not (tmp_path / "heads" / "mini-referring").exists()
