"""Several images with different numbers of candidates in common denoiser calls."""

import pytest
import torch

from perception.classification.classifier import DiffusionClassifier
from perception.classification.prompts import class_prompts
from perception.classification.racing import PairedT
from perception.classification.rounds import Work, score_together
from perception.classification.scoring import DenoisingErrors

PROMPTS = ["a cat.", "a dog.", "a car.", ""]


def make_work(shapes):
    """Pieces of (samples, candidates)."""
    generator = torch.Generator().manual_seed(0)
    return [
        Work(
            latent=torch.randn(4, 8, 8, generator=generator),
            noise=torch.randn(n, 4, 8, 8, generator=generator),
            timesteps=torch.randint(0, 1000, (n,), generator=generator),
            candidates=torch.randperm(4, generator=generator)[:k],
        )
        for n, k in shapes
    ]


@pytest.mark.parametrize("rows", [3, 8, 64])
def test_work_done_together_equals_work_done_alone(tiny_backbone, rows):
    work = make_work([(2, 3), (1, 4), (0, 2), (3, 2), (2, 3), (1, 1)])
    with torch.inference_mode():
        condition = tiny_backbone.condition(PROMPTS)
        together = score_together(DenoisingErrors(tiny_backbone, rows=rows), work, condition)
        for piece, errors in zip(work, together, strict=True):
            (alone,) = score_together(DenoisingErrors(tiny_backbone), [piece], condition)
            assert errors.shape == (len(piece.timesteps), len(piece.candidates))
            torch.testing.assert_close(errors, alone, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(2, 3), (2, 2), (5, 4)], [30]),
        ([(2, 3), (2, 2), (7, 4), (1, 4)], [21, 21]),  # of like size: a small call takes longer per row
        ([(5, 4), (5, 4), (8, 3)], [32, 32]),  # cut within a sample
        ([(15, 4), (19, 3)], [29, 29, 29, 30]),
        ([(9, 4)], [18, 18]),
        ([(0, 4)], []),
    ],
)
def test_as_few_calls_as_possible(tiny_backbone, monkeypatch, shapes, expected):
    calls, denoise = [], tiny_backbone.denoise

    def counted(x_t, t, condition):
        calls.append(len(x_t))
        return denoise(x_t, t, condition)

    monkeypatch.setattr(tiny_backbone, "denoise", counted)
    work = make_work(shapes)
    with torch.inference_mode():
        score_together(DenoisingErrors(tiny_backbone, rows=32), work, tiny_backbone.condition(PROMPTS))
    assert calls == expected


def test_errors_do_not_tell_which_images_came_before(tiny_backbone):
    """To the last digit: a resumed job writes the bytes of one that was never stopped."""
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    prompts, alone = class_prompts(["cat", "dog", "red car", "bus"]), ["c", "d"]
    whole, resumed = (DiffusionClassifier(tiny_backbone, prompts, PairedT(30), rows=7) for _ in range(2))
    whole.classify_latents(latents[:2], ["a", "b"])
    for one, other in zip(
        whole.classify_latents(latents[2:], alone), resumed.classify_latents(latents[2:], alone), strict=True
    ):
        assert torch.equal(one.table.errors.nan_to_num(), other.table.errors.nan_to_num())


def test_races_of_a_batch_equal_single_races(tiny_backbone):
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    classifier = DiffusionClassifier(tiny_backbone, class_prompts(["cat", "dog", "red car", "bus"]), PairedT(30))
    together = classifier.classify_latents(latents, ["a", "b", "c"])
    alone = [classifier.classify_latents(latents[i : i + 1], [name])[0] for i, name in enumerate("abc")]
    assert [(r.alive, r.stop, r.evaluations) for r in together] == [(r.alive, r.stop, r.evaluations) for r in alone]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.table.errors, other.table.errors, rtol=1e-5, atol=0, equal_nan=True)
