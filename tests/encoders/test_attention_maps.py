"""Attention maps by class name and by word."""

import pytest
import torch

from perception.conditioning import ClassNames, EmptyPrompt, Sentences, class_table
from perception.encoders import VPD
from perception.encoders.attention_maps import check_maps, token_maps, word_maps, word_tokens
from perception.errors import UserError


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))


def test_token_maps_average_what_the_head_reads(tiny_backbone, image):
    vpd = VPD(tiny_backbone, ClassNames(class_table(tiny_backbone, ["road", "sky"])))
    features = vpd(image)
    maps = token_maps(vpd, features)
    assert maps.shape == (1, 2, 4, 8)  # stride 16
    assert torch.allclose(maps.sum(dim=1), torch.ones(1, 4, 8), atol=1e-5)  # probabilities of the tokens
    coarse = torch.nn.functional.interpolate(features[2][:, -2:], (4, 8), mode="bilinear")
    assert torch.equal(maps, torch.stack([features[1][:, -2:], coarse]).mean(dim=0))


def test_word_maps_are_means_over_the_tokens_of_a_word(tiny_backbone, image):
    vpd, sentence = VPD(tiny_backbone, Sentences(tiny_backbone, 12)), "Overtaking  the CAR's"
    maps = token_maps(vpd, vpd(image, [sentence]))[0]
    named = word_maps(vpd, maps, sentence)
    assert [word for word, _ in named] == ["Overtaking", "the", "CAR's"]
    ids = tiny_backbone.tokenizer(sentence)["input_ids"]
    tokens = word_tokens(tiny_backbone.tokenizer, sentence, 12)
    assert [at for _, inside in tokens for at in inside] == list(range(1, len(ids) - 1))  # all but start and end
    assert len(tokens[0][1]) > 1 and torch.allclose(named[0][1], maps[tokens[0][1]].mean(dim=0))


def test_words_beyond_the_length_have_no_tokens(tiny_backbone):
    assert word_tokens(tiny_backbone.tokenizer, "the red the", 3) == [("the", [1]), ("red", [2])]


def test_networks_without_named_maps_are_refused(tiny_backbone):
    named = ClassNames(class_table(tiny_backbone, ["road"]))
    with pytest.raises(UserError, match="reads no attention maps; leave --maps out"):
        check_maps(None, ClassNames)
    with pytest.raises(UserError, match="reads no attention maps"):
        check_maps(VPD(tiny_backbone, named, map_strides=()), ClassNames)
    with pytest.raises(UserError, match="is told EmptyPrompt, not class names"):
        check_maps(VPD(tiny_backbone, EmptyPrompt(tiny_backbone)), ClassNames)
    with pytest.raises(UserError, match="is told ClassNames, not sentences"):
        check_maps(VPD(tiny_backbone, named), Sentences)
