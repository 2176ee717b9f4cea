"""What must hold for every transformer family: DiT, PixArt, Stable Diffusion 3 and 3.5, Flux."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from perception.backbones import AttentionSpec, Condition, DiffusionBackbone, FeatureSpec, load_backbone
from perception.backbones.image_size import image_size
from perception.errors import UserError

KINDS = (
    "dit",
    "dit_pixels",
    "dit_rgb",
    "pixart_alpha",
    "pixart_sigma",
    "sd3",
    "sd3_without_t5",
    "sd35",
    "flux_dev",
    "flux_schnell",
)
TEXTS, CLASSES = ["a cat", "A Dog on a mat ", ""], ["tench", "2", ""]


close = torch.testing.assert_close


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))


def prompts_of(backbone: DiffusionBackbone) -> list[str]:
    """Three prompts that the model understands, the last one empty."""
    return CLASSES if backbone.class_names else TEXTS


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, make_transformer: Callable[[str], Path]) -> Path:
    """A model folder of every kind; read only."""
    return make_transformer(request.param)


@pytest.fixture(scope="module")
def backbone(folder: Path) -> DiffusionBackbone:
    """A backbone of every kind, float32 on the CPU; leave it as it is."""
    return load_backbone(folder, device="cpu")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    """The same model as its diffusers pipeline."""
    components = {"vae": None} if not (folder / "vae").is_dir() else {}
    if not (folder / "text_encoder_3").is_dir() and (folder / "text_encoder").is_dir():
        index = diffusers.DiffusionPipeline.load_config(folder)
        components |= {k: None for k in ("text_encoder_3", "tokenizer_3") if k in index}
    return diffusers.DiffusionPipeline.from_pretrained(folder, **components)


@pytest.fixture(scope="module")
def pictures(backbone: DiffusionBackbone) -> Tensor:
    """Three images of a size that the model takes; not square, unless it takes squares alone."""
    sides = {"DiTTransformer2DModel": (16, 16)}.get(type(backbone.unet).__name__, (16, 12))
    height, width = (side * backbone.latent_stride for side in sides)
    return torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def latents(backbone: DiffusionBackbone, pictures: Tensor) -> Tensor:
    """Clean latents of the images."""
    return backbone.encode(pictures)


@pytest.fixture(scope="module")
def noise(latents: Tensor) -> Tensor:
    """Noise for them."""
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))


def library_call(pipeline: Any, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """The transformer's raw output, called as the pipeline of its family calls it."""
    net, rows = pipeline.transformer, len(x_t)
    name = type(net).__name__
    if name == "DiTTransformer2DModel":
        return net(x_t, timestep=t, class_labels=condition.extra["class_labels"]).sample
    if name == "SD3Transformer2DModel":
        return net(x_t, condition.hidden, condition.pooled, t).sample
    if name == "PixArtTransformer2DModel":
        height, width = (8.0 * side for side in x_t.shape[-2:])
        sizes = {
            "resolution": torch.tensor([[height, width]] * rows),
            "aspect_ratio": torch.tensor([[height / width]] * rows),
        }
        nothing = {"resolution": None, "aspect_ratio": None}
        return net(
            x_t,
            encoder_hidden_states=condition.hidden,
            encoder_attention_mask=condition.extra["mask"].long(),
            timestep=t,
            added_cond_kwargs=sizes if net.use_additional_conditions else nothing,
        ).sample
    channels, (height, width) = x_t.shape[1], x_t.shape[-2:]
    out = net(
        hidden_states=pipeline._pack_latents(x_t, rows, channels, height, width),
        encoder_hidden_states=condition.hidden,
        pooled_projections=condition.pooled,
        timestep=t / 1000,
        img_ids=pipeline._prepare_latent_image_ids(rows, height // 2, width // 2, "cpu", torch.float32),
        txt_ids=torch.zeros(condition.hidden.shape[1], 3),
        guidance=torch.ones(rows) if net.config.guidance_embeds else None,
    ).sample
    return pipeline._unpack_latents(out, 8 * height, 8 * width, 8)


def test_images_have_the_size_of_the_training_unless_another_is_asked_for(backbone):
    side = 1024 if type(backbone.unet).__name__ == "FluxTransformer2DModel" else 16 * backbone.latent_stride
    assert image_size(backbone) == (side, side)
    assert image_size(backbone, 64) == (64, 64)


def test_frozen_and_in_eval_mode(backbone: DiffusionBackbone) -> None:
    backbone.train()
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(m.training for m in backbone.modules())


def test_the_condition_is_that_of_the_pipeline(backbone: DiffusionBackbone, pipeline: Any) -> None:
    prompts = prompts_of(backbone)
    condition = backbone.condition(prompts)
    assert len(condition) == 3 and condition.hidden.shape == (3, backbone.max_text_tokens, backbone.text_width)
    if backbone.class_names:
        assert condition.extra["class_labels"].tolist() == [0, 2, 5]
    elif "mask" in condition.extra:
        hidden, mask, _, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, device="cpu")
        close(condition.hidden, hidden)
        assert torch.equal(condition.extra["mask"], mask.bool())
        assert condition.extra["mask"].sum(1).min() == 1, "the empty prompt has its end token"
    elif hasattr(pipeline, "tokenizer_3"):
        hidden, _, pooled, _ = pipeline.encode_prompt(prompts, None, None, "cpu", do_classifier_free_guidance=False)
        close(condition.hidden, hidden)
        close(condition.pooled, pooled)
    else:
        hidden, pooled, _ = pipeline.encode_prompt(prompts, None, "cpu")
        close(condition.hidden, hidden)
        close(condition.pooled, pooled)


