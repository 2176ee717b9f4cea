"""The benchmark compares what it says: fewer FLOPs, equal results."""

import runpy

from benchmarks import savings
from benchmarks.memory import kept_memory

from perception.backbones import DiffusionBackbone


def test_fast_paths_save_flops_and_change_nothing(tiny_backbone: DiffusionBackbone) -> None:
    rows = [
        savings.early_stop(tiny_backbone, 64, 2),
        savings.timesteps_in_one_call(tiny_backbone, 64, 1),
        savings.referring_sentences(tiny_backbone, 64, 3),
        savings.training_step(tiny_backbone, 64, 2),
        savings.fused_windows(tiny_backbone, 64),
    ]
    assert rows[0].flop_ratio < 0.6 and rows[1].flop_ratio == 1
    assert all(row.difference < 1e-5 for row in rows)
    assert rows[2].flop_ratio < 0.8 and rows[3].flop_ratio < 1
    assert rows[4].flop_ratio < 0.81, "a row of five windows less"
    assert [row.evaluations for row in rows] == [2, 4, 3, 2, 50]
    assert rows[0].name in rows[0].render()


def test_memory_that_is_kept_changes_nothing(tiny_sd):
    row = kept_memory(str(tiny_sd), "float32", 64, 2, repeats=2)
    assert row.difference == 0 and min(row.plain_seconds, row.fast_seconds) > 0


def test_a_mistake_on_the_command_line_is_one_sentence(capsys):
    tool = runpy.run_path("tools/benchmark.py")
    assert tool["main"](["--backbone", "nowhere", "--rows", "early_stop"]) == 2
    assert capsys.readouterr().err.startswith("benchmark: the model folder nowhere does not exist")
