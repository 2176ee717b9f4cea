"""Conditionings: what each tells the denoiser, the switch between them, and mistakes by their message."""

import pytest
import torch

from perception.conditioning import (
    ClassId,
    ClassNames,
    EmptyPrompt,
    LearnedTokens,
    Sentences,
    TextAdapter,
    build_conditioning,
)
from perception.errors import UserError

NAMES = ("cat", "traffic_light", "sky")
GIVEN = {"captions": ["a cat", "the man in red"], "class_id": [2, -1]}
KINDS = ("class_names", "learned", "captions", "empty", "class_id")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def build(backbone, kind, **options):
    return build_conditioning(kind, backbone, **({"names": NAMES, "length": 12} | options))


def test_declared_tokens_and_width_are_real(tiny_backbone, kind):
    conditioning = build(tiny_backbone, kind)
    rows = conditioning(GIVEN.get(kind))
    assert rows.shape == (2 if kind in GIVEN else 1, conditioning.tokens, conditioning.width)
    assert rows.dtype == torch.float32 and torch.isfinite(rows).all()
    assert conditioning.per_image == (kind in GIVEN)
    assert len(conditioning.entries(GIVEN.get(kind))) == len(rows)


def test_rows_do_not_depend_on_their_neighbours(tiny_backbone, kind):
    conditioning = build(tiny_backbone, kind)
    if kind in GIVEN:
        rows = conditioning(GIVEN[kind])
        for i, entry in enumerate(GIVEN[kind]):
            torch.testing.assert_close(conditioning([entry])[0], rows[i])


def test_identity_names_the_value(tiny_backbone, kind):
    first, second = build(tiny_backbone, kind), build(tiny_backbone, kind)
    entries = GIVEN.get(kind, [None])
    assert [first.identity(e) for e in entries] == [second.identity(e) for e in entries]
    assert len({first.identity(e) for e in entries}) == len(entries)
    other = {"class_names": {"names": ("dog", "car")}, "class_id": {"names": ("dog",)}, "learned": {"seed": 1}}
    changed = build(tiny_backbone, kind, **(other.get(kind) or {"length": 9}))
    assert changed.identity(entries[-1]) != first.identity(entries[-1])


def test_identity_follows_training():
    tokens = LearnedTokens(3, 4)
    before = tokens.identity()
    with torch.no_grad():
        tokens.embedding.add_(1)
    assert tokens.identity() != before


def test_saved_state_is_what_is_specific(tiny_backbone, kind):
    expected = {"class_names": ["table"], "class_id": ["table"], "learned": ["embedding"]}
    conditioning = build(tiny_backbone, kind)
    assert list(conditioning.state_dict()) == expected.get(kind, [])
    assert [n for n, _ in conditioning.named_parameters()] == (["embedding"] if kind == "learned" else [])


def test_sentences_are_the_text_encoders_states(tiny_backbone):
    sentences = Sentences(tiny_backbone, 9)
    expected = tiny_backbone.condition(["the red car"], length=9).hidden
    assert torch.equal(sentences(["the red car"]), expected)
    assert torch.equal(EmptyPrompt(tiny_backbone, 9)(), tiny_backbone.condition([""], length=9).hidden)
    assert Sentences(tiny_backbone).tokens == tiny_backbone.max_text_tokens


def test_unknown_classes_take_the_mean():
    table = torch.arange(6.0).reshape(3, 2)
    rooms = ClassId(table)
    assert torch.equal(rooms([1])[0, 0], table[1])
    for mean in (rooms(), rooms([-1])):
        assert torch.equal(mean, table.mean(dim=0).view(1, 1, 2))
    assert rooms.identity() == rooms.identity(-1) != rooms.identity(0)


def test_learned_tokens_come_from_their_seed_alone():
    assert torch.equal(LearnedTokens(5, 4, seed=3).embedding, LearnedTokens(5, 4, seed=3).embedding)
    assert not torch.equal(LearnedTokens(5, 4, seed=3).embedding, LearnedTokens(5, 4, seed=4).embedding)


def test_the_adapter_starts_near_the_identity_and_has_a_hidden_width():
    adapter = TextAdapter(6, hidden=3)
    tokens = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    assert adapter.fc[0].weight.shape == (3, 6)
    assert torch.equal(adapter.gamma, torch.full((6,), 1e-4))
    assert 0 < (adapter(tokens) - tokens).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("class_names", {"names": ()}, "needs class names or a table"),
        ("class_names", {"names": ("cat", "")}, "none of them empty"),
        ("class_names", {"names": "cat"}, "expected a list of names"),
        ("class_names", {"templates": ("a photo",)}, "must contain {} once"),
        ("class_names", {"pool": "max"}, "pool is 'max'; expected 'eos' or 'mean'"),
        ("class_names", {"length": 3}, r"tokens and 3 fit"),
        ("class_names", {"table": torch.zeros(3, 7)}, "7 wide and this denoiser attends to text of width 32"),
        ("class_id", {"table": torch.zeros(4, 32)}, "4 rows for 3 names"),
        ("class_names", {"table": torch.zeros(32), "names": ()}, r"shape \[32\]; expected \[rows, width\]"),
        ("class_names", {"table": torch.full((3, 32), torch.nan)}, "not finite"),
        ("learned", {"names": ()}, "need their number"),
        ("learned", {"tokens": -1}, "-1 learned tokens"),
        ("empty", {"length": 1}, "takes 2 .* to 77"),
        ("captions", {"length": 78}, "takes 2 .* to 77"),
        ("caption", {}, "'caption' is unknown; expected one of class_names, learned, captions, empty, class_id"),
    ],
)
def test_mistakes_in_options(tiny_backbone, kind, options, message):
    with pytest.raises(UserError, match=message):
        build(tiny_backbone, kind, **options)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("captions", None, "expected a list with one sentence per image"),
        ("captions", "a cat", "expected a list with one sentence per image"),
        ("captions", ["a cat", " "], "a sentence is empty; say what to look for"),
        ("captions", [3], "the sentence 3 is a int"),
        ("captions", ["one two three four five six seven eight"], "tokens and 12 fit; shorten it"),
        ("class_id", [3], "class id 3 is outside the table of 3 rows; expected 0 to 2"),
        ("class_id", [-2], "class id -2 is outside"),
    ],
)
def test_mistakes_in_what_is_given(tiny_backbone, kind, given, message):
    with pytest.raises(UserError, match=message):
        build(tiny_backbone, kind)(given)


def test_empty_and_long_sentences_when_wanted(tiny_backbone):
    lenient = build(tiny_backbone, "captions", allow_empty=True, truncate=True)
    assert lenient(["", "one two three four five six seven eight nine ten"]).shape[:2] == (2, 12)


def test_text_is_pooled_over_the_words(tiny_backbone):
    table = build(tiny_backbone, "class_names", names=("dog",), templates=("{}",), pool="mean").table
    hidden = tiny_backbone.condition(["dog"], length=8).hidden[0]
    ids = tiny_backbone.tokenizer("dog")["input_ids"]
    torch.testing.assert_close(table[0], hidden[1 : len(ids) - 1].mean(dim=0))
    assert isinstance(build(tiny_backbone, "class_names", table=table, names=()), ClassNames)
