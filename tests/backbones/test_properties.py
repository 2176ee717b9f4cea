"""What must hold for every kind of backbone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perception.backbones import DiffusionBackbone, FeatureSpec

PROMPTS = ["a cat", "a dog on a mat", ""]


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))


def some_taps(backbone: DiffusionBackbone) -> tuple[str, ...]:
    """The first and last tap of every kind, in order of execution."""
    kinds = {tap.kind for tap in backbone.taps.values()}
    ends = {
        names[i]
        for kind in kinds
        for i in (0, -1)
        if (names := [n for n, t in backbone.taps.items() if t.kind == kind])
    }
    return tuple(name for name in backbone.taps if name in ends)


@pytest.fixture()
def noised(any_backbone: DiffusionBackbone, images: Tensor) -> Tensor:
    """x_t of the images at t = 100, [3, C, h, w]."""
    latents = any_backbone.encode(images)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    return any_backbone.noise(latents, 100, noise)


def test_frozen_and_in_eval_mode(any_backbone: DiffusionBackbone) -> None:
    any_backbone.train()
    assert not any(p.requires_grad for p in any_backbone.parameters())
    assert not any(m.training for m in any_backbone.modules())
    assert {p.device.type for p in any_backbone.parameters()} == {"cpu"}
    assert any_backbone.dtype == torch.float32


def test_every_tap_is_finite_and_as_declared(any_backbone: DiffusionBackbone, images: Tensor) -> None:
    taps = any_backbone.taps
    found = any_backbone.features(images[:1], FeatureSpec(tuple(taps)))
    assert list(found) == list(taps) and next(iter(taps)) == "latent"
    for name, value in found.items():
        tap = taps[name]
        height, width = -(-64 // tap.stride), -(-72 // tap.stride)
        channels = tap.channels or height * width  # self-attention: one channel per cell
        assert value.shape == (1, channels, height, width), name
        assert value.isfinite().all(), name


def test_attention_taps_are_distributions_over_the_tokens(any_backbone: DiffusionBackbone, images: Tensor) -> None:
    kinds = ("cross_attention", "self_attention")
    names = tuple(name for name, tap in any_backbone.taps.items() if tap.kind in kinds)
    for value in any_backbone.features(images[:1], FeatureSpec(names)).values():
        torch.testing.assert_close(value.sum(1), torch.ones_like(value.sum(1)))
        assert (value >= 0).all()


def test_denoise_is_the_plain_diffusers_forward_bit_for_bit(any_backbone: DiffusionBackbone, noised: Tensor) -> None:
    condition = any_backbone.condition(PROMPTS)
    added = None
    if condition.pooled is not None:
        sizes = torch.tensor([[64.0, 72.0, 0.0, 0.0, 64.0, 72.0]]).expand(3, 6)
        added = {"text_embeds": condition.pooled, "time_ids": sizes}
    plain = any_backbone.unet(noised, 100, condition.hidden, added_cond_kwargs=added).sample
    assert torch.equal(any_backbone.denoise(noised, 100, condition).raw, plain)


def test_taps_are_the_modules_outputs_bit_for_bit(any_backbone: DiffusionBackbone, noised: Tensor) -> None:
    condition, seen = any_backbone.condition(PROMPTS), {}
    names = [n for n in some_taps(any_backbone) if any_backbone.taps[n].kind in ("block", "residual_block")]
    for name in names:
        any_backbone.unet.get_submodule(name).register_forward_hook(
            lambda m, i, out, name=name: seen.__setitem__(name, out[0] if isinstance(out, tuple) else out)
        )
    any_backbone.denoise(noised, 100, condition)
    taken = any_backbone.capture(noised, 100, condition, names)
    assert list(taken) == names
    assert all(torch.equal(taken[name], seen[name]) for name in names)


def test_recording_does_not_change_the_prediction(any_backbone: DiffusionBackbone, noised: Tensor) -> None:
    condition, out = any_backbone.condition(PROMPTS), []
    handle = any_backbone.unet.conv_out.register_forward_hook(lambda m, i, o: out.append(o))
    plain = any_backbone.denoise(noised, 100, condition).raw
    any_backbone.capture(noised, 100, condition, some_taps(any_backbone), stop=False)
    handle.remove()
    assert len(out) == 2 and torch.equal(out[1], plain)


def test_early_stop_leaves_taps_unchanged(any_backbone: DiffusionBackbone, noised: Tensor) -> None:
    condition = any_backbone.condition(PROMPTS)
    for name in some_taps(any_backbone):
        stopped = any_backbone.capture(noised, 100, condition, [name])[name]
        assert torch.equal(stopped, any_backbone.capture(noised, 100, condition, [name], stop=False)[name]), name


def test_nothing_runs_after_the_last_tap(any_backbone: DiffusionBackbone, noised: Tensor) -> None:
    ran = []
    handles = [
        any_backbone.unet.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: ran.append(name))
        for name in ("mid_block", "up_blocks.0", "up_blocks.1", "conv_out")
    ]
    any_backbone.capture(noised, 100, any_backbone.condition(["x"]), ["up_blocks.0", "mid_block"])
    for handle in handles:
        handle.remove()
    assert ran == ["mid_block", "up_blocks.0"]


@pytest.mark.parametrize("noise", ["none", "shared", "per_image"])
def test_features_do_not_depend_on_the_batch(any_backbone: DiffusionBackbone, images: Tensor, noise: str) -> None:
    spec = FeatureSpec(some_taps(any_backbone), (20, 500), noise=noise, seed=3)
    ids = ["a", "b", "c"]
    whole = any_backbone.features(images, spec, image_ids=ids)
    small = any_backbone.features(images, spec, image_ids=ids, micro_batch=1)
    back = any_backbone.features(images.flip(0), spec, image_ids=ids[::-1], micro_batch=4)
    alone = any_backbone.features(images[1:2], spec, image_ids=["b"])
    for name in spec.taps:
        assert relative(small[name], whole[name]) <= 1e-5
        assert relative(back[name].flip(0), whole[name]) <= 1e-5
        assert relative(alone[name], whole[name][1:2]) <= 1e-5


def test_timesteps_in_one_call_equal_one_by_one(any_backbone: DiffusionBackbone, images: Tensor) -> None:
    taps, steps = some_taps(any_backbone), (10, 300, 999)
    stacked = any_backbone.features(images, FeatureSpec(taps, steps, aggregate="stack"))
    flat = any_backbone.features(images, FeatureSpec(taps, steps))
    mean = any_backbone.features(images, FeatureSpec(taps, steps, aggregate="mean"))
    single = [any_backbone.features(images, FeatureSpec(taps, (t,))) for t in steps]
    for name in taps:
        assert stacked[name].shape[:2] == (3, 3)
        for i in range(3):
            assert relative(stacked[name][:, i], single[i][name]) <= 1e-5
        assert torch.equal(flat[name], stacked[name].flatten(1, 2))
        assert torch.equal(mean[name], stacked[name].mean(1))


def test_images_and_their_latents_give_the_same_features(any_backbone: DiffusionBackbone, images: Tensor) -> None:
    spec = FeatureSpec(("latent", "mid_block"))
    a = any_backbone.features(images, spec)
    b = any_backbone.features(latents=any_backbone.encode(images), spec=spec)
    assert torch.equal(a["latent"], any_backbone.encode(images))
    assert torch.equal(a["mid_block"], b["mid_block"])


def test_prediction_readings_agree(any_backbone: DiffusionBackbone, noised: Tensor) -> None:
    p = any_backbone.denoise(noised, torch.tensor([0, 400, 999]), any_backbone.condition(PROMPTS))
    torch.testing.assert_close(p.alpha * p.x0 + p.sigma * p.eps, noised, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(p.alpha * p.eps - p.sigma * p.x0, p.v, rtol=1e-3, atol=1e-3)


def test_gradients_reach_inputs_and_conditions_only(any_backbone: DiffusionBackbone, noised: Tensor) -> None:
    condition = any_backbone.condition(PROMPTS)
    hidden = condition.hidden.clone().requires_grad_()
    x_t = noised.clone().requires_grad_()
    any_backbone.denoise(x_t, 50, condition.with_hidden(hidden)).eps.square().sum().backward()
    assert hidden.grad is not None and hidden.grad.abs().sum() > 0
    assert x_t.grad is not None and x_t.grad.abs().sum() > 0
    assert all(p.grad is None for p in any_backbone.parameters())


def test_decode_gives_images(any_backbone: DiffusionBackbone, images: Tensor) -> None:
    decoded = any_backbone.decode(any_backbone.encode(images))
    assert decoded.shape == images.shape and decoded.min() >= 0 and decoded.max() <= 1
