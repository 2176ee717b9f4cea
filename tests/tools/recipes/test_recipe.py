"""The making of `mini`, end to end in miniature: every stage runs, resumes, and ends in a folder that loads."""

import runpy
from pathlib import Path

import pytest
import torch
from recipes.mini.recipe import MiniRecipe
from recipes.mini.text import MAX_TOKENS, train_tokenizer
from recipes.mini.training import AveragedWeights, learning_rate
from safetensors.torch import load_file

from perception.backbones import load_backbone
from perception.backbones.shipped import MINI
from perception.errors import UserError

WEIGHTS = "diffusion_pytorch_model.safetensors"


def recipe(work: Path, autoencoder_steps: int, denoiser_steps: int, start: Path | None = None) -> MiniRecipe:
    return MiniRecipe(
        work=work,
        scenes=3,
        objects=5,
        autoencoder_steps=autoencoder_steps,
        denoiser_steps=denoiser_steps,
        device="cpu",
        threads=0,
        seed=0,
        start=start,
        report=lambda message: None,
    )


def test_all_stages_run_resume_and_load(tmp_path: Path) -> None:
    first = recipe(tmp_path, 2, 1)
    first.autoencoder()
    first.denoiser()
    before = (tmp_path / "denoiser.pt").read_bytes()
    longer = recipe(tmp_path, 2, 2)
    longer.denoiser()
    assert (tmp_path / "denoiser.pt").read_bytes() != before
    assert longer.export(tmp_path / "mini") < 40e6
    backbone = load_backbone(tmp_path / "mini", device="cpu")
    assert backbone.latent_stride == 8 and backbone.latent_channels == 4
    assert backbone.max_text_tokens == MAX_TOKENS
    with torch.inference_mode():
        latents = backbone.encode(torch.rand(1, 3, 64, 64))
        assert backbone.denoise(latents, 10, backbone.condition(["a car"])).eps.isfinite().all()


def test_training_starts_from_an_exported_folder(tmp_path: Path) -> None:
    recipe(tmp_path, 0, 0, start=MINI).export(tmp_path / "mini")
    for part in ("unet", "vae"):
        shipped, again = (load_file(folder / part / WEIGHTS) for folder in (MINI, tmp_path / "mini"))
        assert all(torch.equal(shipped[name], again[name]) for name in shipped)
    further = recipe(tmp_path, 0, 1, start=MINI)
    further.denoiser()
    assert (tmp_path / "denoiser.pt").exists() and not (tmp_path / "autoencoder.pt").exists()


def test_export_before_training_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no autoencoder\.pt; train it first with --stages autoencoder"):
        recipe(tmp_path, 1, 1).export(tmp_path / "mini")


def test_the_tokenizer_spells_unknown_words() -> None:
    tokenizer = train_tokenizer(["a photo of a red car."], ["umbrella"])
    assert tokenizer.convert_ids_to_tokens(tokenizer("a red umbrella").input_ids)[1:-1] == [
        "a</w>",
        "red</w>",
        "umbrella</w>",
    ]
    assert tokenizer.decode(tokenizer("xylophone").input_ids, skip_special_tokens=True).strip() == "xylophone"


def test_learning_rate_rises_stays_and_falls() -> None:
    rates = [learning_rate(step, 1000, 1.0) for step in (0, 199, 500, 999)]
    assert rates == pytest.approx([0.005, 1.0, 1.0, 0.004])


def test_averaged_weights_follow() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    average = AveragedWeights(module, decay=0.5)
    start = module.weight.item()
    with torch.no_grad():
        module.weight += 1
    average.update(module)  # decay min(0.5, 2/11) = 2/11
    assert average.module.weight.item() == pytest.approx(start + 9 / 11)


def test_mistakes_on_the_command_line_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tool = runpy.run_path("tools/train_mini.py")["main"]
    assert tool(["--work", str(tmp_path), "--stages", "export"]) == 2
    assert "train_mini: " in (error := capsys.readouterr().err)
    assert "holds no autoencoder.pt; train it first" in error
    assert tool(["--start", str(tmp_path / "none"), "--stages", "denoiser"]) == 2
    assert "none is no folder; --start takes an exported one" in capsys.readouterr().err
