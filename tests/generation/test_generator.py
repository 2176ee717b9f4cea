"""Label maps to images: both passes, determinism, costs, options, the style swap."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import nn

from perception.backbones import DiffusionBackbone
from perception.backbones.denoisers.unet import UNetDenoiser
from perception.errors import UserError
from perception.generation import (
    ControlledDenoiser,
    GenerationOptions,
    SceneGenerator,
    ScenePlanner,
    Vocabulary,
    load_control,
    new_control,
    preset,
    with_denoiser,
)
from perception.generation.plan import pass_cost
from perception.generation.scenes import Scene, noise_stream, resized

Options = Callable[..., GenerationOptions]


@pytest.fixture
def generator(tiny_backbone: DiffusionBackbone, control: nn.Module, small: Options) -> SceneGenerator:
    return SceneGenerator(tiny_backbone, [control], small())


def _scenes(generator: SceneGenerator, street: np.ndarray, count: int = 2) -> list[Scene]:
    return [generator.composer(street, label=13, seed=3, sample_id=f"street/{i}") for i in range(count)]


def test_images_do_not_depend_on_the_batch(generator: SceneGenerator, street: np.ndarray) -> None:
    scenes = _scenes(generator, street)
    together = generator(scenes)
    (alone,) = generator(scenes[1:])
    assert alone.image.size == (96, 64)
    difference = np.abs(np.asarray(alone.image).astype(int) - np.asarray(together[1].image))
    assert difference.max() <= 1
    assert not np.array_equal(np.asarray(together[0].image), np.asarray(together[1].image))
    assert np.array_equal(alone.labels, scenes[1].labels)


def test_scenes_are_a_function_of_seed_and_sample(generator: SceneGenerator, street: np.ndarray) -> None:
    first, second = _scenes(generator, street)
    (again,) = _scenes(generator, street, 1)
    assert (first.box, first.prompt) == (again.box, again.prompt)
    assert np.array_equal(first.held, again.held) and 255 in street
    assert (first.box, first.prompt) != (second.box, second.prompt)
    draws = [torch.randn(4, generator=noise_stream(0, name)) for name in ("a", "a", "b")]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_provenance(generator: SceneGenerator, street: np.ndarray) -> None:
    scene = generator.composer(street, label=13, domain="night", seed=3, sample_id="x")
    record = json.loads(json.dumps(generator(scenes=[scene])[0].record))
    assert record["prompt"].endswith("in night weather.") and record["domain"] == "night"
    assert record["backbone_fingerprint"] == generator.backbone.fingerprint
    assert record["options"]["size"] == [64, 96] and len(record["control_fingerprints"]) == 1
    assert GenerationOptions(**{k: tuple(v) if isinstance(v, list) else v for k, v in record["options"].items()})


@pytest.mark.parametrize(
    "changes", [{"rescale": 1.0}, {"strength": 0.5}, {"rescale": 1.5}, {"layout": "shifted"}], ids=str
)
def test_variants(
    tiny_backbone: DiffusionBackbone, control: nn.Module, small: Options, street: np.ndarray, changes: dict
) -> None:
    generator = SceneGenerator(tiny_backbone, [control], small(**changes))
    (made,) = generator(_scenes(generator, street, 1))
    assert made.image.size == (96, 64) and np.asarray(made.image).std() > 0
    if changes.get("rescale") == 1.0:
        assert made.image is made.base


def test_depth_beside_the_labels(
    tiny_backbone: DiffusionBackbone, control: nn.Module, depth_control: nn.Module, small: Options, street: np.ndarray
) -> None:
    generator = SceneGenerator(tiny_backbone, [control, depth_control], small())
    depth = np.linspace(0, 1, street.size, dtype=np.float32).reshape(1, *street.shape)
    scene = generator.composer(street, label=13, seed=0, sample_id="a", others=[depth])
    assert scene.others[0].shape == (1, 64, 96)
    assert generator([scene])[0].image.size == (96, 64)
    with pytest.raises(UserError, match="expected \\[channels, height, width\\] of the same size"):
        generator.composer(street, seed=0, sample_id="a", others=[depth[:, :5]])


def test_control_images_are_resized_as_the_labels() -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert resized(labels, 1.0) is labels
    assert resized(labels, 0.5).tolist() == [[5, 7]]
    large = resized(labels[None].astype(np.float32), 2.0)
    assert np.array_equal(large[0], labels.repeat(2, 0).repeat(2, 1))


def test_wrong_networks(tiny_backbone: DiffusionBackbone, control: nn.Module, small: Options) -> None:
    with pytest.raises(UserError, match='takes 20 channels, but 2 classes and "ignore" make 3'):
        SceneGenerator(tiny_backbone, [control], small(), Vocabulary(("sky", "road")))


def test_wrong_options() -> None:
    with pytest.raises(UserError, match=r"solver is 'euler', expected one of ddim.*steps is 0: expected 1 to 500"):
        GenerationOptions(solver="euler", steps=0)  # type: ignore[arg-type]
    for interval in ((0.5,), (0.0, 0.5, 1.0), (0.8, 0.2)):
        with pytest.raises(UserError, match=r"guidance_interval is .*expected two shares of the steps"):
            GenerationOptions(guidance_interval=interval)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"steps is 501: .*guidance_scale is nan: expected a finite number"):
        GenerationOptions(steps=501, guidance_scale=math.nan)
    with pytest.raises(UserError, match="unknown generation options strides"):
        preset("fast", strides=4)
    with pytest.raises(UserError, match="'quick' does not exist; there are: exact, reference, fast"):
        preset("quick")


def test_plan_counts_what_runs(generator: SceneGenerator, street: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    call = ControlledDenoiser.__call__
    monkeypatch.setattr(
        ControlledDenoiser, "__call__", lambda self, x, *a, **k: (rows.append(len(x)), call(self, x, *a, **k))[1]
    )
    (scene,) = _scenes(generator, street, 1)
    cost = ScenePlanner(generator.denoiser, generator.options)(scene)
    generator([scene])
    assert cost.evaluations == sum(rows)
    assert cost.evaluations <= ScenePlanner(generator.denoiser, generator.options)().evaluations
    assert min(cost.control_flops, cost.denoiser_flops, cost.autoencoder_flops) > 0
    assert [part.skipped > 0 for part in cost.passes] == [False, True]


def test_evaluations_of_the_published_size() -> None:
    """Section 9 of the specification: 3,280 evaluations at stride 8, 1,040 at 16, 400 at 32."""
    small, large = torch.ones(64, 64, dtype=torch.bool), torch.ones(128, 128, dtype=torch.bool)

    def evaluations(options: GenerationOptions) -> int:
        return sum(pass_cost(options, free, base=base).denoiser_rows for free, base in ((small, True), (large, False)))

    assert [evaluations(preset("reference", stride=s)) for s in (8, 16, 32, 64)] == [3280, 1040, 400, 200]
    assert evaluations(preset("fast")) * 10 <= 3280
    half = preset("exact", guidance_interval=(0.0, 0.5))
    assert evaluations(half) == 3280 * 3 // 4
    assert pass_cost(preset("exact", told="conditional"), large, base=False).control_rows == 81 * 20


def test_flops_of_the_published_size(tiny_backbone: DiffusionBackbone) -> None:
    """Section 9: 3.57 PFLOP at stride 8, of which the conditioning embedding is now computed once per tile."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        control = ControlNetModel(
            conditioning_channels=20,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
    sd15 = DiffusionBackbone("sd15", "", UNetDenoiser(unet), vae, tiny_backbone.conditioner, tiny_backbone.noise_path)
    denoiser = ControlledDenoiser(sd15, [control])
    cost = ScenePlanner(denoiser, preset("reference"))()
    assert cost.denoiser_flops / 3280 == pytest.approx(0.803e12, rel=0.005)
    assert cost.control_flops == pytest.approx(3280 * (0.285e12 - 0.016e12) + 82 * 0.016e12, rel=0.01)
    assert cost.autoencoder_flops == pytest.approx(17.9e12, rel=0.005)
    fast = ScenePlanner(denoiser, preset("fast"))()
    assert cost.flops / fast.flops > 10
    assert (cost.kept_values, fast.kept_values) == (81 * 320 * 64 * 64, 320 * 128 * 128)


