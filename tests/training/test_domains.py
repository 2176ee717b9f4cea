"""tools/evaluate_domains.py from end to end on a tiny head; finished evaluations are not run again."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from perception.training import domains
from perception.training.config.load import Overrides, complete_model, load_config
from perception.training.export.mmseg_model import export_model
from perception.training.registry import DATASETS, MODELS

CONFIG = "configs/dginstyle/segmentor_world.py"
SMALL = (
    *("test_dataloader.dataset.count=2", "test_dataloader.dataset.size=(64,64)", "test_dataloader.num_workers=0"),
    *("test_dataloader.batch_size=2", "test_dataloader.dataset.cache=None"),
)


@pytest.fixture(scope="module")
def tool():
    spec = spec_from_file_location("tools_evaluate_domains", "tools/evaluate_domains.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def heads(tmp_path):
    """Two untrained heads."""
    own = ("model.backbone.model_name=test_resnet", "model.neck.out_channels=8", "model.decode_head.channels=8")
    config = load_config(CONFIG, Overrides(own))
    complete_model(config)
    metainfo = DATASETS.get("perception.WorldScenes").METAINFO
    folders = [tmp_path / name / "model" for name in ("first", "second")]
    for folder in folders:
        export_model(MODELS.build(config.model.to_dict()), config.model.to_dict(), metainfo, folder, [64, 64], {})
    return [str(folder) for folder in folders]


def test_table_and_resuming(tool, heads, tmp_path, capfd, monkeypatch, unformatted_configs):
    out = tmp_path / "out"
    arguments = [f"both={','.join(heads)}", "--config", CONFIG, "--domains", "clear,night", "--seen", "clear"]
    arguments += ["--out", str(out), "--cfg-options", *SMALL]
    assert tool.main(arguments) == 0
    table = (out / "table.md").read_text()
    assert "| model | seeds | clear (seen) | night | mean of unseen | gain |" in table
    assert table in capfd.readouterr().out
    report = json.loads((out / "table.json").read_text())
    assert len(report["models"]["both"]["night"]["values"]) == 2
    stored = json.loads((out / "evaluations" / "both_1_night.json").read_text())
    assert stored["mIoU"] == report["models"]["both"]["night"]["values"][1]
    assert set(stored["IoU"]) >= {"road", "sky"}

    monkeypatch.setattr(domains, "test", lambda *_: pytest.fail("a finished evaluation was run again"))
    assert tool.main(arguments) == 0
    assert capfd.readouterr().out.count("(from ") == 4
    called = []
    monkeypatch.setattr(domains, "test", lambda *a: called.append(a) or {"mIoU": 7.0})
    assert tool.main([*arguments, "test_dataloader.dataset.count=1"]) == 0  # other data: all again
    assert len(called) == 4
    assert json.loads((out / "table.json").read_text())["models"]["both"]["mean"]["mean"] == 7.0


def test_another_data_root_is_another_evaluation(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    called = []
    monkeypatch.setattr(domains, "test", lambda *a: called.append(a) or {"mIoU": 7.0})
    config = Path("configs/dginstyle/segformer_mitb5_gta.py")
    job = domains.Evaluations({"a": [tmp_path]}, config, ["mapillary"], tmp_path / "out")
    for root, runs in (("one", 1), ("one", 1), ("other", 2)):
        monkeypatch.setenv("PERCEPTION_MAPILLARY", str(tmp_path / root))
        domains.evaluate(job, tell=lambda line: None)
        assert len(called) == runs


@pytest.mark.parametrize(
    ("models", "options", "sentence"),
    [
        (["x=nowhere/model"], [], "nowhere/model is no folder of a trained head"),
        (["runs/model"], [], "'runs/model' is no NAME=FOLDER"),
        (["a=x", "a=y"], [], "'a=y' is no NAME=FOLDER"),
    ],
)
def test_wrong_arguments(tool, models, options, sentence, capfd, tmp_path):
    arguments = [*models, "--config", CONFIG, "--domains", "clear", "--out", str(tmp_path), *options]
    assert tool.main(arguments) == 2
    assert sentence in capfd.readouterr().err


def test_jobs_that_make_no_sense(tool, heads, capfd, tmp_path):
    common = [f"a={heads[0]}", "--out", str(tmp_path / "out"), "--domains", "night"]
    assert tool.main([*common, "--config", CONFIG, "--seen", "clear"]) == 2
    assert "--seen names clear, which --domains does not" in capfd.readouterr().err
    assert tool.main([f"a={heads[0]},{heads[0]}/", *common[1:], "--config", CONFIG]) == 2
    assert "a has a folder twice; give one folder of a trained head per seed" in capfd.readouterr().err
    assert tool.main([*common, "--config", "configs/fpn/fpn_mini_camvid.py"]) == 2
    assert "is CamVid, which has no domains; use one of WorldScenes or StreetScenes" in capfd.readouterr().err
    assert tool.main([*common, "--config", CONFIG, "--cfg-options", *SMALL, "test_dataloader.bach=1"]) == 2
    assert "DataLoader takes no 'bach'" in capfd.readouterr().err
