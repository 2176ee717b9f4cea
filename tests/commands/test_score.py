"""`perception score` with a tiny ResNet head on scenes of the miniature world."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from perception.backbones.loading import hub
from perception.commands.main import main
from perception.curation.consistency import ConsistencyPredictor
from perception.data.world import CLASSES, PALETTE, render_scene

DOMAINS = ("clear", "night", "fog")


def exported(folder, classes):
    """The artifact folder of an untrained FCN on a narrow ResNet-18, for 64 x 64 pixels."""
    from perception.training.export.mmseg_model import export_model
    from perception.training.registry import MODELS

    config = {
        "type": "EncoderDecoder",
        "backbone": {"type": "mmseg.ResNet", "depth": 18, "base_channels": 8, "norm_cfg": {"type": "BN"}},
        "decode_head": {
            "type": "FCNHead",
            "in_channels": 8,
            "in_index": 0,
            "channels": 8,
            "num_convs": 1,
            "num_classes": len(classes),
            "dropout_ratio": 0,
        },
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MODELS.build(config)
        torch.nn.init.normal_(network.decode_head.conv_seg.weight, std=30.0)  # losses far apart
    names = {"classes": list(classes), "palette": [list(colour) for colour in PALETTE[: len(classes)]]}
    export_model(network, config, names, folder, (64, 64), {})
    return folder


@pytest.fixture(scope="session")
def head(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("head") / "model", CLASSES)


def write_pair(root, name, scene, labels="labels/{}_labelTrainIds.png"):
    for path, pixels in ((f"images/{name}.png", scene.image), (labels.format(name), scene.labels)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / path)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """Three labelled scenes of 72 x 96, one in a sub-folder; read only."""
    root = tmp_path_factory.mktemp("rendered")
    for index, name in enumerate(("a", "b", "town/c")):
        write_pair(root, name, render_scene(2, index, DOMAINS[index], (72, 96)))
    return root


@pytest.fixture
def scenes(rendered, tmp_path):
    """A copy of them."""
    return shutil.copytree(rendered, tmp_path / "set")


@pytest.fixture
def score(scenes, head, tmp_path):
    """Run the command on the scenes; later arguments win."""

    def run(*arguments, out="out", model=head, folder=scenes, reference=("--reference-world", "2")):
        command = ["score", folder, "--model", model, "--device", "cpu", "--no-progress", "--min-score", "0"]
        return main([*map(str, (*command, *reference, "--out", tmp_path / out, *arguments))])

    return run


def files(out):
    paths = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def complaint(capsys):
    found = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perception: ")]
    assert len(found) == 1
    return found[0]


def test_scores_and_filtered_labels_beside_untouched_ones(score, scenes, head, tmp_path, capsys):
    from perception.training.export.mmseg_model import SegmentationModel

    before = files(scenes)
    assert score("--min-score", "0.02") == 0
    assert files(scenes) == before
    out, printed = tmp_path / "out", capsys.readouterr().out
    assert "reference: 2 done" in printed and "3 samples: mIoU" in printed and "recalled objects" in printed
    rows = lines(out / "scores.jsonl")
    assert [row["id"] for row in rows] == ["a", "b", "town/c"]
    losses = json.loads((out / "class_loss.json").read_text())
    network = SegmentationModel.from_pretrained(head)
    for row in rows:
        labels, kept = (np.asarray(Image.open(out / row[key])) for key in ("labels", "labels_filtered"))
        judged = ConsistencyPredictor(network)(Image.open(out / row["image"]), labels)
        wanted = labels.copy()
        for name, entry in losses["class_loss"].items():
            wanted[(labels == CLASSES.index(name)) & (judged.loss > 1.25 * entry["mean"])] = 255
        assert np.array_equal(kept, wanted) and (kept != labels).any()
        assert row["ignored_share"] == pytest.approx((kept != labels).mean(), abs=1e-6)
        assert row["mean_iou"] == pytest.approx(judged.mean_iou, abs=1e-6)
        assert row["accepted"] == (row["mean_iou"] >= 0.02)
        assert row["class_pixels"] == {str(c): int((kept == c).sum()) for c in np.unique(kept) if c != 255}
    ids = (out / "accepted.txt").read_text().split(), (out / "rejected.txt").read_text().split()
    assert ids == tuple([row["id"] for row in rows if row["accepted"] == kind] for kind in (True, False))


def test_mmseg_trains_on_the_filtered_set(score, tmp_path):
    from mmengine.registry import DefaultScope
    from mmseg.registry import DATASETS

    assert score() == 0
    out = tmp_path / "out"
    card = (out / "README.md").read_text()
    code = card.split("```python")[1].split("```")[0].replace("PATH/TO/THIS/FOLDER", str(out))
    found: dict = {}
    exec(code, found)
    with DefaultScope.overwrite_default_scope("mmseg"):  # as in a config of mmseg
        made = DATASETS.build(found["train_dataset"])
    assert len(made) == 3
    sample = made[2]
    wanted = np.asarray(Image.open(out / "labels_filtered/town/c_labelTrainIds.png"))
    assert np.array_equal(sample["data_samples"].gt_sem_seg.data[0].numpy(), wanted)
    assert tuple(sample["inputs"].shape) == (3, 72, 96)
    stats = json.loads((out / "sample_class_stats.json").read_text())
    assert all((out / row["file"]).is_file() for row in stats) and stats[0]["0"] > 0
    assert "1.25 x the mean loss of its class on real images (2 images)" in card and "| road | 3 |" in card


def test_a_rerun_resumes_and_another_least_score_only_moves_samples(score, tmp_path, capsys):
    assert score() == 0
    out, before = tmp_path / "out", files(tmp_path / "out")
    (out / "labels_filtered" / "b_labelTrainIds.png").unlink()
    (out / "manifest.jsonl").write_bytes(b"".join((out / "manifest.jsonl").read_bytes().splitlines(True)[:2]))
    (out / "reference" / "manifest.jsonl").unlink()
    capsys.readouterr()
    assert score("--batch-size", "2") == 0
    assert "2 done, 1 already there" in capsys.readouterr().out and files(out) == before
    assert score("--min-score", "1") == 0
    assert (out / "accepted.txt").read_text() == "" and "0 done, 3 already there" in capsys.readouterr().out
    assert json.loads((out / "sample_class_stats.json").read_text()) == []
    assert score("--alpha", "2") == 2
    assert "with alpha = 1.25 (now 2.0)" in complaint(capsys)


@pytest.mark.parametrize("calls", [1, 3])  # in the reference, and in the samples
def test_an_interrupted_job_goes_on(score, monkeypatch, tmp_path, capsys, calls):
    real, count = ConsistencyPredictor.__call__, 0

    def stop_later(self, image, labels):
        nonlocal count
        count += 1
        if count > calls:
            raise KeyboardInterrupt
        return real(self, image, labels)

    with monkeypatch.context() as patch:
        patch.setattr(ConsistencyPredictor, "__call__", stop_later)
        assert score() == 130
    assert "run the same command again" in complaint(capsys)
    assert score() == 0 and score(out="plain") == 0
    assert files(tmp_path / "out") == files(tmp_path / "plain")


def test_measured_losses_are_used_again(score, head, tmp_path, capsys):
    assert score() == 0
    known = ("--class-loss", tmp_path / "out" / "class_loss.json")
    assert score(reference=known, out="again") == 0
    first, again = files(tmp_path / "out"), files(tmp_path / "again")
    assert again == {path: content for path, content in first.items() if not path.startswith("reference/")}
    capsys.readouterr()
    assert score("--size", "128", reference=known, out="size") == 2
    assert "measure it again with --reference" in complaint(capsys)
    (tmp_path / "out" / "class_loss.json").write_text("[]")
    assert score(reference=known, out="broken") == 2
    assert "is no class_loss.json for this head" in complaint(capsys)


def test_real_images_in_folders(score, tmp_path, capsys):
    for index in range(2):
        scene = render_scene(1, index, "clear", (64, 64))
        write_pair(tmp_path / "real", f"aachen/{index}", scene, "labels/{}_gtFine_labelTrainIds.png")
        picture = tmp_path / "real" / "images" / "aachen" / f"{index}.png"
        picture.rename(picture.with_name(f"{index}_leftImg8bit.png"))
    reference = ("--reference", tmp_path / "real" / "images", tmp_path / "real" / "labels")
    assert score(reference=reference) == 0
    assert score(out="world") == 0
    one, other = (json.loads((tmp_path / out / "class_loss.json").read_text()) for out in ("out", "world"))
    assert one == other  # the same scenes
    (tmp_path / "real" / "labels" / "aachen" / "1_gtFine_labelTrainIds.png").unlink()
    capsys.readouterr()
    assert score(reference=reference, out="alone") == 2
    assert "1 images or label maps have no partner" in complaint(capsys)


def test_scores_alone_and_counts_for_more_samples(score, scenes, tmp_path):
    assert score("--max-count", "6", reference=("--no-filter",)) == 0
    out = tmp_path / "out"
    assert not (out / "labels_filtered").exists() and not (out / "class_loss.json").exists()
    rows = lines(out / "scores.jsonl")
    counts = json.loads((out / "per_label.json").read_text())
    assert set(counts) == {row["source"] for row in rows} and sorted(counts.values()) == [2, 4, 6]
    assert counts[max(rows, key=lambda row: row["loss"])["source"]] == 6
    assert json.loads((out / "sample_class_stats.json").read_text())[0]["file"] == "../set/labels/a_labelTrainIds.png"
    recall = json.loads((out / "component_recall.json").read_text())
    assert recall["reference"] is None and recall["samples"]["areas"] == [64, 256, 1024, 4096]
    shown = sum(sum(row["components"]) for row in recall["samples"]["classes"].values())
    assert shown > 0 and list(recall["samples"]["classes"])[:2] == ["pole", "traffic light"]


def test_a_bad_sample_costs_one_line(score, scenes, tmp_path, capsys):
    (scenes / "images" / "b.png").write_bytes(b"no image")
    Image.fromarray(np.full((72, 96), 255, np.uint8)).save(scenes / "labels" / "a_labelTrainIds.png")
    Image.fromarray(np.full((72, 96), 19, np.uint8)).save(scenes / "labels" / "town" / "c_labelTrainIds.png")
    write_pair(scenes, "good", render_scene(2, 9, "clear", (64, 64)))
    assert score() == 1
    reasons = [line.get("reason") for line in lines(tmp_path / "out" / "manifest.jsonl")]
    assert "labels no pixel" in reasons[0] and "not an image" in reasons[1] and reasons[2] is None
    assert "class ids [19], but there are 19 classes" in reasons[3]
    assert "3 could not be scored" in (tmp_path / "out" / "README.md").read_text()


def test_a_changed_label_map_is_scored_again(score, scenes, capsys):
    assert score() == 0
    Image.fromarray(np.zeros((72, 96), np.uint8)).save(scenes / "labels" / "a_labelTrainIds.png")
    capsys.readouterr()
    assert score() == 0
    assert "1 done, 2 already there" in capsys.readouterr().out


@pytest.fixture(scope="session")
def generated(tiny_backbone, tiny_sd, tmp_path_factory):
    """A tiny set of `perception generate`, and the label maps that it was made of."""
    from perception.generation import new_control

    root = tmp_path_factory.mktemp("generated")
    new_control(tiny_backbone, 20).save_pretrained(root / "control")
    (root / "maps").mkdir()
    for index in range(2):
        labels = render_scene(2, index, "clear", (64, 64)).labels
        Image.fromarray(labels).save(root / "maps" / f"{index}_labelTrainIds.png")
    assert generate(root, tiny_sd, "--per-label", "2", "--domains", "night,none") == 0
    return root


def generate(root, backbone, *arguments, out="gen"):
    command = ["generate", "--labels", root / "maps", "--control", root / "control", "--backbone", backbone]
    sampler = ["--size", "64", "--steps", "1", "--window", "8", "--rescale", "1", "--device", "cpu", "--no-progress"]
    return main([*map(str, (*command, *sampler, "--out", root / out, *arguments))])


def test_a_generated_set(score, generated, tiny_sd, tmp_path, capsys):
    before = files(generated / "gen")
    assert score(folder=generated / "gen") == 0
    assert files(generated / "gen") == before
    out, printed = tmp_path / "out", capsys.readouterr().out
    assert "domains: class names alone 2, night 2" in printed
    assert json.loads((out / "prompts.json").read_text())["domains"] == {"class names alone": 2, "night": 2}
    card = (out / "README.md").read_text()
    assert "## Licences" in card and "## Filter" in card and "| night | 2 |" in card
    assert [row["source"] for row in lines(out / "scores.jsonl")] == [f"{i}_labelTrainIds.png" for i in (0, 0, 1, 1)]
    counts = json.loads((out / "per_label.json").read_text())
    assert sorted(counts.values()) == [10, 20]
    assert main(["generate", "--verify", str(generated / "gen")]) == 0
    assert "template      2  A city street scene with {names}, in night weather." in capsys.readouterr().out
    (out / "per_label.json").write_text(json.dumps(dict(zip(counts, (1, 0), strict=True))))
    assert generate(generated, tiny_sd, "--per-label", out / "per_label.json", out=tmp_path / "more") == 0
    assert [line["id"] for line in lines(tmp_path / "more" / "manifest.jsonl")] == ["0_0"]
    (generated / "gen" / "labels" / "0_1_labelTrainIds.png").rename(tmp_path / "kept.png")
    capsys.readouterr()
    assert score(folder=generated / "gen", out="hole") == 2
    assert "1 files of the samples are missing or empty" in complaint(capsys) and not (tmp_path / "hole").exists()
    shutil.move(tmp_path / "kept.png", generated / "gen" / "labels" / "0_1_labelTrainIds.png")


def test_an_unfinished_set_and_another_job(score, generated, tmp_path, capsys):
    shutil.copytree(generated / "gen", tmp_path / "half")
    (tmp_path / "half" / "manifest.jsonl").unlink()
    assert score(folder=tmp_path / "half") == 2
    assert "did not finish; run the same `perception generate` command again first" in complaint(capsys)
    shutil.copytree(generated / "gen", tmp_path / "short")
    manifest = tmp_path / "short" / "manifest.jsonl"
    manifest.write_bytes(b"".join(manifest.read_bytes().splitlines(True)[:2]))
    assert score(folder=tmp_path / "short") == 2
    assert "lacks the lines of 2 samples, first 1_0" in complaint(capsys)
    (tmp_path / "half" / "job.json").write_text('{"options": {}}')
    (tmp_path / "half" / "manifest.jsonl").write_text('{"id": "a", "status": "done"}\n')
    assert score(folder=tmp_path / "half") == 2
    assert complaint(capsys).startswith(f"perception: {tmp_path / 'half'} is")


@pytest.mark.parametrize(
    ("arguments", "reference", "sentence"),
    [
        ([], (), "add --reference IMAGES LABELS, --reference-world N or --class-loss FILE"),
        (["--alpha", "0"], ("--reference-world", "2"), "--alpha is 0; it must be above 0"),
        (["--alpha", "2"], ("--no-filter",), "leave out --alpha or --no-filter"),
        (["--min-score", "50"], ("--no-filter",), "--min-score is 50; it must be 0 to 1"),
        (["--objects", "pole,trafic light"], ("--no-filter",), "did you mean 'traffic light'?"),
        (["--areas", "9,4"], ("--no-filter",), "give them in rising order"),
        ([], ("--reference", "nowhere", "nothing"), "nowhere is not a folder"),
        ([], ("--class-loss", "nowhere.json"), "nowhere.json does not exist; check the path"),
        (["--model", "/nowhere"], ("--no-filter",), "/nowhere is no folder"),
        (["--size", "100"], ("--no-filter",), "multiples of 64"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(score, tmp_path, capsys, arguments, reference, sentence):
    assert score(*arguments, reference=reference) == 2
    assert sentence in complaint(capsys)
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_heads_that_do_not_fit(score, generated, tmp_path, capsys):
    three = exported(tmp_path / "three", CLASSES[:3])
    assert score(model=three, folder=generated / "gen", reference=("--no-filter",)) == 2
    assert "has 3 classes, but the data set 19" in complaint(capsys)
    turned = exported(tmp_path / "turned", CLASSES[::-1])
    assert score(model=turned, folder=generated / "gen", reference=("--no-filter",)) == 2
    assert "class 0 of " in (said := complaint(capsys)) and "is 'bicycle', but 'road' of the data set" in said
    assert score(model=three) == 2
    assert "was not trained on the 19 Cityscapes classes" in complaint(capsys)
    (three / "config.json").write_text('{"task": "depth"}')
    assert score(model=three) == 2
    assert "is a depth model, which labels no classes" in complaint(capsys)


def test_heads_of_the_hub(score, head, tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **options: asked.append(name) or str(head))
    assert score(model="owner/head", out="hub") == score(out="folder") == 0
    assert set(asked) == {"owner/head"}
    assert lines(tmp_path / "hub" / "manifest.jsonl") == lines(tmp_path / "folder" / "manifest.jsonl")

    def absent(name, **options):
        raise hub.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(hub, "snapshot_download", absent)
    assert score(model="owner/head") == 2
    assert "'owner/head' is neither a local folder nor in the local hub cache" in complaint(capsys)


def test_folders_without_samples(score, tmp_path, capsys):
    assert score(folder=tmp_path / "nowhere") == 2
    assert "is not a folder; name a data set" in complaint(capsys)
    for name in ("images", "labels"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    assert score(folder=tmp_path / "empty") == 2
    assert "holds no images" in complaint(capsys)
    assert score(out="set") == 2
    assert "choose an --out beside FOLDER" in complaint(capsys)


def test_dry_run_writes_nothing(score, tmp_path, capsys):
    assert score("--dry-run") == 0
    printed = capsys.readouterr().out
    assert "items  3\n" in printed and "2 reference images of the same cost each" in printed
    assert not (tmp_path / "out").exists()


def test_names_of_every_kind(score, tmp_path, capsys, shown):
    scene, odd = render_scene(2, 9, "clear", (72, 96)), ("line\nbreak", "\u2028x", "end ", os.fsdecode(b"\xe9"))
    usual = {"n" * 251, "m" * 250 + "o", "\x1b[2J"}
    for name in (*usual, *odd):
        write_pair(tmp_path / "plain", name, scene, "labels/{}.png")
    assert score(folder=tmp_path / "plain") == 1
    told, out = capsys.readouterr().out, tmp_path / "out"
    assert shown(told) and "has a line break in it or a space at its end" in told
    assert set((out / "accepted.txt").read_text().split("\n")[:-1]) == usual
    rows = lines(out / "scores.jsonl")
    assert len({row["labels_filtered"] for row in rows}) == len(usual)
    assert all((out / row["labels_filtered"]).is_file() for row in rows)
    assert set(json.loads((out / "sample_class_stats_dict.json").read_text())) == {r["labels_filtered"] for r in rows}