def test_latents_are_those_of_the_pipeline(backbone: DiffusionBackbone, pictures: Tensor, latents: Tensor) -> None:
    if backbone.vae is None:
        pixels = pictures * 2 - 1
        close(latents, pixels if backbone.latent_channels == 3 else pixels.mean(1, keepdim=True))
        shown = backbone.decode(latents)
        close(shown, pictures.mean(1, keepdim=True).expand_as(shown) if latents.shape[1] == 1 else pictures)
        return
    config = backbone.vae.config
    mean = backbone.vae.encode(pictures * 2 - 1).latent_dist.mean
    close(latents, (mean - (config.shift_factor or 0)) * config.scaling_factor)
    plain = backbone.vae.decode(latents / config.scaling_factor + (config.shift_factor or 0)).sample
    close(backbone.decode(latents), (plain / 2 + 0.5).clamp(0, 1))


def test_the_error_is_that_of_the_librarys_training(
    backbone: DiffusionBackbone, pipeline: Any, latents: Tensor, noise: Tensor
) -> None:
    """Noise by the scheduler, output of the transformer as the pipeline calls it, target as its training has it."""
    scheduler, condition = pipeline.scheduler, backbone.condition(prompts_of(backbone))
    if hasattr(scheduler, "alphas_cumprod"):
        t = torch.tensor([20, 500, 980])
        # the training's scheduler; samplers' add_noise reads their own order of timesteps
        x_t, target = diffusers.DDPMScheduler.from_config(scheduler.config).add_noise(latents, noise, t), noise
    else:
        t = scheduler.timesteps[[980, 500, 20]]
        x_t, target = scheduler.scale_noise(latents, t, noise), noise - latents
    out = library_call(pipeline, x_t, t, condition)[:, : latents.shape[1]]
    expected = (out - target).square().flatten(1).mean(1)
    prediction = backbone.denoise(backbone.noise(latents, t, noise), t, condition)
    close(prediction.x_t, x_t)
    close(prediction.raw, out, rtol=1e-4, atol=1e-4)
    estimate, truth = prediction.against(latents, noise)
    close((estimate - truth).square().flatten(1).mean(1), expected, rtol=1e-4, atol=0)


def test_the_learned_variance_is_the_other_half(backbone: DiffusionBackbone, pipeline: Any, latents: Tensor) -> None:
    condition, t = backbone.condition(prompts_of(backbone)), torch.tensor([3, 400, 900])
    prediction = backbone.denoise(latents, t, condition)
    has_variance = pipeline.transformer.config.get("out_channels") == 2 * latents.shape[1]
    assert has_variance == (prediction.variance is not None)
    if has_variance:
        out = library_call(pipeline, latents, t, condition)
        close(torch.cat([prediction.raw, prediction.variance], 1), out, rtol=1e-4, atol=1e-4)


