"""Attention probabilities and their averages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perception.backbones import AttentionSpec, Condition, DiffusionBackbone
from perception.backbones.attention import AttentionRecorder
from perception.errors import UserError

LAYER = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"


@pytest.fixture(scope="module")
def inputs(tiny_backbone: DiffusionBackbone) -> tuple[Tensor, Condition]:
    """Latents [2, 4, 16, 16] and two prompts."""
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return latents, tiny_backbone.condition(["a cat", "a dog"])


@pytest.mark.parametrize("cross", [True, False])
def test_equals_diffusers_attention_scores(tiny_backbone: DiffusionBackbone, cross: bool) -> None:
    attention = tiny_backbone.unet.get_submodule(LAYER if cross else LAYER.replace("attn2", "attn1"))
    generator, seen = torch.Generator().manual_seed(0), []
    hidden, text = torch.randn(2, 9, 32, generator=generator), torch.randn(2, 5, 32, generator=generator)
    source = text if cross else hidden
    plain = attention(hidden, encoder_hidden_states=text if cross else None)
    with AttentionRecorder(attention, seen.append, heads="all"):
        assert torch.equal(attention(hidden, encoder_hidden_states=text if cross else None), plain)
    query, key = (attention.head_to_batch_dim(x) for x in (attention.to_q(hidden), attention.to_k(source)))
    scores = attention.get_attention_scores(query, key).unflatten(0, (2, -1))  # [B, heads, N, K]
    torch.testing.assert_close(seen[0], scores.transpose(-1, -2))


def test_head_reductions(tiny_backbone: DiffusionBackbone, inputs: tuple[Tensor, Condition]) -> None:
    maps = {h: tiny_backbone.capture(inputs[0], 1, inputs[1], [LAYER], heads=h)[LAYER] for h in ("all", "mean", "max")}
    assert maps["all"].shape == (2, 8, 77, 8, 8)
    torch.testing.assert_close(maps["mean"], maps["all"].mean(1))
    torch.testing.assert_close(maps["max"], maps["all"].amax(1))


def test_maps_per_resolution_are_means_over_layers(
    tiny_backbone: DiffusionBackbone, inputs: tuple[Tensor, Condition]
) -> None:
    layers = tiny_backbone.attention_maps(*inputs[:1], 1, inputs[1], AttentionSpec(merge="layer"))
    assert len(layers) == 15 and not any("mid" in str(name) for name in layers)
    maps = tiny_backbone.attention_maps(inputs[0], 1, inputs[1])
    assert {stride: tuple(m.shape) for stride, m in maps.items()} == {
        32: (2, 77, 4, 4),
        16: (2, 77, 8, 8),
        8: (2, 77, 16, 16),
    }
    # VPD: five layers per resolution, three of the up path and two of the down path
    for stride, value in maps.items():
        same = [m for name, m in layers.items() if tiny_backbone.taps[str(name)].stride == stride]
        assert len(same) == 5
        torch.testing.assert_close(value, sum(same) / 5)


def test_places_sizes_tokens_and_one_map(tiny_backbone: DiffusionBackbone, inputs: tuple[Tensor, Condition]) -> None:
    latents, told = inputs
    coarse = tiny_backbone.attention_maps(latents, 1, told, AttentionSpec(max_size=8))
    assert sorted(coarse) == [16, 32]
    mid = tiny_backbone.attention_maps(latents, 1, told, AttentionSpec(places=("mid",), merge="layer"))
    assert list(mid) == ["mid_block.attentions.0.transformer_blocks.0.attn2"]
    whole = tiny_backbone.attention_maps(latents, 1, told)
    words = tiny_backbone.attention_maps(latents, 1, told, AttentionSpec(tokens=(1, 2)))
    assert torch.equal(words[16], whole[16][:, 1:3])
    single = tiny_backbone.attention_maps(latents, 1, told, AttentionSpec(merge="all", places=("up", "down", "mid")))
    assert list(single) == ["all"] and single["all"].shape == (2, 77, 16, 16)
    torch.testing.assert_close(single["all"].sum(1), torch.ones(2, 16, 16))
    per_head = tiny_backbone.attention_maps(latents, 1, told, AttentionSpec(merge="layer", heads="all"))
    assert {m.dim() for m in per_head.values()} == {5}


def test_short_conditions_and_self_attention(tiny_backbone: DiffusionBackbone) -> None:
    latents = torch.randn(1, 4, 11, 9, generator=torch.Generator().manual_seed(0))
    short = tiny_backbone.condition(["a cat"], length=5)
    maps = tiny_backbone.attention_maps(latents, 1, short)
    assert {s: tuple(m.shape) for s, m in maps.items()} == {32: (1, 5, 3, 3), 16: (1, 5, 6, 5), 8: (1, 5, 11, 9)}
    own = tiny_backbone.attention_maps(latents, 1, short, AttentionSpec("self_attention", max_size=3))
    assert own[32].shape == (1, 9, 3, 3)


def test_recording_composes_with_a_custom_processor(
    tiny_backbone: DiffusionBackbone, inputs: tuple[Tensor, Condition]
) -> None:
    before = dict(tiny_backbone.unet.attn_processors)
    plain = tiny_backbone.capture(inputs[0], 1, inputs[1], [LAYER])[LAYER]
    from diffusers.models.attention_processor import AttnProcessor

    tiny_backbone.unet.set_attn_processor(AttnProcessor())
    own = tiny_backbone.capture(inputs[0], 1, inputs[1], [LAYER])[LAYER]
    tiny_backbone.unet.set_attn_processor(dict(before))
    torch.testing.assert_close(own, plain)
    assert tiny_backbone.unet.attn_processors == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"places": ("left",)}, "expected some of up, down, mid"),
        ({"heads": "sum"}, "AttentionSpec.heads is 'sum'; expected one of mean, max, all"),
        ({"merge": "none"}, "AttentionSpec.merge is 'none'"),
        ({"kind": "self_attention", "merge": "all"}, "different tokens"),
        ({"max_size": 1}, "no cross_attention layer .* raise max_size"),
        ({"tokens": (77,)}, r"token positions \(77,\) are outside 0..76"),
    ],
)
def test_bad_specs(
    tiny_backbone: DiffusionBackbone, inputs: tuple[Tensor, Condition], options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tiny_backbone.attention_maps(inputs[0], 1, inputs[1], AttentionSpec(**options))
