"""The making of `mini-dit`, end to end in miniature, and the parts whose mistakes would only cost accuracy."""

import gzip
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline, DiTTransformer2DModel
from recipes.mini.dit import (
    NULL_CLASS,
    add_noise,
    build_dit,
    class_errors,
    initialize,
    latents_of,
    noise_schedule,
)
from recipes.mini.dit_recipe import DiTRecipe
from recipes.mini.dit_report import accuracy_report, even_timesteps, sample_sheet, score_table
from recipes.mini.dit_training import (
    DiTObjective,
    DiTTraining,
    WrongClasses,
    draw_batch,
    informative_timesteps,
    train_dit,
)
from safetensors.torch import load_file

from perception.backbones.shipped import MINI_DIT
from perception.data.fashion_mnist import CLASSES
from perception.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fashion_mnist")
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 20), ("t10k", 10)):
        images, labels = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % len(CLASSES)
        for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes()
            (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    return folder


def recipe(work: Path, data: Path, steps: int = 2, tune_steps: int = 2) -> DiTRecipe:
    return DiTRecipe(
        work=work,
        data=data,
        steps=steps,
        tune_steps=tune_steps,
        negative_weight=0.1,
        device="cpu",
        threads=0,
        seed=0,
        batch_size=4,
        report=lambda message: None,
    )


def tiny(seed: int = 0) -> DiTTransformer2DModel:
    """A small DiT whose every weight is random, so that classes differ."""
    model = build_dit(width=16, layers=2, heads=2, patch=14)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn((count, 1, 28, 28), generator=generator), torch.arange(count) % len(CLASSES)


def test_all_stages_run_and_the_folder_loads(tmp_path: Path, data: Path) -> None:
    making = recipe(tmp_path, data)
    making.train()
    making.tune()
    (tmp_path / "mini-dit").mkdir()
    (tmp_path / "mini-dit" / "README.md").write_text("card")
    assert making.export(tmp_path / "mini-dit", "tune") < 12e6
    assert (tmp_path / "mini-dit" / "README.md").read_text() == "card"
    index = json.loads((tmp_path / "mini-dit" / "model_index.json").read_text())
    assert index["vae"] == [None, None] and index["id2label"]["9"] == "Ankle boot"
    pipeline = DiTPipeline.from_pretrained(tmp_path / "mini-dit", vae=None)
    assert pipeline.get_label_ids(["Bag", "T-shirt/top"]) == [8, 0]
    assert pipeline.scheduler.config.beta_schedule == "linear"
    tuned = making.model("tune").half().state_dict()
    assert all(torch.equal(value.half(), tuned[name]) for name, value in pipeline.transformer.state_dict().items())


def test_the_report_measures_the_test_pictures(tmp_path: Path, data: Path) -> None:
    making = recipe(tmp_path, data)
    making.train()
    result = making.measure("train", images=6, timesteps=2)
    assert result["images"] == 6 and list(result["accuracy_of_one_timestep"]) == [250, 750]
    assert (tmp_path / "samples_train.png").exists()


def test_a_stage_without_its_predecessor_says_what_is_missing(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match=r"holds no train\.pt; make it first with --stages train"):
        recipe(tmp_path, data).tune()


@pytest.mark.parametrize("negative_weight", [0.0, 0.1])
def test_resuming_ends_where_an_uninterrupted_training_ends(tmp_path: Path, negative_weight: float) -> None:
    images = torch.randint(0, 256, (12, 28, 28), dtype=torch.uint8, generator=torch.Generator())
    labels = torch.arange(12) % len(CLASSES)

    def train(path: Path, minutes: float) -> dict[str, torch.Tensor]:
        options = DiTTraining(4, batch_size=4, negative_weight=negative_weight, checkpoint_minutes=minutes)
        return train_dit(tiny(), images, labels, path, options, torch.device("cpu"), lambda text: None).state_dict()

    whole = train(tmp_path / "whole.pt", 60.0)

    def draw_two(images: torch.Tensor, labels: torch.Tensor, options: DiTTraining, step: int) -> tuple:
        if step == 2:
            raise KeyboardInterrupt
        return draw_batch(images, labels, options, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.mini.dit_training.draw_batch", draw_two)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "cut.pt", -1.0)  # a checkpoint after every step
    resumed = train(tmp_path / "cut.pt", 60.0)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_begins_with_the_identity_and_a_zero_output() -> None:
    model = initialize(build_dit(width=16, layers=2, heads=2, patch=14), seed=0)
    latents, labels = batch(3)
    assert not model(latents, timestep=torch.tensor([1, 500, 900]), class_labels=labels).sample.any()


def test_noising_is_that_of_the_scheduler() -> None:
    latents, _ = batch(3)
    t, schedule = torch.tensor([0, 400, 999]), noise_schedule()
    expected = schedule.add_noise(latents, noise := torch.ones_like(latents), t)
    torch.testing.assert_close(add_noise(latents, t, noise, schedule.alphas_cumprod), expected)


def test_class_errors_are_those_of_single_calls() -> None:
    model, (latents, labels), alphas = tiny(), batch(3), noise_schedule().alphas_cumprod
    t, noise = torch.tensor([100, 400, 800]), torch.randn((3, 1, 28, 28), generator=torch.Generator())
    classes = torch.stack([labels, labels + 1, torch.full_like(labels, NULL_CLASS)], 1)
    with torch.no_grad():
        errors = class_errors(model, latents, classes, t, noise, alphas, torch.float32)
        for row, column in ((0, 0), (1, 1), (2, 2)):
            x_t = add_noise(latents[row, None], t[row, None], noise[row, None], alphas)
            eps = model(x_t, timestep=t[row, None], class_labels=classes[row, column, None]).sample
            torch.testing.assert_close(errors[row, column], (eps - noise[row]).square().mean())


def test_score_table_does_not_depend_on_the_other_pictures() -> None:
    model, (latents, _) = tiny(), batch(3)
    table = score_table(model, latents, [250, 750])
    assert table.shape == (3, len(CLASSES), 2)
    torch.testing.assert_close(score_table(model, latents[:1], [250, 750]), table[:1])
    assert not torch.equal(score_table(model, latents[:1], [250, 750], seed=1), table[:1])


def test_accuracy_is_that_of_the_smallest_mean_error() -> None:
    table = torch.ones(2, len(CLASSES), 2)
    table[0, 3] = torch.tensor([0.1, 1.2])  # mean 0.65 wins, though not at the second timestep
    table[1, 4] = torch.tensor([0.5, 0.5])
    result = accuracy_report(table, torch.tensor([3, 5]), [250, 750])
    assert result["accuracy"] == 50.0
    assert result["accuracy_of_one_timestep"] == {250: 50.0, 750: 0.0}
    assert result["accuracy_of_class"] == {"Dress": 100.0, "Sandal": 0.0}


def test_timesteps_of_the_report_are_the_middles_of_equal_parts() -> None:
    assert even_timesteps(4) == [125, 375, 625, 875]
    assert even_timesteps(250)[:2] == [2, 6] and even_timesteps(250)[-1] == 998  # those of the DiT reference


def test_timesteps_of_the_training_cover_the_range_around_the_median() -> None:
    t = informative_timesteps(1000, torch.Generator().manual_seed(0))
    assert 0 <= t.min() < 60 and 900 < t.max() <= 999
    assert t.median().item() == pytest.approx(378, abs=5)


def test_an_epoch_shows_every_picture_once_and_mirrors_some() -> None:
    images = torch.zeros(12, 28, 28, dtype=torch.uint8)
    images[:, :, 0] = torch.arange(12, dtype=torch.uint8)[:, None] + 1  # the left edge says which picture it is
    options = DiTTraining(batch_size=4, flip_share=0.5)
    latents = torch.cat([draw_batch(images, torch.arange(12), options, step)[0] for step in range(3)])
    left, right = (((latents[:, 0, 5, column] + 1) * 127.5).round() for column in (0, -1))
    assert sorted((left + right).tolist()) == list(range(1, 13))
    assert 0 < (right > 0).sum() < 12


def test_wrong_classes_are_wrong_and_follow_the_mistakes() -> None:
    wrong, labels = WrongClasses(), torch.full((500,), 6)
    for _ in range(20):
        for other in set(range(10)) - {6}:
            wrong.update(torch.full((16,), 6), torch.full((16,), other), torch.full((16,), float(other == 4)))
    drawn, _ = wrong.draw(labels, torch.Generator().manual_seed(0))
    assert (drawn != labels).all() and len(drawn.unique()) == 9
    assert (drawn == 4).float().mean() > 2 * (drawn == 3).float().mean()


def test_a_pair_of_classes_weighs_the_same_whichever_is_true() -> None:
    wrong, labels = WrongClasses(), torch.arange(len(CLASSES)).repeat_interleave(20_000)
    wrong.mistaken = torch.rand((len(CLASSES), len(CLASSES)), generator=torch.Generator().manual_seed(0))
    drawn, weights = wrong.draw(labels, torch.Generator().manual_seed(1))
    pairs = torch.zeros(len(CLASSES), len(CLASSES)).index_put((labels, drawn), weights, accumulate=True) / 20_000
    torch.testing.assert_close(pairs, pairs.T, atol=0.02, rtol=0)
    assert weights.mean() == pytest.approx(1.0, abs=1e-5)


def test_the_second_term_pushes_true_and_wrong_class_apart() -> None:
    model, (latents, labels) = tiny().requires_grad_(True), batch(8)
    options = DiTTraining(negative_weight=1.0, null_share=0.0)
    objective = DiTObjective(options, noise_schedule().alphas_cumprod, WrongClasses())
    optimizer, before = torch.optim.SGD(model.parameters(), 1e-4), None
    for _ in range(5):
        term = objective(model, latents, labels, torch.Generator().manual_seed(0))[1]
        before = term.item() if before is None else before
        optimizer.zero_grad()
        term.backward()
        optimizer.step()
    assert term.item() < before


def test_samples_are_grey_levels_of_every_class() -> None:
    sheet = sample_sheet(tiny(), columns=2, steps=2)
    assert sheet.shape == (280, 56) and sheet.dtype == np.uint8


# rectangles (top, bottom, left, right, grey level) in the order in which they are painted
SILHOUETTES = {
    "Trouser": [(1, 9, 8, 20, 180), (9, 27, 8, 13, 180), (9, 27, 15, 20, 180)],
    "Bag": [(10, 26, 3, 25, 190), (3, 10, 8, 10, 150), (3, 10, 18, 20, 150), (3, 5, 8, 20, 150)],
    "T-shirt/top": [(3, 26, 8, 20, 200), (3, 11, 2, 26, 200), (3, 5, 11, 17, 0)],
    "Pullover": [(3, 26, 8, 20, 160), (3, 25, 2, 26, 160), (8, 26, 6, 8, 20), (8, 26, 20, 22, 20)],
    "Dress": [
        (1, 27, 11, 17, 200),
        (6, 27, 10, 18, 200),
        (12, 27, 9, 19, 200),
        (18, 27, 8, 20, 200),
        (23, 27, 7, 21, 200),
    ],
}


def _silhouette(rectangles: list[tuple[int, int, int, int, int]]) -> torch.Tensor:
    picture = torch.zeros(28, 28, dtype=torch.uint8)
    for top, bottom, left, right, level in rectangles:
        picture[top:bottom, left:right] = level
    return picture


def test_the_shipped_model_labels_silhouettes() -> None:
    files = {path.name: path for path in MINI_DIT.rglob("*") if path.is_file()}
    assert sum(path.stat().st_size for path in files.values()) < 12e6
    weights = load_file(files["diffusion_pytorch_model.safetensors"])
    assert {value.dtype for value in weights.values()} == {torch.float16}
    model = DiTTransformer2DModel.from_pretrained(MINI_DIT / "transformer", torch_dtype=torch.float32).eval()
    pictures = torch.stack([_silhouette(rectangles) for rectangles in SILHOUETTES.values()])
    chosen = score_table(model, latents_of(pictures), even_timesteps(40)).mean(2).argmin(1)
    assert [CLASSES[number] for number in chosen] == list(SILHOUETTES)


def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tool = runpy.run_path("tools/train_mini_dit.py")["main"]
    assert tool(["--work", str(tmp_path), "--stages", "export"]) == 2
    assert "train_mini_dit: " in (error := capsys.readouterr().err)
    assert "holds no tune.pt; make it first with --stages tune" in error
