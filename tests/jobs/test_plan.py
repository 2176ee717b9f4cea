"""The cost plan of --dry-run."""

import pytest
import torch

from perception.jobs import Item
from perception.jobs.manifest import encode_line, manifest_path, part_path
from perception.jobs.plan import CostPlan, Measurement, measure, plan, remaining


def test_flops_are_those_of_the_operation_and_time_passes():
    a, b = torch.ones(30, 40), torch.ones(40, 50)
    measured = measure(lambda: a @ b, torch.device("cpu"))
    assert measured.flops == 2 * 30 * 40 * 50
    assert measured.seconds > 0 and measured.peak_bytes >= measured.base_bytes > 1e6


@pytest.mark.parametrize(("once", "most"), [(True, 1), (False, 7)])
def test_one_call_is_enough_for_a_job_of_one(once, most):
    calls = []
    a, b = torch.ones(30, 40), torch.ones(40, 50)
    measured = measure(lambda: calls.append(a @ b), torch.device("cpu"), once=once)
    assert len(calls) == most and measured.flops == 2 * 30 * 40 * 50 and measured.seconds > 0


def test_a_dry_run_of_one_picture_runs_the_network_once(tmp_path, monkeypatch, capsys):
    from PIL import Image

    from perception.commands.main import main
    from perception.depth.predictor import DepthPredictor

    (tmp_path / "images").mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64), (90, number, 90)).save(tmp_path / "images" / f"{number}.png")
    calls, real = [], DepthPredictor.__call__
    monkeypatch.setattr(DepthPredictor, "__call__", lambda *arguments: [calls.append(1), real(*arguments)][1])
    command = ["depth", str(tmp_path / "images" / "0.png"), "--size", "64", "--device", "cpu", "--dry-run"]
    assert main(command) == 0 and len(calls) == 1
    assert "FLOP" in capsys.readouterr().out
    assert main([*command[:1], str(tmp_path / "images"), *command[2:]]) == 0 and 1 + 3 <= len(calls) <= 1 + 7


def test_a_plan_scales_one_item_to_all():
    measured = Measurement(flops=2e9, seconds=0.5, base_bytes=100, peak_bytes=110)
    scaled = plan(measured, 1000, batch_size=8, evaluations=3, disk_bytes=2048)
    assert scaled == CostPlan(1000, 2e12, 180, 2048000, 500.0, 3000)
    assert plan(measured, 0, batch_size=8).flops == 0


def test_a_plan_reads_well():
    text = CostPlan(100_000, 3.24e17, 6.5 * 2**30, 1.5 * 2**40, 7.3e4, 200_000).render()
    for part in ("100000", "200000", "324 PFLOP", "about 6.5 GiB", "1.5 TiB", "about 20 h 17 min"):
        assert part in text
    assert "512 B" in CostPlan(1, 0, 512, 1, 60, 1).render() and "about 60 s" in CostPlan(1, 0, 1, 1, 60, 1).render()
    assert "about 1003 MiB" in CostPlan(1, 0, 1003 * 2**20, 1, 60, 1).render()
    assert "about 10 min" in CostPlan(1, 0, 1, 1, 600, 1).render()


@pytest.mark.parametrize("last", ["done", "failed"])
def test_finished_items_are_not_counted(tmp_path, last):
    items = [Item(id=key) for key in "abc"]
    assert remaining(items, None) == remaining(items, tmp_path) == 3
    manifest_path(tmp_path).write_bytes(encode_line({"id": "a", "status": "done", "output": []}))
    part_path(tmp_path, 0).write_bytes(
        encode_line({"id": "a", "status": last, "output": []}) + encode_line({"id": "b", "status": "failed"})
    )
    assert remaining(items, tmp_path) == (2 if last == "done" else 3)