def test_the_grid_is_that_of_the_scheduler(backbone: DiffusionBackbone, pipeline: Any, latents: Tensor) -> None:
    scheduler, positions = pipeline.scheduler, torch.tensor([1, 250, 500, 999])
    found = backbone.spread(positions, latents)
    if hasattr(scheduler, "alphas_cumprod"):
        assert torch.equal(found, positions)
        return
    if scheduler.config.use_dynamic_shifting:
        tokens = latents.shape[-2] * latents.shape[-1] / 4
        mu = 0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256)
        scheduler.set_timesteps(sigmas=(positions / 1000).flip(0).tolist(), mu=mu)
        close(found, scheduler.timesteps.flip(0))
        scheduler.set_timesteps(sigmas=(positions / 1000).flip(0).tolist(), mu=1.15)
        close(backbone.noise_path.spread(positions), scheduler.timesteps.flip(0))
    else:
        close(found, scheduler.timesteps[1000 - positions])
    close(backbone.noise_path.sigma(found) * 1000, found)


def test_every_tap_is_finite_and_as_declared(backbone: DiffusionBackbone, latents: Tensor) -> None:
    taps = backbone.taps
    found = backbone.features(latents=latents[:1], spec=FeatureSpec(tuple(taps), prompt=prompts_of(backbone)[0]))
    assert list(found) == list(taps) and next(iter(taps)) == "latent"
    for name, value in found.items():
        height, width = (s * backbone.latent_stride // taps[name].stride for s in latents.shape[-2:])
        assert value.shape == (1, taps[name].channels or height * width, height, width), name
        assert value.isfinite().all(), name
        if taps[name].kind.endswith("attention"):
            close(value.sum(1), torch.ones_like(value.sum(1)))


def test_taps_are_the_blocks_image_tokens(backbone: DiffusionBackbone, latents: Tensor) -> None:
    condition, seen = backbone.condition(prompts_of(backbone)), {}
    names = [n for n, tap in backbone.taps.items() if tap.kind == "transformer_block"]
    hooks = [
        backbone.unet.get_submodule(name).register_forward_hook(
            lambda m, i, out, name=name: seen.__setitem__(name, out)
        )
        for name in names
    ]
    backbone.denoise(latents, 100, condition)
    taken = backbone.capture(latents, 100, condition, names)
    for hook in hooks:
        hook.remove()
    for name in names:
        tokens = seen[name][-1] if isinstance(seen[name], tuple) else seen[name]
        assert torch.equal(taken[name].flatten(2).transpose(1, 2), tokens), name


def test_masked_tokens_have_no_attention(backbone: DiffusionBackbone, latents: Tensor) -> None:
    condition = backbone.condition(prompts_of(backbone))
    names = [n for n, tap in backbone.taps.items() if tap.kind == "cross_attention"]
    assert bool(names) == ("mask" in condition.extra)
    for value in backbone.capture(latents, 100, condition, names).values():
        assert (value.amax((2, 3)) > 1e-12).equal(condition.extra["mask"])


def test_early_stop(backbone: DiffusionBackbone, latents: Tensor) -> None:
    condition, ran = backbone.condition(prompts_of(backbone)), []
    first, last = (n for n in backbone.taps if n in ("transformer_blocks.0", list(backbone.taps)[-1]))
    whole = backbone.capture(latents, 100, condition, [first], stop=False)[first]
    hook = backbone.unet.get_submodule(last).register_forward_hook(lambda *a: ran.append(last))
    assert torch.equal(backbone.capture(latents, 100, condition, [first])[first], whole)
    hook.remove()
    assert not ran


def test_features_do_not_depend_on_the_batch(backbone: DiffusionBackbone, latents: Tensor) -> None:
    spec = FeatureSpec(tuple(backbone.taps), (20, 500), noise="per_image", seed=3, prompt=prompts_of(backbone)[0])
    ids = ["a", "b", "c"]
    whole = backbone.features(latents=latents, spec=spec, image_ids=ids)
    small = backbone.features(latents=latents, spec=spec, image_ids=ids, micro_batch=1)
    back = backbone.features(latents=latents.flip(0), spec=spec, image_ids=ids[::-1], micro_batch=4)
    for name in spec.taps:
        assert relative(small[name], whole[name]) <= 1e-5, name
        assert relative(back[name].flip(0), whole[name]) <= 1e-5, name


def test_gradients_reach_inputs_and_conditions_only(backbone: DiffusionBackbone, latents: Tensor) -> None:
    condition, x_t = backbone.condition(prompts_of(backbone)), latents.clone().requires_grad_()
    hidden = condition.hidden.clone().requires_grad_()
    with backbone.checkpointed():
        backbone.denoise(x_t, 50, condition.with_hidden(hidden)).eps.square().sum().backward()
    assert x_t.grad is not None and x_t.grad.abs().sum() > 0
    assert backbone.class_names or hidden.grad.abs().sum() > 0
    assert all(p.grad is None for p in backbone.parameters())


def test_shorter_texts_and_other_tokens(backbone: DiffusionBackbone, latents: Tensor) -> None:
    if backbone.class_names:
        return
    short = backbone.condition(["cat"], length=90)
    assert short.hidden.shape[1] == 90
    learned = short.with_hidden(short.hidden[:, :5])
    assert backbone.denoise(latents, 10, learned).raw.isfinite().all()
    with pytest.raises(UserError, match=r"has \d+ tokens and \d+ fit"):
        backbone.condition(["cat " * 600])
    backbone.condition(["cat " * 600], truncate=True)


def test_half_precision(folder: Path, latents: Tensor, noise: Tensor) -> None:
    half, full = (load_backbone(folder, device="cpu", dtype=dtype) for dtype in ("bfloat16", "float32"))
    prompts, errors = prompts_of(full), []
    for backbone in (half, full):
        prediction = backbone.denoise(backbone.noise(latents, 500, noise), 500, backbone.condition(prompts))
        estimate, truth = prediction.against(latents, noise)
        assert prediction.raw.dtype == backbone.dtype and estimate.dtype == truth.dtype == torch.float32
        errors.append((estimate - truth).square().flatten(1).mean(1))
    close(errors[0], errors[1], rtol=0.1, atol=0)
    if full.class_names:
        assert half.condition(prompts).extra["class_labels"].dtype == torch.int64


def test_round_trip(folder: Path, backbone: DiffusionBackbone, latents: Tensor, tmp_path: Path) -> None:
    """What is saved with diffusers is loaded as the same numbers; a random control differs and is repeatable."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "transformer")
    backbone.unet.save_pretrained(copy / "transformer")
    again, condition = load_backbone(copy, device="cpu"), backbone.condition(prompts_of(backbone))
    plain = backbone.denoise(latents, 300, condition).raw
    assert torch.equal(again.denoise(latents, 300, condition).raw, plain)
    a, b = (load_backbone(folder, device="cpu", random_init_seed=0) for _ in range(2))
    assert a.fingerprint == b.fingerprint != backbone.fingerprint and list(a.taps) == list(backbone.taps)
    assert torch.equal(a.denoise(latents, 300, condition).raw, b.denoise(latents, 300, condition).raw)
    assert not torch.equal(a.denoise(latents, 300, condition).raw, plain)


def test_sizes_that_do_not_fit(backbone: DiffusionBackbone, latents: Tensor) -> None:
    condition = backbone.condition(prompts_of(backbone)[:1])
    with pytest.raises(UserError, match=r"latents of 15x16 cells do not fit this"):
        backbone.denoise(latents.new_zeros(1, latents.shape[1], 15, 16), 5, condition)
    with pytest.raises(UserError, match=r"latents of 15x16 cells do not fit this"):  # a job asks before it starts
        image_size(backbone, (15 * backbone.latent_stride, 16 * backbone.latent_stride))
    if type(backbone.unet).__name__ == "SD3Transformer2DModel":
        with pytest.raises(UserError, match=r"larger than this transformer's position table of 48x48 cells"):
            backbone.denoise(latents.new_zeros(1, latents.shape[1], 50, 48), 5, condition)


def test_attention_maps_of_all_blocks_or_of_none(backbone, latents):
    condition = backbone.condition(prompts_of(backbone))
    spec = AttentionSpec(places=("transformer",), merge="all")
    if not any(tap.kind == spec.kind for tap in backbone.taps.values()):
        with pytest.raises(UserError, match="no cross_attention layer of this backbone"):
            backbone.attention_maps(latents, 1, condition, spec)
        return
    maps = backbone.attention_maps(latents, 1, condition, spec)["all"]
    assert maps.shape == (3, condition.hidden.shape[1], *(side // 2 for side in latents.shape[-2:]))
    torch.testing.assert_close(maps.sum(1), torch.ones_like(maps[:, 0]))
    with pytest.raises(UserError, match="transformer of transformers"):
        backbone.attention_maps(latents, 1, condition)
