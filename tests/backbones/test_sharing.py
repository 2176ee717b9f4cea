"""The savings for candidate prompts: that work is really saved, and that nothing stays behind."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perception.backbones import DiffusionBackbone, load_backbone
from perception.backbones.tables import Distinct, RowTables
from perception.errors import UserError

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0"


@pytest.fixture()
def backbone(tiny_sd: Path) -> DiffusionBackbone:
    """A fresh tiny-sd, as these tests hang hooks into it."""
    return load_backbone(tiny_sd, device="cpu")


def count_rows(backbone: DiffusionBackbone, names: list[str]) -> Counter[str]:
    """Rows that each module processes from now on."""
    rows: Counter[str] = Counter()

    def count(name: str, forward: Callable[..., torch.Tensor], *args: object, **options: object) -> torch.Tensor:
        out = forward(*args, **options)
        rows[name] += len(out)
        return out

    for name in names:
        module = backbone.unet.get_submodule(name)
        module.forward = partial(count, name, module.forward)
    return rows


def test_the_prefix_runs_once_per_sample(backbone: DiffusionBackbone) -> None:
    prefix = ["time_embedding", "conv_in", "down_blocks.0.resnets.0", "down_blocks.0.attentions.0.proj_in"]
    prefix += [f"{ATTENTION}.{name}" for name in ("norm1", "attn1", "norm2", "attn2.to_q")]
    rows = count_rows(backbone, [*prefix, f"{ATTENTION}.attn2", "down_blocks.0.resnets.1"])
    told = backbone.condition([str(i) for i in range(5)])
    with backbone.shared_prefix(5):
        backbone.denoise(torch.zeros(10, 4, 8, 8), 3, told[torch.arange(5).repeat(2)])
    assert {rows[name] for name in prefix} == {2}
    assert rows[f"{ATTENTION}.attn2"] == rows["down_blocks.0.resnets.1"] == 10


def test_keys_and_values_run_once_per_prompt(backbone: DiffusionBackbone) -> None:
    names = [n for n, tap in backbone.taps.items() if tap.kind == "cross_attention"]
    rows = count_rows(backbone, [f"{name}.{part}" for name in names for part in ("to_k", "to_v")])
    told, x_t = backbone.condition(["a", "b", "c"]), torch.zeros(3, 4, 8, 8)
    with backbone.cached_text():
        for _ in range(3):
            backbone.denoise(x_t, 3, told)
        backbone.denoise(x_t[:1], 3, told[2])
        backbone.denoise(x_t, 3, backbone.condition(["d"]))
    assert len(rows) == 32 and set(rows.values()) == {4}
    layers = [backbone.unet.get_submodule(name) for name in rows]
    assert backbone.text_bytes(told) == 3 * 77 * 4 * sum(layer.out_features for layer in layers)
    backbone.denoise(x_t, 3, told)
    assert set(rows.values()) == {7}, "outside the context nothing is remembered"


def test_known_and_new_prompts_in_one_batch(backbone: DiffusionBackbone) -> None:
    name = f"{ATTENTION}.attn2.to_v"
    x_t = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    told = backbone.condition(["b", "new", "a", "new"])
    plain = backbone.denoise(x_t, 3, told).raw
    rows = count_rows(backbone, [name])
    with backbone.cached_text():
        backbone.denoise(x_t[:2], 3, backbone.condition(["a", "b"]))
        mixed = backbone.denoise(x_t, 3, told).raw
    assert rows[name] == 3
    torch.testing.assert_close(mixed, plain, rtol=1e-5, atol=1e-5)


class Operations(TorchDispatchMode):
    """Counts what a GPU would have to start: every operation that is not merely a view."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **kwargs or {})


