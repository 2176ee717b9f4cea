"""Options files of tools/generate_dataset.py."""

import pytest

from perception.commands.generate.config_file import arguments_of
from perception.errors import UserError

PYTHON = """
from pathlib import Path
labels = Path("maps")
control = ["a", "b"]
size = (64, 96)
domains = ["night", "fog"]
template = {"dawn": "At dawn, {names}."}
rare_classes = True
no_progress = False
negative_prompt = "-blurred"
"""
TOML = """
labels = "maps"
control = ["a", "b"]
size = [64, 96]
domains = ["night", "fog"]
rare_classes = true
negative_prompt = "-blurred"
[template]
dawn = "At dawn, {names}."
"""


@pytest.mark.parametrize(("name", "text"), [("o.py", PYTHON), ("o.toml", TOML)])
def test_options_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert set(arguments_of(tmp_path / name)) == {
        "--labels=maps", "--control=a", "--control=b", "--size=64x96", "--domains=night,fog", "--rare-classes",
        "--template=dawn=At dawn, {names}.", "--negative-prompt=-blurred",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("o.json", '{"per_lable": 3}', "did you mean 'per_label'"),
        ("o.json", '{"dry_run": "yes"}', "--dry-run is a switch"),
        ("o.json", "[1]", "holds no names and values"),
        ("o.json", "{", "is no JSON"),
        ("o.py", "1 / 0", "ZeroDivisionError"),
        ("o.yaml", "", "is no options file"),
    ],
)
def test_bad_options_files(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=expected):
        arguments_of(tmp_path / name)


def test_options_behind_the_file_win(tmp_path):
    (tmp_path / "job.json").write_text(
        '{"control": ["a", "b"], "steps": 5, "template": {"night": "in the dark"}}', encoding="utf-8"
    )
    behind = ["--control=c", "--template", "fog=in fog"]
    assert arguments_of(tmp_path / "job.json", behind) == ["--steps=5", "--template=night=in the dark"]
    assert "--control=a" in arguments_of(tmp_path / "job.json", ["--control-images", "d"])
    assert "--template=night=in the dark" not in arguments_of(tmp_path / "job.json", ["--domains", "fog"])
    assert "--template=night=in the dark" in arguments_of(tmp_path / "job.json", ["--domains", "fog,night"])
