"""Parity of the scene generator with the reference: labels, prompts, crops, tiles, control, fusion, a whole job.

Options come from the JSON beside each file. The whole job at true size takes
minutes: with PERCEPTION_FULL_PARITY=1 its second pass runs too, otherwise it is decoded from the stored latents.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from dginstyle_goldens import FOLDER, ROOT, cases, documents
from dginstyle_quirks import (
    label_statistics,
    labels_of_colours,
    reference_below,
    reference_saved_labels,
    reference_views,
    small_components,
)
from PIL import Image
from safetensors.torch import load_file

from perception.backbones import Condition, load_backbone
from perception.generation import CITYSCAPES, PromptBuilder, SceneGenerator, new_control, preset
from perception.generation.control import ControlledDenoiser
from perception.generation.crops import class_box, cut
from perception.generation.fusion import Guidance, LatentFusion
from perception.generation.labels import components, large_components, mask_on_latents, one_hot
from perception.generation.prompts import Prompt, names_in
from perception.generation.reference import reference_prediction
from perception.generation.scenes import Scene
from perception.generation.solvers import Solver
from perception.generation.windows import tiles_of

FULL = os.environ.get("PERCEPTION_FULL_PARITY") == "1"
LATENTS, RESIDUALS = 2e-4, 2e-5  # absolute, of the README


LABELS = cases("labels*.safetensors")
CROPS = cases("crops*.safetensors")
COMPONENTS = cases("components*.safetensors")
CONTROL = {name: case for name, case in cases("controlnet*.safetensors").items() if "cond_emb" in case[0]}
REFINE = cases("mrlf_*.safetensors", where=lambda config: "rescale" in config)
EDGE = cases("mrlf_*.safetensors", where=lambda config: "batch" in config)
JOBS = sorted(FOLDER.glob("gen_job*/job.json"))
JOB_SAMPLES = [(path.parent, i) for path in JOBS for i in range(len(json.loads(path.read_text())["samples"]))]
assert CONTROL and JOBS


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(ROOT / "tiny-sd", device="cpu")


@pytest.fixture
def control(backbone):
    """The trunk of the denoiser with the stored embedding and projections; trainable."""
    (weights,) = (load_file(path) for path in FOLDER.glob("*_weights.safetensors"))
    channels = weights["controlnet_cond_embedding.conv_in.weight"].shape[1]
    sizes = [weights["controlnet_cond_embedding.conv_in.weight"].shape[0]]
    sizes += [value.shape[0] for key, value in sorted(weights.items()) if key.endswith(("s.1.weight", "s.3.weight"))
              and "cond_embedding" in key]  # fmt: skip
    sizes += [weights["controlnet_cond_embedding.conv_out.weight"].shape[1]]
    model = new_control(backbone, channels, tuple(sizes))
    assert not model.load_state_dict(weights, strict=False).unexpected_keys
    return model.eval()


@pytest.fixture
def denoiser(backbone, control):
    return ControlledDenoiser(backbone, [control.requires_grad_(False)])


def _check_close(actual, expected, atol):
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=atol)


def _check_picture(actual, expected):
    """At most one grey level, on at most 1 % of the values."""
    difference = np.abs(np.asarray(actual).astype(int) - expected.numpy())
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.01


@pytest.mark.parametrize("name", LABELS)
def test_control_tensor(name):
    tensors, config = LABELS[name]
    labels, classes = tensors["label"].numpy().copy(), len(config["classes"])
    encoded = one_hot(labels, classes)
    assert torch.equal(encoded.permute(1, 2, 0).byte(), tensors["onehot_hwc"])
    assert np.array_equal(labels, tensors["label"])  # the aliasing bug stays in the reference
    assert np.array_equal(reference_saved_labels(labels, classes), tensors["label_after_onehot"])
    assert label_statistics(labels, config["classes"]) == config["label_stats"]


@pytest.mark.parametrize("name", LABELS)
def test_colours(name):
    tensors, config = LABELS[name]
    assert np.array_equal(labels_of_colours(tensors["rgb"].numpy(), config["palette"]), tensors["label_from_rgb"])
    assert list(CITYSCAPES.names) == config["classes"]
    assert [list(colour) for colour in CITYSCAPES.palette] == config["palette"]


@pytest.mark.parametrize("name", LABELS)
def test_prompts(name):
    tensors, config = LABELS[name]
    build = PromptBuilder(config["classes"])
    assert names_in(tensors["label"].numpy(), config["classes"]) == config["class_stack_label"]
    for case in config["cases"]:
        labels = np.array([case["ids"]], np.uint8)
        assert build(labels, np.random.default_rng(0), "").text == case["text"]
        for weather in case["weather"]:
            assert build(labels, np.random.default_rng(0), weather["name"]).text == weather["prompt"]


@pytest.mark.parametrize("name", CROPS)
def test_crops(name):
    tensors, config = CROPS[name]
    labels = tensors["label"].numpy()
    draw = reference_below(np.random.default_rng(int(config["rng"].split("default_rng(")[1].split(")")[0])))
    for call in config["calls"]:
        box = class_box(labels, call["class"], (config["crop_size"],) * 2, draw)
        assert list(box) == call["box"]
        assert names_in(cut(labels, box), CITYSCAPES.names) == call["text"]
        assert np.count_nonzero(cut(labels, box) == call["class"]) == call["n_class"]


@pytest.mark.parametrize("name", COMPONENTS)
def test_components(name):
    tensors, config = COMPONENTS[name]
    labels = tensors["label"].numpy()
    numbers, areas = components(labels)
    for case, returned in config["n_returned(=count+1)"].items():
        kind, area = case.split("_")
        mask = {"large": large_components, "small": small_components}[kind](labels, float(area))
        assert np.array_equal(mask, tensors[case].numpy() > 0)
        many = np.count_nonzero(areas[1:] > float(area))
        assert returned - 1 == (many if kind == "large" else len(areas) - 1 - many)
        for key in (key for key in tensors if key.startswith(f"{case}_mask_up")):
            expected = tensors[key]
            assert torch.equal(mask_on_latents(mask, tuple(expected.shape[-2:])), expected[0, 0])
    assert numbers.max() == len(areas) - 1


@pytest.mark.parametrize(("name", "grids"), documents("views*.json").items())
def test_tiles(name, grids):
    for grid in grids:
        views = reference_views(grid["height_px"] // 8, grid["width_px"] // 8, grid["window"], grid["stride"])
        assert [list(view) for view in views] == grid["views_w0_h0_w1_h1"]


@pytest.mark.parametrize("name", CONTROL)
@torch.no_grad()
def test_control_network(backbone, denoiser, name):
    tensors, _ = CONTROL[name]
    text, t = Condition(tensors["ctx"]), tensors["t"]
    images = [one_hot(tensors["label"], denoiser.channels[0] - 1)]
    embeddings = denoiser.embed(images)
    _check_close(embeddings[0], tensors["cond_emb"], RESIDUALS)
    for guess, prefix in ((False, ""), (True, "guess_")):
        down, mid = denoiser.controls[0](
            tensors["x"], t, tensors["ctx"], images[0], guess_mode=guess, return_dict=False
        )
        stored = {f"{prefix}down_{i}": value for i, value in enumerate(down)} | {f"{prefix}mid": mid}
        for key in set(stored) & set(tensors):
            _check_close(stored[key], tensors[key], RESIDUALS)
    _check_close(denoiser(tensors["x"], t, text, embeddings).raw, tensors["eps"], RESIDUALS)
    _check_close(backbone.denoise(tensors["x"], t, text).raw, tensors["eps_no_control"], RESIDUALS)


def _refine(backbone, denoiser, name):
    tensors, config = REFINE[name]
    options = preset(
        "reference", size=(config["H"], config["W"]), steps=config["steps"], window=config["window_latents"],
        stride=config["stride_latents"], rescale=config["rescale"], guidance_scale=config["guidance"],
        held_area=config["area_threshold"], control_scales=(config["controlnet_scale"],),
        negative_prompt=config["negative_prompt"] or "",
    )  # fmt: skip
    labels = tensors["label"].numpy()
    held = large_components(labels, options.held_area)
    scene = Scene(labels, Prompt(config["prompt"], None), (0, 0, config["W"], config["H"]), held, config["seed"], "")
    generator = SceneGenerator(backbone, denoiser.controls, options)
    condition = backbone.condition([options.negative_prompt, config["prompt"]])
    return tensors, config, generator, scene, condition


@pytest.mark.parametrize("name", REFINE)
def test_inputs_of_both_passes(backbone, denoiser, name):
    tensors, config, generator, scene, condition = _refine(backbone, denoiser, name)
    options = generator.options
    assert np.array_equal(scene.held, tensors["mask"].numpy() > 0)
    held = mask_on_latents(scene.held, tuple(tensors["mask_latent"].shape[-2:]))
    assert torch.equal(held, tensors["mask_latent"][0, 0])
    _check_close(condition.hidden, tensors["prompt_embeds"], RESIDUALS)
    assert Solver("ddim", backbone.noise_path, options.steps).timesteps == config["timesteps"]
    for base, key, size in ((True, "pass1_views", options.size), (False, "views", options.large_size)):
        tiles = tiles_of(options, size[0] // 8, size[1] // 8, base=base, step=0)
        assert [[t.window.left, t.window.top, t.window.right, t.window.bottom] for t in tiles] == config[key]


@pytest.mark.parametrize("name", REFINE)
@torch.no_grad()
def test_one_tile(denoiser, backbone, name):
    """Residuals and both predictions of tile k at the first step, and every tile guided and stepped."""
    tensors, config, generator, scene, condition = _refine(backbone, denoiser, name)
    size, k = generator.options.large_size, config["k"]
    (image,) = [torch.nn.functional.interpolate(one_hot(scene.labels, 19)[None], size=size)]
    tiles = tiles_of(generator.options, size[0] // 8, size[1] // 8, base=False, step=0)
    solver, told = Solver("ddim", backbone.noise_path, config["steps"]), Guidance(condition, [image])
    cells, pixels = tiles[k].window.cells, tiles[k].window.scaled(8).cells
    x_t = tensors["p2_noise"][(..., *cells)].repeat(2, 1, 1, 1)
    down, mid = denoiser.controls[0](
        x_t, solver.timesteps[0], condition.hidden, image[(..., *pixels)].repeat(2, 1, 1, 1), return_dict=False
    )
    for i, value in enumerate(down):
        _check_close(value, tensors[f"p2_step0_view_k_down{i}"], RESIDUALS)
    _check_close(mid, tensors["p2_step0_view_k_mid"], RESIDUALS)
    embeddings = denoiser.embed([image[(..., *pixels)]])
    both = denoiser(x_t, solver.timesteps[0], condition, embeddings, guided=True).eps
    _check_close(both, tensors["p2_step0_view_k_eps_uncond_cond"], RESIDUALS)
    for tile, eps, prev in list(
        zip(tiles, tensors["p2_step0_view_eps_guided"], tensors["p2_step0_view_prev"], strict=True)
    )[:: max(1, len(tiles) // 4)]:
        found = reference_prediction(
            denoiser, generator.options, tensors["p2_noise"], solver.timesteps[0], told, 0, tile
        )
        _check_close(found[0], eps, 10 * RESIDUALS)  # 2 g - 1 times the error of a prediction
        own = tensors["p2_noise"][(..., *tile.window.cells)]
        _check_close(solver.step(found, 0, own)[0], prev, LATENTS)


@pytest.mark.parametrize("name", REFINE)
@torch.no_grad()
def test_refine(backbone, denoiser, name):
    """Both passes from the seed, every step against its stored latents, down to the image."""
    tensors, config, generator, scene, condition = _refine(backbone, denoiser, name)
    stream = torch.Generator().manual_seed(config["seed"])
    steps = []
    plain, generator.fusion = generator.fusion, _recorded(generator.fusion, steps)
    latents = generator.first_pass([scene], condition, [stream])
    for i, (_, after) in enumerate(steps):
        _check_close(after, tensors[f"p1_step{i}_latents"], LATENTS)
    _check_close(latents, tensors["p1_latents"], LATENTS)
    _check_picture(generator.decode(latents)[0], tensors["p1_image"])
    steps.clear()
    base = Image.fromarray(tensors["p1_image"].numpy())
    drawn = generator.enlarged([base], [stream])
    _check_close(drawn, tensors["ini_latents"], LATENTS)
    latents = generator.second_pass([scene], condition, [stream], drawn)
    free = tensors["mask_latent"] != 1
    for i, (fused, after) in enumerate(steps):
        _check_close(fused * free, tensors[f"p2_step{i}_fused"] * free, LATENTS)
        _check_close(after, tensors[f"p2_step{i}_latents"], LATENTS)
        level = config["inpaint_timesteps"][i]
        noised = backbone.noise(tensors["ini_latents"], level, tensors[f"p2_step{i}_noise"])
        _check_close(noised, tensors[f"p2_step{i}_ini_noised"], LATENTS)
    _check_close(latents, tensors["p2_latents"], LATENTS)
    generator.fusion = plain
    (made,) = generator([scene], [torch.Generator().manual_seed(config["seed"])])
    _check_picture(made.base, tensors["p1_image"])
    _check_picture(made.image, tensors["final_image"])


def _recorded(fusion, steps):
    """The same fusion, keeping (fused, after) of every step."""
    return lambda *inputs: fusion(*inputs, on_step=lambda i, fused, after: steps.append((fused, after)))


def _edge_options(config, size, **changes):
    return preset("reference", size=size, steps=config["steps"], guidance_scale=config["guidance"], **changes)


@pytest.mark.parametrize("name", EDGE)
@torch.no_grad()
def test_border_that_no_tile_covers(backbone, denoiser, name):
    """The reference leaves the rest of a row uncovered: zeros from the first step on."""
    tensors, config = EDGE[name]
    options = _edge_options(
        config, (config["H"], config["W"]), window=config["window_latents"], stride=config["stride_latents"]
    )
    noise = torch.randn(tensors["noise"].shape, generator=torch.Generator().manual_seed(config["seed"]))
    assert torch.equal(noise, tensors["noise"])
    steps, fusion = [], LatentFusion(denoiser, options)
    told = Guidance(backbone.condition(["", config["prompt"]]), [one_hot(tensors["label"], 19)[None]])
    latents = _recorded(fusion, steps)(noise, told, None)
    _check_close(steps[0][1], tensors["step0_fused"], LATENTS)
    _check_close(latents, tensors["latents"], LATENTS)
    rows, columns = latents.shape[-2] - config["zero_rows"], latents.shape[-1] - config["zero_columns"]
    assert not latents[..., columns:].any() and not latents[..., rows:, :].any()
    assert latents[..., :rows, :columns].all()


@pytest.mark.parametrize("name", EDGE)
@torch.no_grad()
def test_batch_of_scenes(backbone, denoiser, name):
    tensors, config = EDGE[name]
    batch, labels = config["batch"], tensors["batch_label"]
    options = _edge_options(batch, tuple(labels.shape[-2:]), window=config["window_latents"])
    noise = torch.randn(tensors["batch_noise"].shape, generator=torch.Generator().manual_seed(batch["seed"]))
    assert torch.equal(noise, tensors["batch_noise"])
    prompts = [""] * len(batch["prompts"]) + batch["prompts"]
    latents = LatentFusion(denoiser, options)(noise, Guidance(backbone.condition(prompts), [one_hot(labels, 19)]))
    _check_close(latents, tensors["batch_latents"], LATENTS)


def _job_sample(backbone, denoiser, folder, number):
    """The generator, the scene of a sample and the job's stream, advanced past the samples before it."""
    config = json.loads((folder / "job.json").read_text())
    entries = json.loads((folder / f"{config['gid']}.json").read_text())
    options = preset(
        "reference", size=(config["resolution"],) * 2, steps=config["steps"], stride=config["stride"],
        rescale=config["rescale"], guidance_scale=config["guidance"], held_area=config["thr"],
    )  # fmt: skip
    generator = SceneGenerator(backbone, denoiser.controls, options)
    crops = reference_below(np.random.default_rng(config["gid"]))
    weather = np.random.RandomState(config["weather_seed"])
    for entry in entries[: number + 1]:
        labels = np.array(Image.open(folder / entry["file_name"]))
        scene = generator.composer.compose(labels, crops, weather, int(entry["class"]), None)
    stem = Path(entry["file_name"]).name.removesuffix("_labelTrainIds.png")
    saved = np.array(Image.open(folder / "out_labels" / f"{stem}_genid{config['gid']}_labelTrainIds.png"))
    return generator, scene, _job_stream(config, number), config["samples"][number], saved


