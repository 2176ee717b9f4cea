"""FeatureSpec and the one noise function."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from typing import Literal

import pytest
import torch

from perception.backbones import DiffusionBackbone, FeatureSpec, sample_noise
from perception.errors import UserError


def test_lists_become_tuples_and_json_is_canonical() -> None:
    spec = FeatureSpec(["mid_block"], [50, 100], aggregate="stack")
    assert spec == FeatureSpec(("mid_block",), (50, 100), aggregate="stack") and hash(spec)
    assert json.dumps(spec.to_json()) == (
        '{"aggregate": "stack", "noise": "shared", "prompt": "", "seed": 0, "taps": ["mid_block"], '
        '"timesteps": [50, 100]}'
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taps": ()}, "FeatureSpec.taps is .* non-empty list of str"),
        ({"taps": "mid_block"}, "FeatureSpec.taps is 'mid_block'; expected a non-empty list"),
        ({"taps": ("a", "a")}, "an entry stands there twice"),
        ({"timesteps": (1.5,)}, "every entry must be of type int"),
        ({"timesteps": (-1,)}, "timesteps start at 0"),
        ({"timesteps": (50, -1)}, "timesteps start at 0"),
        ({"timesteps": 50}, "FeatureSpec.timesteps is 50; expected a non-empty list of int"),
        ({"noise": "fresh"}, "FeatureSpec.noise is 'fresh'; expected one of none, shared, per_image"),
        ({"aggregate": "sum"}, "FeatureSpec.aggregate is 'sum'"),
        ({"seed": -1}, "FeatureSpec.seed is -1"),
        ({"prompt": ["a"]}, "expected one string for all images"),
        ({"draws": 0}, "FeatureSpec.draws is 0; expected a whole number >= 1"),
        ({"draws": True}, "FeatureSpec.draws is True"),
        ({"draws": 2, "noise": "none"}, "draws is 2, but noise is 'none', so every draw would be the same"),
    ],
)
def test_bad_specs(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FeatureSpec(**({"taps": ("mid_block",)} | options))


def test_noise_is_a_function_of_seed_image_and_timestep() -> None:
    base = sample_noise(0, "a.png", 50, (4, 8, 8))
    assert base.dtype == torch.float32 and base.shape == (4, 8, 8)
    assert torch.equal(base, sample_noise(0, "a.png", 50, (4, 8, 8)))
    others = [
        sample_noise(1, "a.png", 50, (4, 8, 8)),
        sample_noise(0, "b.png", 50, (4, 8, 8)),
        sample_noise(0, "a.png", 51, (4, 8, 8)),
    ]
    assert not any(torch.equal(base, other) for other in others)
    many = torch.stack([sample_noise(0, str(i), 1, (4, 16, 16)) for i in range(50)])
    assert abs(float(many.mean())) < 0.02 and abs(float(many.std()) - 1) < 0.02


def test_noise_values_are_pinned() -> None:
    # stored features are keyed by the spec, so these numbers must never change
    expected = torch.tensor([-0.1742, 0.2176, 1.1694])
    torch.testing.assert_close(sample_noise(7, "x", 3, (4, 8, 8)).flatten()[:3], expected, rtol=0, atol=1e-4)


def test_one_draw_has_the_key_and_the_noise_of_before() -> None:
    spec = FeatureSpec(("mid_block",), (50, 100), draws=1)
    assert spec.to_json() == FeatureSpec(("mid_block",), (50, 100)).to_json() and "draws" not in spec.to_json()
    assert replace(spec, draws=2).to_json() == spec.to_json() | {"draws": 2}
    noises = [sample_noise(7, "x", 3, (4, 8, 8), draw) for draw in range(3)]
    assert torch.equal(noises[0], sample_noise(7, "x", 3, (4, 8, 8)))
    assert not any(torch.equal(a, b) for a, b in combinations(noises, 2))
    expected = torch.tensor([-0.7477, 1.6213, -1.1756])  # pinned, as above
    torch.testing.assert_close(noises[1].flatten()[:3], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("noise", ["shared", "per_image"])
def test_draws_are_the_mean_over_noises(
    tiny_backbone: DiffusionBackbone, noise: Literal["shared", "per_image"]
) -> None:
    """DIFT's ensemble (Tang et al. 2023), expanded by hand."""
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    names, taps, steps = ["a", "b", "c"], ("mid_block", "latent", "up_blocks.1"), (50, 261)
    spec = FeatureSpec(taps, steps, noise, seed=5, aggregate="stack", draws=4)
    found = tiny_backbone.features(images, spec, image_ids=names, micro_batch=32)
    x0, told = tiny_backbone.encode(images), tiny_backbone.condition([""])
    for row, name in enumerate(names):
        for column, t in enumerate(steps):
            drawn = [sample_noise(5, name if noise == "per_image" else "", t, x0.shape[1:], draw) for draw in range(4)]
            x_t = tiny_backbone.noise(x0[row].expand(4, -1, -1, -1), t, torch.stack(drawn))
            maps = tiny_backbone.capture(x_t, t, told, ["mid_block", "up_blocks.1"])
            for tap, value in maps.items():
                assert (found[tap][row, column] - value.mean(0)).norm() <= 1e-4 * value.mean(0).norm()
                assert (found[tap][row, column] - value[:3].mean(0)).norm() > 3e-3 * value.mean(0).norm()
            torch.testing.assert_close(found["latent"][row, column], x0[row])


