"""Preselection by CLIP, on a tiny random CLIPModel with the tokenizer of tiny-sd."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from perception.backbones.loading import hub
from perception.classification.classifier import DiffusionClassifier
from perception.classification.clip_preselection import ClipPreselection, check_clip
from perception.classification.prompts import class_prompts
from perception.classification.stopping.schedules import Exhaustive
from perception.errors import PromptTooLongError, UserError

CLASSES = class_prompts([f"thing {i}" for i in range(9)])
TEMPLATES = class_prompts([f"thing {i}" for i in range(6)], ["a {}.", "my {}"])


@pytest.fixture
def broken(clip_folder, tmp_path):
    """A copy of the folder that a test may damage."""
    return shutil.copytree(clip_folder, tmp_path / "clip")


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(1)
    return [Image.fromarray(random.integers(0, 255, (40 + i, 60, 3), dtype=np.uint8)) for i in range(3)]


def _ranked(preselection, images):
    return preselection([preselection.pixels(image) for image in images])


def test_similarities_are_those_of_transformers(clip_folder, images):
    preselection = ClipPreselection(clip_folder, TEMPLATES)
    processor, model = CLIPProcessor.from_pretrained(clip_folder), CLIPModel.from_pretrained(clip_folder).eval()
    inputs = processor(text=list(TEMPLATES.prompts), images=images, padding=True, return_tensors="pt")
    with torch.no_grad():
        cosines = model(**inputs).logits_per_image / model.logit_scale.exp()  # [3, 12]
    means = cosines.reshape(3, 6, 2).mean(2)
    for ranking, mean in zip(_ranked(preselection, images), means, strict=True):
        assert sorted(ranking.classes) == list(range(6))
        assert list(ranking.similarities) == sorted(ranking.similarities, reverse=True)
        wanted = mean[list(ranking.classes)].tolist()
        np.testing.assert_allclose(ranking.similarities, wanted, atol=1e-6)
        assert min(np.diff(sorted(mean.tolist()))) > 1e-6  # so the order above is the order of transformers


def test_rankings_do_not_depend_on_batch_or_global_generator(clip_folder, images):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    preselection = ClipPreselection(clip_folder, CLASSES)
    assert torch.equal(torch.get_rng_state(), state)
    together = _ranked(preselection, images)
    assert together == [each for image in reversed(images) for each in _ranked(preselection, [image])][::-1]
    assert together == _ranked(ClipPreselection(clip_folder, CLASSES), images)
    assert len({ranking.classes for ranking in together}) > 1  # images are told apart


def test_classes_with_equal_prompts_tie_in_their_order(clip_folder, images):
    twice = CLASSES.with_prompts([*CLASSES.prompts[:4], CLASSES.prompts[0], *CLASSES.prompts[5:]])
    for ranking in _ranked(ClipPreselection(clip_folder, twice), images):
        first = ranking.classes.index(0)
        assert ranking.classes[first + 1] == 4
        assert ranking.similarities[first] == ranking.similarities[first + 1]


def test_many_prompts_go_in_parts(clip_folder, images):
    many = class_prompts([f"thing {i}" for i in range(103)])
    few = many.select([0, 101, 102])
    (whole,), (part,) = (_ranked(ClipPreselection(clip_folder, prompts), images[:1]) for prompts in (many, few))
    by_class = dict(zip(whole.classes, whole.similarities, strict=True))
    wanted = [by_class[(0, 101, 102)[c]] for c in part.classes]
    np.testing.assert_allclose(part.similarities, wanted, atol=1e-6)


@pytest.mark.parametrize("pool", ["max", "mean_error", "mean_embed"])
def test_ranked_classes_race_with_all_their_prompts(tiny_backbone, pool):
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    rankings = [(4, 1, 0, 2, 3, 5), (5, 3, 4, 0, 1, 2)]
    classifier = DiffusionClassifier(tiny_backbone, TEMPLATES, Exhaustive(4), pool=pool, preselect=2)
    results = classifier.classify_latents(latents, ["a", "b"], rankings=rankings)
    plain = DiffusionClassifier(tiny_backbone, TEMPLATES, Exhaustive(4), pool=pool).classify_latents(
        latents, ["a", "b"]
    )
    for result, full, ranking in zip(results, plain, rankings, strict=True):
        starters = list(result.alive[0])
        assert [classifier.candidates[c].class_id for c in starters] == sorted(
            [*ranking[:2], *ranking[:2]] if pool == "max" else ranking[:2]
        )
        assert result.class_id in ranking[:2]
        assert result.evaluations == (2 if pool == "mean_embed" else 4) * 4
        torch.testing.assert_close(result.table.errors[starters], full.table.errors[starters], rtol=1e-5, atol=0)
    assert classifier.most_evaluations == results[0].evaluations


def test_rankings_are_asked_for(tiny_backbone):
    with pytest.raises(UserError, match="a preselection of 1 classes leaves nothing to compare"):
        DiffusionClassifier(tiny_backbone, CLASSES, Exhaustive(1), preselect=1)
    classifier = DiffusionClassifier(tiny_backbone, CLASSES, Exhaustive(1), preselect=2)
    with pytest.raises(UserError, match="needs the classes of every image ranked"):
        classifier.classify_latents(torch.zeros(1, 4, 8, 8), ["a"])


def test_preselecting_all_classes_changes_nothing(tiny_backbone):
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    plain = DiffusionClassifier(tiny_backbone, CLASSES, Exhaustive(4)).classify_latents(latents, ["a", "b"])
    all_race = DiffusionClassifier(tiny_backbone, CLASSES, Exhaustive(4), preselect=99)
    for before, after in zip(
        plain, all_race.classify_latents(latents, ["a", "b"], rankings=[range(9)] * 2), strict=True
    ):
        assert torch.equal(before.table.errors, after.table.errors)
        assert (after.label, after.evaluations, after.alive) == (before.label, before.evaluations, before.alive)


def test_other_layouts_of_the_same_model(broken, clip_folder, images):
    """As older versions of transformers saved it, and as published checkpoints are."""
    tokenizer = json.loads((broken / "tokenizer.json").read_text())["model"]
    (broken / "vocab.json").write_text(json.dumps(tokenizer["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["merges"]]
    (broken / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (broken / "tokenizer.json").unlink()
    (broken / "processor_config.json").unlink()
    CLIPImageProcessor.from_pretrained(clip_folder).save_pretrained(broken)
    weights = load_file(broken / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    published, saved = ClipPreselection(broken, CLASSES), ClipPreselection(clip_folder, CLASSES)
    assert _ranked(published, images) == _ranked(saved, images)
    assert published.identity != saved.identity


def test_the_identity_is_that_of_files_and_prompts(clip_folder, make_clip, broken):
    one, moved = ClipPreselection(clip_folder, CLASSES), ClipPreselection(broken, CLASSES)
    assert one.identity == moved.identity and one.name != moved.name
    others = (ClipPreselection(clip_folder, TEMPLATES), ClipPreselection(make_clip(4), CLASSES))
    assert len({one.identity, *(other.identity for other in others)}) == 3


def test_hub_ids_come_from_the_cache(monkeypatch, clip_folder):
    asked = []
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **options: asked.append(name) or str(clip_folder))
    assert check_clip("owner/model").digest == check_clip(clip_folder).digest
    assert asked == ["owner/model"]


def _no_weights(folder):
    (folder / "model.safetensors").unlink()


def _truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _fewer_weights(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _text_model_only(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["CLIPTextModel"]}))


def _no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def _broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")


def _no_processor(folder):
    (folder / "processor_config.json").unlink()


def _other_processor(folder):
    _no_processor(folder)
    CLIPImageProcessor().save_pretrained(folder)


def _other_tokenizer(folder):
    CLIPTokenizer.from_pretrained(folder, eos_token="<|startoftext|>").save_pretrained(folder)


def _more_tokens(folder):
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)


def _huge_processor(folder):
    for path in (folder / "preprocessor_config.json", folder / "processor_config.json"):
        if path.exists():
            path.write_text(path.read_text().replace("32", "1000000000"))


def _many_layers(folder):
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 2**20
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_huge_processor, "has the number 1000000000, which no image has"),
        (_many_layers, "its config.json describes no model (it asks for far more weights than the"),
        (_no_weights, "the weight file clip/model.safetensors is missing"),
        (_truncated, "the weight file clip/model.safetensors is truncated"),
        (_fewer_weights, "missing weights: visual_projection.weight"),
        (_text_model_only, "clip is a CLIPTextModel, supported is CLIPModel"),
        (_no_tokenizer, "tokenizer.json (or vocab.json and merges.txt) is missing"),
        (_broken_tokenizer, "tokenizer.json is not valid JSON"),
        (_no_processor, "preprocessor_config.json is missing"),
        (_other_processor, "its image processor makes 224x224 images, its image encoder takes 32x32"),
        (_other_tokenizer, "its tokenizer ends texts with token 1536, not 1537"),
        (_more_tokens, "its tokenizer has 1539 tokens, its text encoder 1538"),
    ],
)
def test_damaged_folders_get_one_sentence(broken, damage, sentence):
    damage(broken)
    with pytest.raises(UserError) as caught:
        ClipPreselection(broken, CLASSES)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(f"the model folder {broken} cannot be used: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_clip_model_gets_one_sentence(tiny_sd, tmp_path):
    with pytest.raises(UserError, match="does not exist; expected a hub id or a folder with a CLIPModel"):
        check_clip(tmp_path / "nowhere")
    with pytest.raises(
        UserError, match="clip is a UNet2DConditionModel, supported is CLIPModel; the weight file"
    ) as caught:
        check_clip(tiny_sd / "unet")
    assert "preprocessor_config.json is missing" in str(caught.value)


def test_prompts_that_do_not_fit_are_refused(clip_folder):
    with pytest.raises(PromptTooLongError, match="tokens and 77 fit the CLIP model"):
        ClipPreselection(clip_folder, class_prompts(["cat", "dog " * 90]))


def test_the_configuration_decides_the_embedding_size(clip_folder):
    width = CLIPConfig.from_pretrained(clip_folder).projection_dim
    assert ClipPreselection(clip_folder, TEMPLATES).vectors.shape == (6, width)
