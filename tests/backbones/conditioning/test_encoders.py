"""Prompts to conditions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from perception.backbones import Condition, DiffusionBackbone, load_backbone
from perception.errors import UserError

PROMPTS = ["a cat", "a dog on a mat", "", "a cat"]


def test_equals_the_stable_diffusion_pipeline(tiny_backbone: DiffusionBackbone, tiny_sd: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd)
    hidden, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
    condition = tiny_backbone.condition(PROMPTS)
    assert condition.pooled is None
    torch.testing.assert_close(condition.hidden, hidden)


def test_equals_the_sdxl_pipeline(make_folder: Callable[[str], Path]) -> None:
    folder = make_folder("sdxl")
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    texts = [prompt for prompt in PROMPTS if prompt]
    hidden, empty, pooled, pooled_empty = pipeline.encode_prompt(texts, device="cpu")
    condition = load_backbone(folder, device="cpu").condition([*texts, ""])
    assert not empty.any() and not pooled_empty.any()  # zeros stand for the prompt that is not there
    torch.testing.assert_close(condition.hidden, torch.cat([hidden, empty[:1]]))
    torch.testing.assert_close(condition.pooled, torch.cat([pooled, pooled_empty[:1]]))


def test_sdxl_that_encodes_the_empty_prompt(make_folder: Callable[[str], Path], edit: Callable[..., None]) -> None:
    folder = make_folder("sdxl")
    zeros = load_backbone(folder, device="cpu")
    edit(folder / "model_index.json", force_zeros_for_empty_prompt=False)
    encoded = load_backbone(folder, device="cpu")
    assert encoded.fingerprint != zeros.fingerprint
    assert encoded.condition([""]).hidden.any() and encoded.condition([""]).pooled.any()
    assert not zeros.condition([""]).hidden.any() and not zeros.condition([""]).pooled.any()


def test_every_distinct_prompt_is_encoded_once(tiny_sd: Path) -> None:
    backbone, rows = load_backbone(tiny_sd, device="cpu"), []
    backbone.text_encoder.register_forward_hook(lambda m, i, out: rows.append(len(out[0])))
    first = backbone.condition(PROMPTS)
    again = backbone.condition(["a bird", *PROMPTS])
    assert rows == [3, 1]
    assert torch.equal(first.hidden, again.hidden[1:]) and torch.equal(first.hidden[0], first.hidden[3])


def test_averages() -> None:
    """Masks are united; other tokens than the mask's drop the mask."""
    mask = torch.tensor([[True, False], [True, True], [True, False]])
    condition = Condition(torch.arange(6.0).view(3, 2, 1), torch.tensor([[1.0], [3.0], [5.0]]), {"mask": mask})
    mean = condition.averaged([[0, 1], [2]])
    assert mean.hidden.flatten().tolist() == [1.0, 2.0, 4.0, 5.0]
    assert mean.pooled is not None and mean.pooled.flatten().tolist() == [2.0, 5.0]
    assert mean.extra["mask"].tolist() == [[True, True], [True, False]]
    assert "mask" not in condition.with_hidden(torch.zeros(3, 4, 1)).extra
    assert torch.equal(condition.with_hidden(condition.hidden + 1).extra["mask"], mask)
    longer = condition.followed_by(torch.zeros(3, 2, 1))
    assert longer.hidden.shape == (3, 4, 1)
    assert torch.equal(longer.extra["mask"], torch.cat([mask, torch.ones(3, 2, dtype=torch.bool)], dim=1))
    assert torch.equal(condition.extra["mask"], mask)
    half = condition.to(torch.float16)
    assert half.hidden.dtype == torch.float16 and half.extra["mask"].dtype == torch.bool


def test_length(tiny_backbone: DiffusionBackbone) -> None:
    full, short = tiny_backbone.condition([""]), tiny_backbone.condition([""], length=2)
    assert full.hidden.shape == (1, tiny_backbone.max_text_tokens, 32) and short.hidden.shape == (1, 2, 32)
    # the text model is causal, so the first tokens do not depend on the padding
    torch.testing.assert_close(short.hidden, full.hidden[:, :2])
    with pytest.raises(UserError, match="length is 78 tokens; this text encoder takes 1 to 77"):
        tiny_backbone.condition([""], length=78)


def test_long_prompts(tiny_backbone: DiffusionBackbone) -> None:
    long = "cat " * 100
    with pytest.raises(UserError, match=r"has \d+ tokens and 77 fit; shorten it, or pass truncate=True"):
        tiny_backbone.condition([long])
    assert tiny_backbone.condition([long], truncate=True).hidden.shape == (1, 77, 32)
    with pytest.raises(UserError, match="77 fit"):  # also when its first part is remembered
        tiny_backbone.condition([long])


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "expected a non-empty list"),
        ("a cat", "expected a non-empty list of strings"),
        (["a", 3], "the prompt 3 is a int"),
    ],
)
def test_bad_prompts(tiny_backbone: DiffusionBackbone, prompts: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_backbone.condition(prompts)


def test_conditions_made_in_inference_mode_can_be_trained_with(tiny_sd: Path) -> None:
    backbone = load_backbone(tiny_sd, device="cpu")
    with torch.inference_mode():
        backbone.condition(["a cat"])
    x_t = torch.zeros(1, 4, 8, 8, requires_grad=True)
    backbone.denoise(x_t, 5, backbone.condition(["a cat"])).eps.sum().backward()
    assert x_t.grad is not None


def test_rows() -> None:
    hidden, pooled = torch.arange(3.0).view(3, 1, 1), torch.arange(3.0).view(3, 1)
    condition = Condition(hidden, pooled, {"time_ids": pooled + 1})
    assert len(condition) == 3
    for index, rows in (
        (1, [1]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (torch.tensor([1, 1]), [1, 1]),
    ):
        part = condition[index]
        assert part.hidden.flatten().tolist() == rows and part.pooled.flatten().tolist() == rows
        assert part.extra["time_ids"].flatten().tolist() == [r + 1 for r in rows]
    assert condition[1].expand(4).hidden.flatten().tolist() == [1] * 4
    assert condition.to(torch.float64).pooled.dtype == torch.float64
    with pytest.raises(UserError, match="the condition has 3 rows for a batch of 2"):
        condition.expand(2)
