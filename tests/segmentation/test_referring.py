"""The referring network: many sentences on one image, and the folder it is saved to."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from perception.backbones import load_backbone
from perception.depth import DepthNet
from perception.errors import UserError
from perception.segmentation.referring import ReferringNet

SENTENCES = ["the red car", "sky", "a man on the left", "sky", "two dogs", "the tallest building", "a", "her hat", "it"]


def make(backbone, **options):
    """A network whose head and adapter are drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ReferringNet(backbone, **{"length": 12, "hidden": 8, **options})
        if network.vpd.adapter is not None:
            torch.nn.init.normal_(network.vpd.adapter.gamma)
        for module in network.decoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # as after training: other than zero and one
                torch.nn.init.normal_(module.running_mean, std=0.1)
        return network.eval()


@pytest.fixture(scope="module")
def network(tiny_sd):
    return make(load_backbone(tiny_sd, device="cpu"), adapter=True, latent_scale=1.0)


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def singly(network, image):
    """Logits of every sentence by itself."""
    with torch.no_grad():
        return torch.cat([network(image, [sentence]) for sentence in SENTENCES])


@pytest.mark.parametrize(("count", "rows"), [(1, 8), (4, 4), (5, 2), (9, 4), (9, 1), (9, 20)])
def test_many_sentences_on_one_image_are_those_of_single_calls(network, image, singly, count, rows):
    calls = {"vae": 0, "unet": 0}
    parts = {"vae": network.backbone.vae.encoder, "unet": network.backbone.unet.up_blocks[1]}
    hooks = [
        part.register_forward_pre_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
        for name, part in parts.items()
    ]
    found = network.refer(network.vpd.encode(image), SENTENCES[:count], rows=rows)
    for hook in hooks:
        hook.remove()
    assert found.shape == (count, 2, 64, 128)
    torch.testing.assert_close(found, singly[:count], rtol=1e-4, atol=1e-5)
    assert calls == {"vae": 1, "unet": -(-count // rows)}


def test_another_size(network, image):
    latent = network.vpd.encode(image)[0]  # [C, h, w]
    small = network.refer(latent, SENTENCES[:2], size=(32, 64))
    with torch.no_grad():
        wanted = network.decode(network.encoder(image.expand(2, -1, -1, -1), SENTENCES[:2]), (32, 64))
    torch.testing.assert_close(small, wanted, rtol=1e-4, atol=1e-5)


def test_sentences_that_cannot_be_told(network, image):
    latent = network.vpd.encode(image)
    with pytest.raises(UserError, match="there is no sentence to look for"):
        network.refer(latent, [])
    with pytest.raises(UserError, match="expected a list with one sentence per image"):
        network.refer(latent, "the red car")
    for sentences, message in ((["a", "  "], "a sentence is empty"), (["one two three " * 5], "tokens and 12 fit")):
        with pytest.raises(UserError, match=message):
            network.refer(latent, sentences)
        with pytest.raises(UserError, match=message):
            network(image.expand(len(sentences), -1, -1, -1), sentences)
    cut = make(network.backbone, truncate=True)
    with torch.no_grad():
        assert cut(image, ["one two three " * 5]).isfinite().all()


@pytest.mark.parametrize("train", ["head", "text", "denoiser", "lora"])
def test_a_saved_network_is_the_same_network(tiny_sd, image, tmp_path, train):
    network = make(str(tiny_sd), adapter=True, train=train, image_size=(64, 128), metrics={"oIoU": 12.5})
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora" in name or "to_v" in name:
                parameter.add_(0.1)  # as training would
        wanted = network(image, ["the red car"])
    network.save_pretrained(tmp_path / "model")
    again = ReferringNet.from_pretrained(tmp_path / "model")
    assert not again.training and again.image_size == (64, 128) and again.metrics == {"oIoU": 12.5}
    with torch.no_grad():
        assert torch.equal(again(image, ["the red car"]), wanted)
    assert set(again.state_dict()) == set(network.state_dict())
    card = (tmp_path / "model" / "README.md").read_text()
    assert "ReferringNet.from_pretrained" in card and "- oIoU: 12.5" in card


@pytest.fixture
def folder(network, tmp_path):
    network.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_of_another_task_is_refused(folder):
    with pytest.raises(UserError, match="is a model for referring, not for depth; name a folder of a depth network"):
        DepthNet.from_pretrained(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is a model for semantic segmentation, or of no network"):
        ReferringNet.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config.json; name the folder of a trained network"):
        ReferringNet.from_pretrained(folder)


def test_another_backbone_is_refused(folder, tiny_sd, tmp_path):
    with pytest.raises(UserError, match=r"was trained on backbone weights \w+, but .* use the same backbone or train"):
        ReferringNet.from_pretrained(folder, random_init_seed=0)
    moved = shutil.copytree(tiny_sd, tmp_path / "moved")
    assert ReferringNet.from_pretrained(folder, backbone=str(moved)).fingerprint  # the same weights elsewhere


def test_an_argument_of_earlier_versions_is_dropped(folder, network, image, singly):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"shortcuts": True}))
    again = ReferringNet.from_pretrained(folder)
    assert set(again.config) == set(network.config) == set(config)
    with torch.no_grad():
        torch.testing.assert_close(again(image, SENTENCES[:1]), singly[:1], rtol=1e-4, atol=1e-5)


def test_weights_that_do_not_fit_name_every_key(folder):
    weights = load_file(folder / "model.safetensors")
    removed = weights.pop("decoder.classifier.bias")
    save_file({**weights, "decoder.other": removed}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"do not fit its config.json: .*decoder.classifier.bias.*decoder.other"):
        ReferringNet.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"colour": 1}))
    with pytest.raises(UserError, match=r"config.json holds colour, which ReferringNet does not take"):
        ReferringNet.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"do not fit its config.json"):
        ReferringNet.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"do not fit its config.json.*model.safetensors"):
        ReferringNet.from_pretrained(folder)
