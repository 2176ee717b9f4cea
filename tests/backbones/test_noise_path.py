"""Coefficients of the noise path and the conversions between predictions."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from perception.backbones import FlowPath, Prediction, VariancePreservingPath
from perception.backbones.noise_path import noise_path
from perception.errors import UserError

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def test_equals_the_schedulers_add_noise_bit_for_bit() -> None:
    scheduler = DDPMScheduler(**BETAS)
    path = noise_path(scheduler)
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, 8, 8, generator=generator)
    t = torch.tensor([0, 500, 999])
    mixed = path.alpha(t).view(-1, 1, 1, 1) * x0 + path.sigma(t).view(-1, 1, 1, 1) * eps
    assert torch.equal(mixed, scheduler.add_noise(x0, eps, t))


def test_every_scheduler_with_the_same_betas_is_the_same_path() -> None:
    t = torch.arange(1000)
    ddim, euler = noise_path(DDIMScheduler(**BETAS)), noise_path(EulerDiscreteScheduler(**BETAS))
    assert torch.equal(ddim.alpha(t), euler.alpha(t)) and torch.equal(ddim.sigma(t), euler.sigma(t))
    torch.testing.assert_close(ddim.alpha(t) ** 2 + ddim.sigma(t) ** 2, torch.ones(1000))


def test_flow_matching_is_a_straight_line() -> None:
    path = noise_path(FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert isinstance(path, FlowPath) and path.prediction_type == "flow_prediction"
    t = torch.tensor([0, 250, 999])
    torch.testing.assert_close(path.sigma(t), torch.tensor([0.0, 0.25, 0.999]))
    torch.testing.assert_close(path.alpha(t) + path.sigma(t), torch.ones(3))
    assert path.model_time(t).tolist() == [0.0, 250.0, 999.0]


@pytest.mark.parametrize("solver", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_a_flow_with_the_solver_of_another_family_is_the_same_path(solver: type) -> None:
    path = noise_path(solver(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0))
    own = noise_path(FlowMatchEulerDiscreteScheduler(shift=3.0))
    t = torch.arange(1000)
    assert isinstance(path, FlowPath) and torch.equal(path.spread(t), own.spread(t))


def test_the_grid_of_a_flow_is_as_dense_as_its_training() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    positions = torch.arange(1, 1000)
    torch.testing.assert_close(noise_path(scheduler).spread(positions), scheduler.timesteps[1000 - positions])
    torch.testing.assert_close(FlowPath(1000).spread(positions), positions.float())
    ends = noise_path(scheduler).spread(torch.tensor([0, 500, 999]))
    torch.testing.assert_close(ends, torch.tensor([0.0, 750.0, 1000 * 2.997 / 2.998]))
    chain = noise_path(DDPMScheduler(**BETAS))
    assert torch.equal(chain.spread(positions), positions)
    with pytest.raises(UserError, match="outside this backbone's schedule"):
        noise_path(scheduler).spread(torch.tensor([1000]))


def test_shift_by_resolution() -> None:
    """Flux: exp(0.5) at 256 tokens, exp(1.15) at 4096, which also stands for an unknown size."""
    path = noise_path(FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True))
    half = torch.tensor([500])
    for tokens, log_shift in ((256, 0.5), (4096, 1.15), (None, 1.15), (2176, 0.825)):
        expected = torch.sigmoid(torch.tensor([log_shift])) * 1000  # s = a u / (1 + (a - 1) u) at u = 1/2
        torch.testing.assert_close(path.spread(half, tokens), expected)


@pytest.mark.parametrize("key", ["base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"])
def test_every_number_of_the_shift_is_needed(key: str) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.register_to_config(**{key: None})
    with pytest.raises(UserError, match="dynamic shifting is not the exponential one"):
        noise_path(scheduler)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_a_perfect_network_gives_back_noise_and_latent(kind: str) -> None:
    path = (
        FlowPath(1000)
        if kind == "flow_prediction"
        else VariancePreservingPath(DDPMScheduler(**BETAS).alphas_cumprod, kind)
    )
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, 8, 8, generator=generator)
    t = torch.tensor([30, 400, 900])
    alpha, sigma = path.alpha(t).view(-1, 1, 1, 1), path.sigma(t).view(-1, 1, 1, 1)
    perfect = {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0, "sample": x0, "flow_prediction": eps - x0}
    p = Prediction(perfect[kind], kind, alpha * x0 + sigma * eps, alpha, sigma)
    truth = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "flow": eps - x0}
    for reading, value in truth.items():
        torch.testing.assert_close(getattr(p, reading), value, rtol=2e-4, atol=2e-4)
        if reading != "x0":
            estimate, target = p.against(x0, eps, reading)
            torch.testing.assert_close(target, value)
            torch.testing.assert_close(estimate, target, rtol=2e-4, atol=2e-4)
    assert torch.equal(p.against(x0, eps, "x0")[1], x0)


def test_errors_are_native_to_the_path() -> None:
    """|d_eps|^2 on a chain whatever is predicted, |d_u|^2 = |d_eps|^2 / alpha^2 on a flow."""
    generator = torch.Generator().manual_seed(0)
    x0, eps, wrong = torch.randn(3, 2, 4, 8, 8, generator=generator)
    scheduler = DDPMScheduler(**BETAS)
    for kind in ("epsilon", "v_prediction", "sample", "flow_prediction"):
        flow = kind == "flow_prediction"
        path = FlowPath(1000) if flow else VariancePreservingPath(scheduler.alphas_cumprod, kind)
        t = torch.tensor([250, 900])
        alpha, sigma = path.alpha(t).view(-1, 1, 1, 1), path.sigma(t).view(-1, 1, 1, 1)
        p = Prediction(wrong, kind, alpha * x0 + sigma * eps, alpha, sigma)
        native = torch.sub(*p.against(x0, eps)).square()
        noise = torch.sub(*p.against(x0, eps, "eps")).square()
        torch.testing.assert_close(native, noise / alpha**2 if flow else noise, rtol=1e-3, atol=1e-5)
        if flow:
            torch.testing.assert_close(native, (wrong - (eps - x0)).square())
        if kind == "v_prediction":
            velocity = scheduler.get_velocity(x0, eps, t)
            torch.testing.assert_close(native, alpha**2 * (wrong - velocity).square(), rtol=1e-3, atol=1e-5)


def test_conversions_are_float32_for_half_precision_networks() -> None:
    one = torch.ones(1, 1, 1, 1)
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.full((1, 4, 2, 2), 0.3, dtype=dtype)
        p = Prediction(x, "v_prediction", x, one * 0.6, one * 0.8)
        assert {v.dtype for v in (p.eps, p.x0, p.v, p.flow)} == {torch.float32}
        torch.testing.assert_close(p.eps, x.float() * 1.4)


@pytest.mark.parametrize("t", [-1, 1000, torch.tensor([5, 2000]), torch.tensor([], dtype=torch.long)])
def test_timesteps_outside_the_schedule(t: int | torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"timestep .* outside this backbone's schedule: expected 0 to 999"):
        noise_path(DDPMScheduler(**BETAS)).alpha(t)


def test_four_bad_timesteps_are_named_and_the_rest_told_of() -> None:
    path = noise_path(DDPMScheduler(**BETAS))
    with pytest.raises(UserError, match=r"timestep -1, -2, -3, -4 is outside"):
        path.alpha(torch.tensor([-1, -2, -3, -4]))
    with pytest.raises(UserError, match=r"timestep -1, -2, -3, -4, \.\.\. is outside"):
        path.alpha(torch.tensor([-1, -2, -3, -4, -5]))


def test_fractional_timesteps_only_on_a_flow() -> None:
    with pytest.raises(UserError, match="not a whole number"):
        noise_path(DDPMScheduler(**BETAS)).alpha(torch.tensor([0.5]))
    assert FlowPath(1000).sigma(torch.tensor([0.5])).item() == pytest.approx(0.0005)
    with pytest.raises(UserError, match="timestep nan is outside this backbone's schedule"):
        FlowPath(1000).sigma(torch.tensor([float("nan")]))


def test_unknown_schedules_are_refused() -> None:
    class Config(dict):
        """A config without a schedule."""

    class Scheduler:
        """Something that is neither variance preserving nor a flow."""

        config = Config()

    with pytest.raises(UserError, match="no noise schedule this toolkit knows"):
        noise_path(Scheduler())
    with pytest.raises(UserError, match="prediction_type is 'score'"):
        noise_path(DDPMScheduler(**BETAS, prediction_type="score"))
