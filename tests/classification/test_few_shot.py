"""Learned class tokens on the tiny backbone: they learn, the backbone does not, and the classifier takes them."""

import pytest
import torch
from safetensors.torch import save_file

from perception.classification.classifier import DiffusionClassifier
from perception.classification.few_shot import (
    OBJECTIVES,
    ClassTokens,
    fit_class_tokens,
    load_class_tokens,
    save_class_tokens,
)
from perception.classification.prompts import class_prompts
from perception.classification.scoring import DenoisingErrors
from perception.classification.stopping.schedules import Exhaustive
from perception.errors import UserError

PROMPTS = class_prompts(["thing one", "thing two"])


@pytest.fixture(scope="module")
def shots(tiny_backbone):
    """Two images per class, flat and noisy, as latents with labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 64, 64, generator=generator) * torch.tensor([1.0, 1, 0.05, 0.05]).view(4, 1, 1, 1)
    with torch.no_grad():
        return tiny_backbone.encode(images), torch.tensor([0, 0, 1, 1])


@pytest.fixture(scope="module")
def condition(tiny_backbone):
    return tiny_backbone.condition(PROMPTS.prompts)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_falls_and_the_backbone_stays(tiny_backbone, condition, shots, objective):
    before = [parameter.clone() for parameter in tiny_backbone.parameters()]
    learned = fit_class_tokens(
        tiny_backbone, condition, *shots, tokens=2, steps=16, batch=4, learning_rate=0.1, objective=objective, beta=1e3
    )
    untrained = ClassTokens.beside(condition, 2)
    first, last = (_loss(tiny_backbone, tokens(condition), *shots, objective) for tokens in (untrained, learned))
    assert last < first
    assert all(torch.equal(a, b) for a, b in zip(before, tiny_backbone.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in tiny_backbone.parameters())


def _loss(backbone, told, latents, labels, objective):
    """Mean error of the true class, or of the others less that of the true class, on fixed samples."""
    generator = torch.Generator().manual_seed(7)
    timesteps = torch.arange(25, 1000, 50).repeat(len(latents))  # [B * 20]
    noise = torch.randn(len(timesteps), *latents.shape[1:], generator=generator)
    candidates = torch.arange(2).expand(len(timesteps), -1)
    with torch.inference_mode():
        errors = DenoisingErrors(backbone)(latents.repeat_interleave(20, 0), noise, timesteps, told, candidates)
    true = errors.gather(1, labels.repeat_interleave(20)[:, None]).mean()
    return true if objective == "denoise" else true - errors.mean()


def test_the_seed_decides(tiny_backbone, condition, shots):
    first, again, other = (fit_class_tokens(tiny_backbone, condition, *shots, steps=2, seed=s) for s in (0, 0, 1))
    assert torch.equal(again.embedding, first.embedding)
    assert not torch.equal(other.embedding, first.embedding)


def test_tokens_go_behind_the_prompt_and_into_the_classifier(tiny_backbone, condition, shots):
    learned = ClassTokens.beside(condition, 3)
    told = learned(condition)
    length = condition.hidden.shape[1]
    assert told.hidden.shape == (2, length + 3, condition.hidden.shape[2])
    assert torch.equal(told.hidden[:, :length], condition.hidden)
    assert torch.equal(told.hidden[:, -1], condition.hidden[:, -1])
    classifier = DiffusionClassifier(tiny_backbone, PROMPTS, Exhaustive(3))
    plain = classifier.classify_latents(shots[0][:1], ["a"])[0]
    classifier.condition = learned(classifier.condition)
    adapted = classifier.classify_latents(shots[0][:1], ["a"])[0]
    assert adapted.errors != plain.errors
    assert adapted.errors == pytest.approx(plain.errors, rel=0.2)


def test_a_file_keeps_tokens_and_classes(condition, tmp_path):
    learned = ClassTokens.beside(condition, 1)
    save_class_tokens(learned, PROMPTS.names, tmp_path / "t.safetensors")
    assert torch.equal(load_class_tokens(tmp_path / "t.safetensors", PROMPTS.names).embedding, learned.embedding)
    with pytest.raises(UserError, match="has tokens of thing one, thing two, but the classes are cat, dog"):
        load_class_tokens(tmp_path / "t.safetensors", ["cat", "dog"])
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="holds no learned class tokens"):
        load_class_tokens(tmp_path / "bad.safetensors", ["cat", "dog"])


def test_bad_input_gets_one_sentence(tiny_backbone, condition, shots):
    latents, labels = shots
    with pytest.raises(UserError, match="unknown objective 'gan'"):
        fit_class_tokens(tiny_backbone, condition, latents, labels, objective="gan")
    with pytest.raises(UserError, match="4 for 4 images of 2 classes; give one of 0 to 1 per image"):
        fit_class_tokens(tiny_backbone, condition, latents, labels + 1)
    with pytest.raises(UserError, match="0 learned tokens per class"):
        ClassTokens.beside(condition, 0)
    with pytest.raises(UserError, match="do not fit a condition of 1 rows"):
        ClassTokens.beside(condition)(condition[[0]])


@pytest.mark.parametrize("classes", ["[" * 100_000, "5", '{"a": 1}', '["a", "b"]', "nonsense"])
def test_files_of_tokens_with_odd_contents(tmp_path, classes):
    save_file({"embedding": torch.zeros(5)}, tmp_path / "t.safetensors", {"classes": classes})
    with pytest.raises(UserError, match="holds no learned class tokens"):
        load_class_tokens(tmp_path / "t.safetensors", ["a", "b"])
