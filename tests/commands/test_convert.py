"""`perception convert` from files to a model folder that opens."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from perception.backbones import load_backbone
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


def test_a_dit_becomes_a_folder_that_classifies_by_name(goldens, tiny_sd, tmp_path, capsys):
    path = goldens / "diffusion_classifier" / "dit.safetensors"
    with safe_open(path, "pt") as stored:
        config = json.loads(stored.metadata()["json"])["model"]
    weights = {k.removeprefix("model."): v for k, v in load_file(path).items() if k.startswith("model.")}
    torch.save(weights, tmp_path / "dit.pt")
    names = [f"thing {i}, item {i}" for i in range(config["num_classes"])]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    out, heads = tmp_path / "model", ["--heads", str(config["num_heads"]), "--vae", str(tiny_sd)]
    command = ["convert", "dit", str(tmp_path / "dit.pt"), str(out), *heads]
    assert main([*command, "--names", str(tmp_path / "no.txt")]) == 2
    assert "no.txt does not exist; check the path" in capsys.readouterr().err
    assert main([*command, "--classes", "a,b"]) == 2
    assert "--classes has no meaning for dit; leave it out" in capsys.readouterr().err
    assert main([*command, "--names", str(tmp_path / "names.txt")]) == 0
    assert f"{config['num_classes']} classes, " in capsys.readouterr().out
    assert load_backbone(out, device="cpu").condition(["item 3"]).extra["class_labels"].tolist() == [3]


def test_options_of_dit_mean_nothing_to_vpd(file, tmp_path, capsys):
    assert main(["convert", "vpd-seg", str(file), str(tmp_path / "model"), "--heads", "2"]) == 2
    assert "--heads has no meaning for vpd-seg; leave it out" in capsys.readouterr().err
