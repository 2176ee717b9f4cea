"""The fast sampler against the slow one, and what must not change its result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perception.backbones import DiffusionBackbone, VariancePreservingPath, load_backbone
from perception.errors import UserError
from perception.generation import ControlledDenoiser, GenerationOptions
from perception.generation.fusion import Guidance, HeldRegion, LatentFusion
from perception.generation.labels import one_hot
from perception.generation.reference import reference_fusion
from perception.generation.solvers import Solver
from perception.generation.windows import overlapping_tiles

Options = Callable[..., GenerationOptions]
Stream = Callable[[int], torch.Generator]


def _maps(street: np.ndarray) -> np.ndarray:
    return np.stack([street[:64, :96], street[16:, 16:]])


@pytest.fixture
def told(tiny_backbone: DiffusionBackbone, street: np.ndarray) -> Guidance:
    """Two scenes of 64 x 96 pixels."""
    condition = tiny_backbone.condition(["", "", "road building sky", "car"])
    return Guidance(condition, [one_hot(_maps(street), 19)])


def _noise(stream: Stream, size: tuple[int, int] = (8, 12), count: int = 2) -> Tensor:
    return torch.randn(count, 4, *size, generator=stream(0))


def _held(stream: Stream, width: int = 12) -> HeldRegion:
    """The left two thirds of the first image and nothing of the second are held."""
    mask = torch.zeros(2, 1, 8, width)
    mask[0, ..., :9] = 1
    return HeldRegion(torch.randn(2, 4, 8, width, generator=stream(5)), mask, [stream(6), stream(7)])


@pytest.mark.parametrize("border", ["clamp", "drop"])
def test_one_averaged_step_equals_stepping_every_tile(
    denoiser: ControlledDenoiser, told: Guidance, small: Options, stream: Stream, border: str
) -> None:
    options = small(border=border, stride=3)
    slow = reference_fusion(denoiser, options, _noise(stream), told, _held(stream))
    fast = LatentFusion(denoiser, options, rows=6)(_noise(stream), told, _held(stream))
    torch.testing.assert_close(fast, slow, rtol=0, atol=2e-4)


def test_a_ddim_step_is_linear(tiny_backbone: DiffusionBackbone, stream: Stream) -> None:
    """mean_v step(eps_v, x) = step(mean_v eps_v, x): the reason why one step is enough."""
    solver = Solver("ddim", tiny_backbone.noise_path, 4)
    x, eps = torch.randn(1, 4, 3, 3, generator=stream(0)), torch.randn(5, 4, 3, 3, generator=stream(1))
    each = torch.stack([solver.step(e[None], 1, x) for e in eps]).mean(0)
    torch.testing.assert_close(solver.step(eps.mean(0, keepdim=True), 1, x), each)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layout": "shifted"},
        {"solver": "dpmsolver++", "steps": 3},
        {"solver": "unipc", "steps": 3},
        {"guidance_interval": (0.5, 1.0)},
        {"told": "conditional"},
        {"told": "guess"},
    ],
    ids=str,
)
def test_batching_changes_nothing(
    denoiser: ControlledDenoiser, told: Guidance, small: Options, stream: Stream, changes: dict
) -> None:
    """Rows per call, and an image alone or with another."""
    options = small(**changes)
    controlled = ControlledDenoiser(denoiser.backbone, denoiser.controls, controlled_rows=options.told)
    many = LatentFusion(controlled, options, rows=64)(_noise(stream), told, _held(stream))
    assert torch.isfinite(many).all()
    few = LatentFusion(controlled, options, rows=2)(_noise(stream), told, _held(stream))
    torch.testing.assert_close(few, many, rtol=0, atol=1e-4)
    alone = Guidance(told.condition[[1, 3]], [told.images[0][1:]])
    held = _held(stream)
    second = HeldRegion(held.latents[1:], held.mask[1:], held.generators[1:])
    single = LatentFusion(controlled, options)(_noise(stream)[1:], alone, second)
    torch.testing.assert_close(single, many[1:], rtol=0, atol=1e-4)


def test_held_tiles_are_skipped_without_a_trace(
    denoiser: ControlledDenoiser, told: Guidance, small: Options, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    call = ControlledDenoiser.__call__
    monkeypatch.setattr(
        ControlledDenoiser, "__call__", lambda self, x, *a, **k: (rows.append(len(x)), call(self, x, *a, **k))[1]
    )
    options = small(window=4, stride=4, steps=2)
    LatentFusion(denoiser, options)(_noise(stream), told, _held(stream))
    # 2 x 3 tiles an image; four of the first image lie inside its held cells
    assert sum(rows) == 2 * 2 * (12 - 4)


@pytest.mark.parametrize("solver", ["dpmsolver++", "unipc"])
def test_held_cells_end_as_clean_as_the_others(
    denoiser: ControlledDenoiser, told: Guidance, small: Options, stream: Stream, solver: str
) -> None:
    held = _held(stream)
    result = LatentFusion(denoiser, small("fast", solver=solver))(_noise(stream), told, held)
    kept = held.mask.expand_as(result) == 1
    assert torch.equal(result[kept], held.latents[kept])
    after = [torch.randn(1, generator=generator) for generator in held.generators]
    LatentFusion(denoiser, small())(_noise(stream), told, other := _held(stream))
    assert after == [torch.randn(1, generator=generator) for generator in other.generators]  # noise of every step


def test_passes_without_held_regions(
    denoiser: ControlledDenoiser, told: Guidance, small: Options, stream: Stream
) -> None:
    """The first pass is one window unless asked otherwise."""
    whole = LatentFusion(denoiser, small())(_noise(stream), told)
    one = LatentFusion(denoiser, small(tiled_base=True, window=12, stride=12))(_noise(stream), told)
    torch.testing.assert_close(whole, one)
    assert not torch.allclose(whole, LatentFusion(denoiser, small(tiled_base=True))(_noise(stream), told), atol=1e-3)


def test_several_controls_are_summed(
    tiny_backbone: DiffusionBackbone,
    control: nn.Module,
    depth_control: nn.Module,
    told: Guidance,
    small: Options,
    stream: Stream,
) -> None:
    depth = torch.rand(2, 1, 64, 96, generator=stream(3))
    both = Guidance(told.condition, [*told.images, depth])
    mixed = ControlledDenoiser(tiny_backbone, [control, depth_control], (1.0, 0.5))
    slow = reference_fusion(mixed, small(), _noise(stream), both)
    fast = LatentFusion(mixed, small())(_noise(stream), both)
    torch.testing.assert_close(fast, slow, rtol=0, atol=2e-4)
    silent = ControlledDenoiser(tiny_backbone, [control, depth_control], (1.0, 0.0))
    alone = LatentFusion(ControlledDenoiser(tiny_backbone, [control]), small())(_noise(stream), told)
    torch.testing.assert_close(LatentFusion(silent, small())(_noise(stream), both), alone, rtol=0, atol=1e-4)


def test_compiled_networks_give_the_same_and_see_few_batch_sizes(
    tiny_sd: Path,
    control: nn.Module,
    told: Guidance,
    small: Options,
    stream: Stream,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    request.addfinalizer(torch.compiler.reset)
    graphs: list[int] = []

    def counting(graph: Any, examples: Any) -> Any:
        graphs.append(1)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counting))
    backbone, options = load_backbone(tiny_sd, device="cpu"), small(told="conditional")
    plain = LatentFusion(ControlledDenoiser(backbone, [control], controlled_rows="conditional"), options, rows=6)
    slow = plain(_noise(stream), told, _held(stream))
    backbone.compile_denoiser()
    compiled = LatentFusion(ControlledDenoiser(backbone, [control], controlled_rows="conditional"), options, rows=6)
    fast = compiled(_noise(stream), told, _held(stream))
    torch.testing.assert_close(fast, slow, rtol=0, atol=2e-4)
    found = len(graphs)
    assert 2 <= found <= 2 * 3  # control network and denoiser, each for batches of no more than 2, 4 and 8 rows
    compiled(_noise(stream), told, _held(stream))
    assert len(graphs) == found


def test_the_control_matters(denoiser: ControlledDenoiser, told: Guidance, small: Options, stream: Stream) -> None:
    other = Guidance(told.condition, [told.images[0].flip(-2)])
    run = LatentFusion(denoiser, small())
    assert (run(_noise(stream), told) - run(_noise(stream), other)).abs().max() > 0.1  # 500 times the tolerance above


def test_solver_errors_and_steps(tiny_backbone: DiffusionBackbone) -> None:
    assert Solver("ddim", tiny_backbone.noise_path, 20).timesteps == list(range(951, 0, -50))
    assert Solver("ddim", tiny_backbone.noise_path, 4, skipped=2).timesteps == [251, 1]
    assert isinstance(tiny_backbone.noise_path, VariancePreservingPath)


def test_control_errors(tiny_backbone: DiffusionBackbone, control: nn.Module, denoiser: ControlledDenoiser) -> None:
    with pytest.raises(UserError, match="1 control networks were given with 2 scales"):
        ControlledDenoiser(tiny_backbone, [control], (1.0, 2.0))
    with pytest.raises(UserError, match="the control images have 3 channels; these control networks take 20"):
        denoiser.embed([torch.zeros(1, 3, 64, 64)])


def test_tiles_of_the_fixture_are_as_expected() -> None:
    assert len(overlapping_tiles(8, 12, 4, 4)) == 6
