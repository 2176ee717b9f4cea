"""`perception convert` from files to a model folder that opens."""

import pytest
import torch

from perception.backbones.ldm_names import unet_ldm_names, vae_ldm_names
from perception.commands.main import main
from perception.segmentation.referring import ReferringNet

LENGTH, HIDDEN = 7, 8


@pytest.fixture
def file(tiny_backbone, tiny_sd, tmp_path):
    """A referring checkpoint with a head drawn anew."""
    network = ReferringNet(str(tiny_sd), length=LENGTH, hidden=HIDDEN, adapter=True)
    unet, vae = tiny_backbone.unet.state_dict(), tiny_backbone.vae.state_dict()
    weights = {f"unet.unet.diffusion_model.{ldm}": unet[name] for name, ldm in unet_ldm_names(unet).items()}
    weights |= {f"encoder_vq.{ldm}": vae[name] for name, ldm in vae_ldm_names(vae).items()}
    adapter = {name.replace("fc.", "text_adapter.fc."): v for name, v in network.vpd.adapter.state_dict().items()}
    decoder = network.decoder
    layers = {"conv1_1": decoder.classifier}
    for level, stage in zip((4, 3, 2), decoder.stages, strict=True):
        layers |= {f"conv1_{level}": stage[0], f"bn1_{level}": stage[1], f"conv2_{level}": stage[3]}
        layers[f"bn2_{level}"] = stage[4]
    head = {f"classifier.{name}.{k}": v for name, layer in layers.items() for k, v in layer.state_dict().items()}
    torch.save({"model": weights | adapter | head}, tmp_path / "refer.pth")
    return tmp_path / "refer.pth"


def test_convert(file, tiny_sd, tmp_path, capsys):
    out = tmp_path / "model"
    assert main(["convert", "vpd-refer", str(file), str(out), "--backbone", str(tiny_sd)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"{out}: ")
    assert printed[0].endswith(f"4 unused ones left out; sentences of {LENGTH} tokens")
    assert printed[1] == f'next: perception segment IMAGES --text "the man in red" --model {out} --out RESULTS'
    assert ReferringNet.from_pretrained(out).decoder.classifier.in_channels == HIDDEN


def test_refusal_is_one_sentence(file, tiny_sd, tmp_path, capsys):
    out = tmp_path / "model"
    assert main(["convert", "vpd-depth", str(file), str(out), "--backbone", str(tiny_sd)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"perception: {file} is a checkpoint of vpd-refer (it holds classifier.conv1_1.weight)")
    assert printed.count("\n") == 1
    assert not out.exists()
