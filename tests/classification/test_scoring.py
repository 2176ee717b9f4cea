"""Denoising errors against their formula, for every loss and prediction type."""

import json
import shutil

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from perception.backbones import load_backbone
from perception.classification.scoring import LOSSES, DenoisingErrors
from perception.errors import UserError

PROMPTS = ["a cat.", "a dog.", ""]


def _inputs(samples=2):
    generator = torch.Generator().manual_seed(1)
    latents, noise = torch.randn(2, samples, 4, 8, 8, generator=generator)
    return latents, noise, torch.tensor([100, 800])[:samples]


def _reference_errors(backbone, loss, latents, noise, timesteps, prompts):
    """One denoiser call per sample and prompt."""
    rows = []
    for x0, eps, t in zip(latents, noise, timesteps, strict=True):
        x_t = backbone.noise(x0[None], t, eps[None])
        guesses = [backbone.denoise(x_t, t, backbone.condition([prompt])).eps[0] for prompt in prompts]
        rows.append(torch.stack([LOSSES[loss](guess, eps).mean() for guess in guesses]))
    return torch.stack(rows)


@pytest.mark.parametrize("loss", LOSSES)
def test_errors_equal_the_formula(tiny_backbone, loss):
    inputs = _inputs()
    with torch.inference_mode():
        expected = _reference_errors(tiny_backbone, loss, *inputs, PROMPTS)
        condition = tiny_backbone.condition(PROMPTS)
        actual = DenoisingErrors(tiny_backbone, loss)(*inputs, condition, torch.arange(3).expand(2, -1))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0)


def test_each_sample_may_have_candidates_of_its_own(tiny_backbone):
    inputs = _inputs()
    with torch.inference_mode():
        everything = _reference_errors(tiny_backbone, "l2", *inputs, PROMPTS)
        which = torch.tensor([[2, 0], [1, 2]])
        actual = DenoisingErrors(tiny_backbone)(*inputs, tiny_backbone.condition(PROMPTS), which)
    torch.testing.assert_close(actual, everything.gather(1, which), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_the_target_is_the_noise_whatever_the_checkpoint_predicts(tiny_sd, tmp_path, kind):
    folder = shutil.copytree(tiny_sd, tmp_path / kind)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | {"prediction_type": kind}))
    backbone = load_backbone(folder, device="cpu")
    latents, noise, t = _inputs(1)
    with torch.inference_mode():
        errors = DenoisingErrors(backbone)(latents, noise, t, backbone.condition([""]), torch.zeros(1, 1, dtype=int))
        alpha, sigma = backbone.noise_path.alpha(100), backbone.noise_path.sigma(100)
        x_t = alpha * latents + sigma * noise
        raw = backbone.denoise(x_t, t, backbone.condition([""])).raw
        eps = alpha * raw + sigma * x_t if kind == "v_prediction" else (x_t - alpha * raw) / sigma
    torch.testing.assert_close(errors[0, 0], (noise - eps).square().mean(), rtol=1e-5, atol=0)


def test_a_rectified_flow_is_scored_by_its_velocity_on_its_shifted_schedule(tiny_sd, tmp_path):
    folder = shutil.copytree(tiny_sd, tmp_path / "flow")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    backbone = load_backbone(folder, device="cpu")
    latents, noise, t = _inputs(1)
    s = 3 * 0.1 / (1 + 2 * 0.1)  # of step 100 of 1000 (Esser et al. 2024, eq. 23)
    with torch.inference_mode():
        told = backbone.condition([""])
        errors = DenoisingErrors(backbone)(latents, noise, t, told, torch.zeros(1, 1, dtype=int))
        raw = backbone.denoise((1 - s) * latents + s * noise, torch.tensor([1000 * s]), told).raw
    torch.testing.assert_close(errors[0, 0], (noise - latents - raw).square().mean(), rtol=1e-5, atol=0)


def test_errors_are_differentiable_with_respect_to_the_text(tiny_backbone):
    condition = tiny_backbone.condition(PROMPTS)
    tokens = condition.hidden.clone().requires_grad_()
    score = DenoisingErrors(tiny_backbone)
    score(*_inputs(), condition.with_hidden(tokens), torch.arange(3).expand(2, -1)).sum().backward()
    assert tokens.grad.abs().sum() > 0


def test_calls_made_again_for_the_gradient_keep_nothing_and_change_nothing(tiny_backbone):
    condition, candidates = tiny_backbone.condition(PROMPTS), torch.arange(3).expand(2, -1)
    gradients, kept = [], []
    for recompute in (False, True):
        tokens, sizes = condition.hidden.clone().requires_grad_(), []
        score = DenoisingErrors(tiny_backbone, rows=2, recompute=recompute)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):  # noqa: B023
            errors = score(*_inputs(), condition.with_hidden(tokens), candidates)
        errors.square().sum().backward()
        gradients.append(tokens.grad)
        kept.append(sum(sizes))
    assert torch.equal(*gradients)
    assert kept[1] < kept[0] / 50


class _SmallDevice(DenoisingErrors):
    """Runs out of memory above two rows per call."""

    def _errors(self, x0, noise, timesteps, condition, samples, candidates):
        if candidates.numel() > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._errors(x0, noise, timesteps, condition, samples, candidates)


def test_out_of_memory_halves_the_rows_and_changes_nothing(tiny_backbone):
    arguments = (*_inputs(), tiny_backbone.condition(PROMPTS), torch.arange(3).expand(2, -1))
    small = _SmallDevice(tiny_backbone, rows=8)
    with torch.inference_mode():
        torch.testing.assert_close(small(*arguments), DenoisingErrors(tiny_backbone)(*arguments), rtol=1e-5, atol=0)
    assert small.rows == 2


def test_bad_options_get_one_sentence(tiny_backbone):
    with pytest.raises(UserError, match=r"unknown loss 'l3'; choose one of l2, l1, huber, vlb, l2\+vlb"):
        DenoisingErrors(tiny_backbone, "l3")
    with pytest.raises(UserError, match="0 rows per denoiser call is too few"):
        DenoisingErrors(tiny_backbone, rows=0)
    bound = DenoisingErrors(tiny_backbone, "l2+vlb")
    with pytest.raises(UserError, match=r"this backbone predicts no variance, .* use the l2 or l1 loss"):
        bound(*_inputs(), tiny_backbone.condition(PROMPTS), torch.arange(3).expand(2, -1))
