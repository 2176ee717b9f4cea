"""Parity of the class-conditional classifier with the reference: every tensor and decision of the DiT fixtures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file

from perception.backbones import DiffusionBackbone, VariancePreservingPath, load_backbone
from perception.classification.dit_scores import DECISIONS, SCORES, PosteriorTables, decide, dit_scores
from perception.classification.scoring import BOUNDS, DenoisingErrors
from perception.convert.dit_names import check_positions, dit_config, dit_weights

ROOT = Path(os.environ.get("PERCEPTION_GOLDENS", Path(__file__).parents[1] / "goldens"))
FOLDER = ROOT / "diffusion_classifier"
RTOL = 1e-5


def fixtures():
    """{file stem: (tensors, configuration)}; finding none is an error."""
    found = {}
    for path in sorted(FOLDER.glob("dit*.safetensors")):
        with safe_open(path, "pt") as file:
            found[path.stem] = load_file(path), json.loads(file.metadata()["json"])
    assert found, f"no dit*.safetensors in {FOLDER}"
    return found


FIXTURES = fixtures()


def export(tensors, config, folder: Path) -> Path:
    """The fixture's network as a diffusers folder in latent space, with a one-level stand-in for the autoencoder."""
    official = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    with torch.random.fork_rng(devices=[]):
        transformer = DiTTransformer2DModel(**dit_config(official, config["model"]["num_heads"]))
    check_positions(official, transformer.pos_embed.pos_embed)
    transformer.load_state_dict(dit_weights(official), strict=True)
    transformer.save_pretrained(folder / "transformer")
    DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "DiTPipeline",
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module", params=FIXTURES)
def case(request, tmp_path_factory) -> tuple[dict, dict, DiffusionBackbone]:
    tensors, config = FIXTURES[request.param]
    folder = export(tensors, config, tmp_path_factory.mktemp("dit"))
    return tensors, config, load_backbone(folder, device="cpu", vae=ROOT / "tiny-sd")


def close(actual, expected, rtol=RTOL, atol=0.0):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def close_map(actual, expected):
    """For values around zero: 1e-5 of their scale."""
    close(actual, expected, atol=RTOL * expected.abs().max().item())


def test_the_configuration_comes_from_the_shapes(case):
    _, config, backbone = case
    model, built = config["model"], backbone.unet.config
    assert built["sample_size"] == model["input_size"] and built["patch_size"] == model["patch_size"]
    assert built["num_layers"] == model["depth"] and built["num_embeds_ada_norm"] == model["num_classes"]
    assert built["in_channels"] == model["in_channels"]
    assert built["out_channels"] == model["in_channels"] * (1 + model["learn_sigma"])
    assert built["num_attention_heads"] * built["attention_head_dim"] == model["hidden_size"]


def test_schedule(case):
    tensors, _, backbone = case
    path = backbone.noise_path
    assert isinstance(path, VariancePreservingPath)
    close(path.betas.double(), tensors["betas"], rtol=1e-6)
    close(path.alphas_cumprod.double(), tensors["alphas_cumprod"], rtol=2e-5)
    close(PosteriorTables.of(backbone).log_variance, tensors["posterior_log_variance_clipped"], rtol=1e-6)


def test_forward(case):
    tensors, _, backbone = case
    condition = backbone.condition([str(y) for y in tensors["probe.y"].tolist()])
    prediction = backbone.denoise(tensors["probe.x"], tensors["probe.t"], condition)
    close_map(torch.cat([prediction.raw, prediction.variance], dim=1), tensors["probe.out"])


def noises(tensors, config, mode):
    """Sample k takes noise k; without randomize_noise, the noise of its position in the batch of the reference."""
    k = torch.arange(len(tensors["t"]) * config["n_trials"])
    return tensors["noise"][k if mode == "randnoise" else k % config["batch_size"]]


def scores(case, class_id, mode):
    tensors, config, backbone = case
    t = tensors["t"].repeat_interleave(config["n_trials"])
    latents = tensors["latent"].expand(len(t), -1, -1, -1)
    with torch.inference_mode():
        return dit_scores(backbone, latents, noises(tensors, config, mode), t, backbone.condition([str(class_id)]))


@pytest.mark.parametrize(("loss", "rule"), [("l2", "L2"), ("l1", "L1"), *((loss, loss.upper()) for loss in BOUNDS)])
def test_losses_of_the_classifier_are_these_scores(case, loss, rule):
    """Every loss that decides, on the noise of each sample, all classes in one batch."""
    tensors, config, backbone = case
    t, classes = tensors["t"].repeat_interleave(config["n_trials"]), config["classes"]
    drawn = tensors["latent"].expand(len(t), -1, -1, -1), noises(tensors, config, "randnoise"), t
    condition = backbone.condition([str(c) for c in classes])
    with torch.inference_mode():
        errors = DenoisingErrors(backbone, loss)(*drawn, condition, torch.arange(len(classes)).expand(len(t), -1))
    for place, c in enumerate(classes):
        columns = tensors[f"vb.randnoise.cls{c}"].flatten(0, -2)[:, list(DECISIONS[rule])]
        close(errors[:, place], columns.sum(1), rtol=3e-5 if loss in BOUNDS else RTOL)


@pytest.mark.parametrize("mode", ["randnoise", "fixednoise"])
def test_scores_and_decisions(case, mode):
    tensors, config, _ = case
    found = []
    for c in config["classes"]:
        four = scores(case, c, mode).four.unflatten(0, (-1, config["n_trials"]))
        for column, name in enumerate(SCORES):
            close(
                four[..., column],
                tensors[f"vb.{mode}.cls{c}"][..., column],
                rtol=3e-5 if name in ("kl", "nll") else RTOL,
            )
        close(four[..., 0], tensors[f"plain.{mode}.cls{c}"])
        found.append(four)
    if mode == "randnoise":
        chosen = {name: config["classes"][row] for name, row in decide(torch.stack(found)).items()}
        assert chosen == config["decision"]
        mapped = config["decision_mapped"]
        assert {name: mapped["map"][str(c)] for name, c in chosen.items()} == {n: mapped[n] for n in chosen}


def test_maps(case):
    """Everything that the reference can dump instead of a mean."""
    tensors, config, backbone = case
    t = tensors["t"].repeat_interleave(config["n_trials"])
    x_t = backbone.noise(tensors["latent"].expand(len(t), -1, -1, -1), t, noises(tensors, config, "randnoise"))
    kinds = {key.split(".")[0]: key for key in tensors if key.startswith(("spatial.", "eps.", "epsvar."))}
    assert kinds
    for kind, key in kinds.items():
        class_id = int(key.rpartition("cls")[2])
        prediction = backbone.denoise(x_t, t, backbone.condition([str(class_id)]))
        found = {
            "spatial": lambda: scores(case, class_id, "randnoise").spatial,  # noqa: B023
            "eps": lambda: prediction.eps,  # noqa: B023
            "epsvar": lambda: torch.cat([prediction.raw, prediction.variance], dim=1),  # noqa: B023
        }[kind]()
        close_map(found.unflatten(0, (-1, config["n_trials"])), tensors[key])