def test_sharing_starts_fewer_operations_than_the_plain_path(backbone: DiffusionBackbone) -> None:
    """A small model on a GPU waits for its kernels to be started: savings must not cost more of them."""
    candidates, tables = torch.arange(3).repeat(2), RowTables()  # of two samples
    told, x_t = backbone.condition(["a", "b", "c"]), torch.zeros(6, 4, 8, 8)

    def operations(rows: torch.Tensor) -> int:
        text = told[candidates[rows]]
        with torch.inference_mode(), Operations() as operations:
            backbone.denoise(x_t[rows], 3, text)
        return operations.count

    every, some = torch.arange(6), torch.tensor([0, 2, 3, 5])
    plain = operations(every), operations(some)
    with backbone.cached_text(tables), backbone.shared_prefix(3):
        operations(every)  # makes the tables
    for rows, alone in zip((every, some), plain, strict=True):
        with backbone.cached_text(tables), backbone.shared_prefix(len(rows) // 2):
            assert operations(rows) < alone


def test_tables_outlive_the_context_and_go_with_the_weights(backbone: DiffusionBackbone) -> None:
    rows, tables = count_rows(backbone, [f"{ATTENTION}.attn2.to_k"]), RowTables()
    told, x_t = backbone.condition(["a", "b"]), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def cached() -> torch.Tensor:
        with backbone.cached_text(tables):
            return backbone.denoise(x_t, 3, told).raw

    before = cached()
    assert torch.equal(cached(), before) and rows.total() == 2
    with torch.no_grad():
        backbone.unet.get_submodule(ATTENTION).attn2.to_k.weight.mul_(3)
    assert not torch.equal(cached(), before) and rows.total() == 4
    backbone.to(torch.float64)
    assert cached().dtype == torch.float64 and rows.total() == 6
    copied = copy.deepcopy(tables)
    with backbone.cached_text(copied):
        backbone.denoise(x_t, 3, told)
    assert rows.total() == 8, "a copy is empty: it may be of another backbone's weights"


def test_a_full_table_keeps_what_the_batch_holds(backbone: DiffusionBackbone) -> None:
    rows, tables = count_rows(backbone, [f"{ATTENTION}.attn2.to_v"]), RowTables(capacity=2)
    x_t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    taken = []
    for prompts in (["a", "b"], ["b", "c"], ["b", "c"], ["a", "b"]):
        told = backbone.condition(prompts)
        plain = backbone.denoise(x_t, 3, told).raw
        rows.clear()
        with backbone.cached_text(tables):
            torch.testing.assert_close(backbone.denoise(x_t, 3, told).raw, plain, rtol=1e-5, atol=1e-5)
        taken.append(rows.total())
    assert taken == [2, 1, 0, 1]


@pytest.mark.parametrize(("alone", "made"), [(False, [[0, 1], [1]]), (True, [[0], [1], [1]])])
def test_rows_made_alone_do_not_tell_what_they_were_made_with(alone: bool, made: list[list[int]]) -> None:
    tables, asked = copy.deepcopy(RowTables(alone=alone)), []

    def make(rows: list[int]) -> torch.Tensor:
        asked.append(rows)
        return torch.tensor(rows, dtype=torch.float32)[None, :, None]

    tables.look_up(0, 1, Distinct(("a", "b")), make)
    tables.look_up(0, 1, Distinct(("b", "c", "c")), make)
    assert asked == made


def test_nothing_stays_behind(backbone: DiffusionBackbone) -> None:
    before = [(name, "forward" in vars(module)) for name, module in backbone.named_modules()]
    hooks = lambda: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.modules())  # noqa: E731
    with pytest.raises(UserError, match="timestep 1000"), backbone.cached_text(), backbone.shared_prefix(2):
        assert hooks() > 0
        backbone.denoise(torch.zeros(2, 4, 8, 8), 1000, backbone.condition([""]))
    backbone.features(torch.zeros(1, 4, 8, 8), spec=_spec(ATTENTION + ".attn2"))
    assert [(name, "forward" in vars(module)) for name, module in backbone.named_modules()] == before and hooks() == 0