def _job_stream(config, samples):
    """One stream per job: each sample draws the first pass, the posterior, the second pass and one noise per step."""
    stream = torch.Generator().manual_seed(config["gid"])
    small = config["resolution"] // 8
    large = small * config["rescale"]
    for _ in range(samples):
        for side in (small, *[large] * (2 + config["steps"])):
            torch.randn(1, 4, side, side, generator=stream)
    return stream


@pytest.mark.parametrize(("folder", "number"), JOB_SAMPLES)
def test_job_scene(backbone, denoiser, folder, number):
    """Crop, prompt and written labels of a job entry."""
    _, scene, _, expected, saved = _job_sample(backbone, denoiser, folder, number)
    assert scene.prompt.text == expected["prompt"]
    written = reference_saved_labels(scene.labels, 19)
    assert np.array_equal(written, saved)
    assert np.unique(written).tolist() == expected["label_ids"]


@pytest.mark.parametrize(("folder", "number"), JOB_SAMPLES)
@torch.inference_mode()
def test_job_images(backbone, denoiser, folder, number):
    """The last sample's first pass, behind the streams of all others; the other samples' second pass, decoded."""
    generator, scene, stream, expected, _ = _job_sample(backbone, denoiser, folder, number)
    tensors = {k[3:]: v for k, v in load_file(folder / "job.safetensors").items() if k.startswith(f"s{number}_")}
    if FULL:
        (made,) = generator([scene], [stream])
        _check_picture(np.asarray(made.base)[192:320, 192:320], tensors["p1_image_crop"])
        _check_job_image(made.image, tensors, expected)
    elif (folder, number + 1) not in JOB_SAMPLES:
        condition = backbone.condition(["", expected["prompt"]], truncate=True)
        _check_close(generator.first_pass([scene], condition, [stream]), tensors["p1_latents"], LATENTS)
    else:
        (large,) = generator.decode(tensors["p2_latents"].float())
        height, width = generator.options.size
        _check_job_image(large.resize((width, height), Image.Resampling.LANCZOS), tensors, expected)


def _check_job_image(image, tensors, expected):
    pixels = np.asarray(image)
    _check_picture(pixels[192:320, 192:320], tensors["final_image_crop"])
    _check_picture(pixels[::4, ::4], tensors["final_image_stride4"])
    assert pixels.mean() == pytest.approx(expected["image_mean"], abs=0.01)
