"""Models of the hub: the commit is recorded, can be pinned, and another one is another job. All from a local cache."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from PIL import Image

from perception.backbones import load_backbone
from perception.commands.main import main
from perception.errors import UserError

OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def hub(tiny_sd, tmp_path, monkeypatch):
    """owner/tiny in a cache of the hub, two commits with the same weights: main is the new one, v1 the old."""
    root = tmp_path / "cache" / "models--owner--tiny"
    for commit in (OLD, NEW):
        shutil.copytree(tiny_sd, root / "snapshots" / commit)
    (root / "refs").mkdir()
    for name, commit in (("main", NEW), ("v1", OLD)):
        (root / "refs" / name).write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return root


@pytest.fixture
def extract(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "images/0.png")

    def run(*arguments):
        command = ["extract", tmp_path / "images", "--taps", "mid_block", "--size", "64", "--device", "cpu"]
        command += ["--no-progress", "--out", tmp_path / "out", *arguments]
        status = main([*map(str, command)])
        return status, capsys.readouterr()

    return run


def settings(tmp_path):
    return json.loads((tmp_path / "out/job.json").read_text())


def test_a_backbone_knows_its_commit(hub, tiny_sd):
    assert load_backbone("owner/tiny", device="cpu").revisions == {"backbone": NEW}
    old = load_backbone("owner/tiny", revision="v1", vae="owner/tiny", device="cpu")
    assert old.revisions == {"backbone": OLD, "vae": NEW}
    assert load_backbone(tiny_sd, device="cpu").revisions == {}
    assert load_backbone("owner/tiny", revision=OLD, device="cpu").fingerprint == old.fingerprint
    with pytest.raises(UserError, match=r"the revision 'v1' was given for 'mini', which is no model of the hub"):
        load_backbone("mini", revision="v1")
    with pytest.raises(UserError, match="owner/tiny"):
        load_backbone("owner/tiny", revision="v9")


def test_another_commit_is_another_job_and_a_copy_is_not(hub, tiny_sd, extract, tmp_path):
    assert extract("--backbone", "owner/tiny", "--revision", "v1")[0] == 0
    assert settings(tmp_path)["revisions"] == {"backbone": OLD}
    status, printed = extract("--backbone", "owner/tiny")
    assert status == 2 and f"revision of the backbone = '{OLD[:3]}" in printed.err and NEW[:3] in printed.err
    for same in (["owner/tiny", "--revision", OLD], [tiny_sd]):
        status, printed = extract("--backbone", *same)
        assert status == 0 and "1 already there" in printed.out
    status, printed = extract("--backbone", tiny_sd, "--revision", "v1")
    assert status == 2 and "which is no model of the hub" in printed.err


def test_main_that_moved_is_another_job(hub, extract, tmp_path):
    assert extract("--backbone", "owner/tiny")[0] == 0
    assert extract("--backbone", "owner/tiny")[0] == 0
    (hub / "refs/main").write_text(OLD)
    status, printed = extract("--backbone", "owner/tiny")
    assert status == 2 and "revision of the backbone" in printed.err


def test_folders_and_shipped_models_have_no_revision(extract, tiny_sd, tmp_path):
    assert extract("--backbone", tiny_sd)[0] == 0
    assert "revisions" not in settings(tmp_path)


def test_a_head_of_the_hub(hub, tmp_path, capsys):
    shipped = Path(main.__code__.co_filename).parents[1] / "heads/mini-depth"
    shutil.copytree(shipped, tmp_path / "cache/models--owner--head/snapshots" / OLD)
    (tmp_path / "cache/models--owner--head/refs").mkdir()
    (tmp_path / "cache/models--owner--head/refs/v2").write_text(OLD)
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "images/0.png")
    command = ["depth", tmp_path / "images", "--model", "owner/head", "--revision", "v2", "--size", "64"]
    command += ["--device", "cpu", "--no-progress", "--out", tmp_path / "out"]
    assert main([*map(str, command)]) == 0
    assert settings(tmp_path)["revisions"] == {"model": OLD}


def test_cards_name_the_commit(hub, tmp_path):
    from perception.depth.net import DepthNet

    backbone = load_backbone("owner/tiny", device="cpu")
    network = DepthNet(backbone)
    assert f"commit {NEW} of the hub" in str(network.generate_model_card())