@pytest.mark.parametrize("micro_batch", [1, 3, 5, 7])
def test_draws_do_not_depend_on_the_batch(tiny_backbone: DiffusionBackbone, micro_batch: int) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    spec = FeatureSpec(("mid_block",), (50, 261), "per_image", draws=3)
    whole = tiny_backbone.features(images, spec, image_ids=["a", "b"], micro_batch=12)["mid_block"]
    parts = tiny_backbone.features(images, spec, image_ids=["a", "b"], micro_batch=micro_batch)["mid_block"]
    alone = tiny_backbone.features(images[1:], spec, image_ids=["b"], micro_batch=micro_batch)["mid_block"]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone, whole[1:], rtol=1e-4, atol=1e-5)


def test_the_global_generator_is_left_alone(tiny_backbone: DiffusionBackbone) -> None:
    before = torch.get_rng_state()
    tiny_backbone.features(torch.rand(1, 3, 64, 64, generator=torch.Generator()), FeatureSpec(("mid_block",)))
    assert torch.equal(before, torch.get_rng_state())


def test_noise_modes(tiny_backbone: DiffusionBackbone) -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def difference(noise: str, ids: list[str] | None = None) -> float:
        """Largest relative difference between the features of two equal images."""
        spec = FeatureSpec(("mid_block",), noise=noise)
        a, b = tiny_backbone.features(torch.cat([image, image]), spec, image_ids=ids)["mid_block"]
        return float((a - b).abs().max() / a.abs().max())

    assert difference("none") <= 1e-5 and difference("shared") <= 1e-5
    assert difference("shared", ["a", "b"]) <= 1e-5
    assert difference("per_image") <= 1e-5, "the default id is a hash of the content"
    assert difference("per_image", ["a", "b"]) > 1e-2


def test_clean_latent_without_noise(tiny_backbone: DiffusionBackbone) -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = tiny_backbone.features(image, FeatureSpec(("mid_block",), (1,), noise="none", prompt="a cat"))
    told = tiny_backbone.condition(["a cat"])
    direct = tiny_backbone.capture(tiny_backbone.encode(image), 1, told, ["mid_block"])
    assert torch.equal(found["mid_block"], direct["mid_block"])


def test_latents_are_told_from_images_by_their_channels(tiny_backbone: DiffusionBackbone) -> None:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latents, spec = tiny_backbone.encode(images), FeatureSpec(("mid_block",))
    found = [tiny_backbone.features(inputs, spec)["mid_block"] for inputs in (images, latents)]
    assert torch.equal(*found)
    assert torch.equal(found[0], tiny_backbone.features(latents=latents, spec=spec)["mid_block"])


def test_bad_feature_calls(tiny_backbone: DiffusionBackbone) -> None:
    image, spec = torch.rand(2, 3, 64, 64, generator=torch.Generator()), FeatureSpec(("mid_block",))
    with pytest.raises(UserError, match=r"unknown tap 'up_block.1'; the nearest taps .* up_blocks.1"):
        tiny_backbone.features(image, FeatureSpec(("up_block.1",)))
    with pytest.raises(UserError, match="timestep 1000 is outside"):
        tiny_backbone.features(image, FeatureSpec(("mid_block",), (1000,)))
    with pytest.raises(UserError, match="needs a FeatureSpec"):
        tiny_backbone.features(image)
    with pytest.raises(UserError, match=r"either inputs .* or latents"):
        tiny_backbone.features(spec=spec)
    with pytest.raises(UserError, match="1 image_ids were given for 2 images"):
        tiny_backbone.features(image, FeatureSpec(("mid_block",), noise="per_image"), image_ids=["a"])
    with pytest.raises(UserError, match=r"expected images \[batch, 3, height, width\] or latents \[batch, 4"):
        tiny_backbone.features(torch.zeros(1, 5, 64, 64), spec)
    with pytest.raises(UserError, match="the condition has 3 rows for a batch of 2"):
        tiny_backbone.features(image, spec, condition=tiny_backbone.condition(["a", "b", "c"]))


@pytest.mark.parametrize("tap", ["mid_block", "latent"])
def test_all_aggregates_are_of_one_stack_of_images_and_timesteps(tiny_backbone, tap):
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    stack, mean, concat = (
        tiny_backbone.features(images, FeatureSpec([tap], [50, 100], aggregate=kind))[tap]
        for kind in ("stack", "mean", "concat")
    )
    assert stack.shape[:2] == (3, 2)
    torch.testing.assert_close(mean, (stack[:, 0] + stack[:, 1]) / 2)
    torch.testing.assert_close(concat, torch.cat([stack[:, 0], stack[:, 1]], 1))
    alone = tiny_backbone.features(images[2:], FeatureSpec([tap], [100], aggregate="stack"))[tap]
    torch.testing.assert_close(stack[2, 1], alone[0, 0], rtol=1e-4, atol=1e-4)