def test_control_round_trip(tiny_backbone: DiffusionBackbone, control: ControlNetModel, tmp_path: Path) -> None:
    control.save_pretrained(tmp_path)
    loaded = load_control(tmp_path, tiny_backbone)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), control.parameters(), strict=True))
    assert not any(p.requires_grad for p in loaded.parameters())
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_control(tmp_path / "nowhere", tiny_backbone)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="is missing"):
        load_control(tmp_path, tiny_backbone)


def test_a_new_control_changes_nothing(tiny_backbone: DiffusionBackbone) -> None:
    control, state = new_control(tiny_backbone, 4), torch.random.get_rng_state()
    denoiser = ControlledDenoiser(tiny_backbone, [control])
    x_t, told = torch.ones(1, 4, 8, 8), tiny_backbone.condition(["a road"])
    with torch.no_grad():
        controlled = denoiser(x_t, 500, told, denoiser.embed([torch.ones(1, 4, 64, 64)])).eps
        torch.testing.assert_close(controlled, tiny_backbone.denoise(x_t, 500, told).eps)
    new_control(tiny_backbone, 4)
    assert torch.equal(state, torch.random.get_rng_state())


def test_style_swap(tiny_backbone: DiffusionBackbone, tmp_path: Path) -> None:
    """Another denoiser between the same autoencoder and text encoder; the prior stays as it is."""
    source = UNet2DConditionModel.from_config(tiny_backbone.unet.config)
    source.save_pretrained(tmp_path)
    swapped = with_denoiser(tiny_backbone, tmp_path)
    assert swapped.vae is tiny_backbone.vae and swapped.text_encoder is tiny_backbone.text_encoder
    assert len({swapped.fingerprint, tiny_backbone.fingerprint}) == 2
    assert swapped.fingerprint == with_denoiser(tiny_backbone, source).fingerprint
    x_t, told = torch.ones(1, 4, 8, 8), tiny_backbone.condition(["a road"])
    with torch.no_grad():
        assert not torch.allclose(swapped.denoise(x_t, 5, told).eps, tiny_backbone.denoise(x_t, 5, told).eps)
    wide = UNet2DConditionModel.from_config({**tiny_backbone.unet.config, "block_out_channels": (32, 32, 32, 32)})
    with pytest.raises(UserError, match="has block_out_channels"):
        with_denoiser(tiny_backbone, wide)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditioning_embedding_out_channels": [2**20] * 4}, "it asks for far more weights than the"),
        ({"layers_per_block": 2**20}, "it asks for far more weights than the"),
        ({"in_channels": "x"}, "in_channels is 'x', expected a whole number"),
        ({"block_out_channels": 5}, "its config.json describes no model"),
        ({"_class_name": ["ControlNetModel"]}, "supported is ControlNetModel"),
        ({"quantization_config": {}}, "quantization_config is set, which is not supported"),
    ],
)
def test_hostile_controls(
    tiny_backbone: DiffusionBackbone, control: ControlNetModel, tmp_path: Path, change: dict, message: str
) -> None:
    control.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        load_control(tmp_path, tiny_backbone)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="nested more than 32 levels deep"):
        load_control(tmp_path, tiny_backbone)