def test_length_and_learned_tokens_are_not_mistaken_for_the_prompt(backbone: DiffusionBackbone) -> None:
    told, x_t = backbone.condition(["a"]), torch.zeros(1, 4, 8, 8)
    other = told.with_hidden(told.hidden * 2)
    short = backbone.condition(["a"], length=5)
    plain = [backbone.denoise(x_t, 3, c).raw for c in (told, other, short)]
    with backbone.cached_text():
        cached = [backbone.denoise(x_t, 3, c).raw for c in (told, other, short, told)]
    for a, b in zip(cached, [*plain, plain[0]], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_trained_projections_are_not_remembered(backbone: DiffusionBackbone) -> None:
    backbone.unet.requires_grad_(True)
    with backbone.cached_text():
        backbone.denoise(torch.zeros(1, 4, 8, 8), 3, backbone.condition(["a"])).raw.sum().backward()
    assert backbone.unet.get_submodule(ATTENTION).attn2.to_k.weight.grad is not None


def test_sdxl_shares_what_the_pooled_text_does_not_reach(make_folder: Callable[[str], Path]) -> None:
    backbone = load_backbone(make_folder("sdxl"), device="cpu")
    rows = count_rows(backbone, ["conv_in", "time_embedding", "down_blocks.0.resnets.0", "down_blocks.1.resnets.0"])
    told, x_t = backbone.condition(["a", "b"]), torch.zeros(2, 4, 8, 8)
    with backbone.shared_prefix(2):
        backbone.denoise(x_t, 3, told)
    assert [*rows.values()] == [1, 1, 2, 2]
    same = type(told)(told.hidden, told.pooled[:1].expand(2, -1), keys=told.keys)
    plain = backbone.denoise(x_t, 3, same).raw
    rows.clear()
    with backbone.shared_prefix(2, same_pooled=True):
        shared = backbone.denoise(x_t, 3, same).raw
    assert [*rows.values()] == [1, 1, 1, 1]
    with backbone.shared_prefix(2, same_pooled=True):  # the block runs once, and the tap inside it has both rows
        (inside,) = backbone.capture(x_t, 3, same, ["down_blocks.0.resnets.0"]).values()
    assert len(inside) == 2
    torch.testing.assert_close(shared, plain, rtol=1e-5, atol=1e-5)


def test_bad_candidate_batches(backbone: DiffusionBackbone) -> None:
    with pytest.raises(UserError, match="candidates is 0; expected"), backbone.shared_prefix(0):
        pass
    with (
        pytest.raises(UserError, match="a batch of 3 rows does not hold 2 candidates per sample"),
        backbone.shared_prefix(2),
    ):
        backbone.denoise(torch.zeros(3, 4, 8, 8), 1, backbone.condition([""]))
    with (
        pytest.raises(UserError, match="a batch of 6 rows does not hold 1, 2 candidates per sample"),
        backbone.shared_prefix([1, 2]),
    ):
        backbone.denoise(torch.zeros(6, 4, 8, 8), 1, backbone.condition([""]))
    with pytest.raises(UserError, match=r"candidates is \[2, 0\]; expected"), backbone.shared_prefix([2, 0]):
        pass


def test_the_time_embedding_runs_once_per_timestep(backbone: DiffusionBackbone) -> None:
    projection = next(n for n, _ in backbone.unet.named_modules() if n.endswith("time_emb_proj"))
    names = ["time_proj", "time_embedding", projection]
    rows, tables = count_rows(backbone, names), RowTables()
    told, x_t = backbone.condition(["a"]), torch.zeros(4, 4, 8, 8)
    for steps, new in (([3, 7, 3, 7], 2), ([7, 7, 7, 7], 0), ([7, 3, 9, 9], 1)):
        plain = backbone.denoise(x_t, torch.tensor(steps), told).raw
        rows.clear()
        with backbone.folded_time(tables):
            folded = backbone.denoise(x_t, torch.tensor(steps), told).raw
        assert {name: rows[name] for name in names} == dict.fromkeys(names, new)
        torch.testing.assert_close(folded, plain, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        backbone.unet.time_embedding.linear_1.weight.mul_(2)
    with backbone.folded_time(tables):
        other = backbone.denoise(x_t, torch.tensor([7, 3, 9, 9]), told).raw
    assert not torch.allclose(other, folded), "the tables go with the weights"
    backbone.unet.requires_grad_(True)
    with backbone.folded_time(tables):
        backbone.denoise(x_t, 3, told).raw.sum().backward()
    assert backbone.unet.time_embedding.linear_1.weight.grad is not None, "nothing is remembered of what is trained"


def _spec(tap: str):
    from perception.backbones import FeatureSpec

    return FeatureSpec((tap,), noise="none")


def test_a_table_that_grows_leaves_what_a_graph_has_saved() -> None:
    tables, weight = RowTables(), torch.ones(1, requires_grad=True)

    def look_up(first: int, last: int) -> torch.Tensor:
        batch = Distinct(tuple(range(first, last)))
        return tables.look_up(0, 1, batch, lambda rows: torch.tensor([[float(first + row)] for row in rows])[None])

    total = (look_up(0, 4) * weight).sum() + (look_up(1, 2) * weight).sum()  # views of the table
    for first in range(4, 40, 3):
        assert look_up(first, first + 3).flatten().tolist() == [first, first + 1, first + 2]
    total.backward()
    assert weight.grad == 0 + 1 + 2 + 3 + 1
    assert look_up(0, 40).flatten().tolist() == list(range(40))
