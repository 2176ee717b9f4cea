"""Arguments shared by the commands."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from perception.commands.arguments import (
    add_backbone_arguments,
    add_job_arguments,
    comma_ints,
    comma_list,
    job_options,
    load_backbone_from,
    positive_int,
    show_summary,
)
from perception.errors import UserError
from perception.jobs import JobOptions, JobSummary
from perception.jobs.contract import RayOptions


@pytest.fixture
def parse():
    parser = argparse.ArgumentParser()
    add_backbone_arguments(parser)
    add_job_arguments(parser, batch_size=5)
    return lambda *arguments: parser.parse_args([str(argument) for argument in arguments])


def test_job_arguments_become_options(parse):
    args = parse("--out", "o", "--workers", "7", "--seed", "3", "--no-progress", "--commit-seconds", "2")
    assert job_options(args) == JobOptions(
        out=Path("o"), batch_size=5, engine="local", workers=7, progress=False, seed=3, commit_seconds=2.0
    )
    with pytest.raises(UserError, match="No output folder was given"):
        job_options(parse())


def test_backbone_arguments_reach_the_backbone(parse, tiny_sd, tiny_backbone):
    backbone = load_backbone_from(parse("--backbone", tiny_sd, "--dtype", "bfloat16", "--device", "cpu"))
    assert backbone.dtype == torch.bfloat16 and backbone.device.type == "cpu"
    control = load_backbone_from(parse("--backbone", tiny_sd, "--device", "cpu", "--random-init-seed", "1"))
    assert control.fingerprint != tiny_backbone.fingerprint


def test_lists_and_numbers():
    assert comma_list(" a, b,,c ") == ("a", "b", "c") and comma_list("") == ()
    assert comma_ints("50,100") == (50, 100) and positive_int("3") == 3
    with pytest.raises(argparse.ArgumentTypeError, match="0 is not at least 1"):
        positive_int("0")


def test_only_the_first_rank_reports(capsys):
    summary = JobSummary(total=2, done=1, failed=1, skipped=0, seconds=1.0, manifest=Path("m"), reasons=("a: b",))
    assert show_summary(summary) == 1
    assert capsys.readouterr().out == "1 done, 0 already there, 1 failed, 1.0 s: m\na: b\n"
    assert show_summary(replace(summary, rank=1)) == 0 and capsys.readouterr().out == ""


def test_ray_arguments_become_options_and_mean_nothing_elsewhere(parse):
    args = parse("--out", "o", "--engine", "ray", "--ray-workers", "3", "--ray-gpus", "0.5", "--ray-address", "a:1")
    assert job_options(args).ray == RayOptions(workers=3, gpus=0.5, address="a:1")
    assert job_options(parse("--out", "o", "--engine", "ray", "--device", "cpu")).ray == RayOptions(gpus=0.0)
    with pytest.raises(UserError, match="--ray-workers means nothing to the engine 'local'; add --engine ray"):
        job_options(parse("--out", "o", "--ray-workers", "3"))
    with pytest.raises(UserError, match="so --device cuda:1 names none; use --device cuda"):
        job_options(parse("--out", "o", "--engine", "ray", "--device", "cuda:1"))
