"""The `perception` program: help without torch, errors as one sentence."""

import errno
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import perception
from perception.commands import main as program
from perception.commands.main import COMMANDS, main
from perception.errors import PromptTooLongError, UserError


def run_with(monkeypatch, error, command="store"):
    def run(args):
        raise error

    module = SimpleNamespace(SUMMARY="a test", EXAMPLES="", add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(program, "import_module", lambda path: module)
    return main([command])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(capsys, arguments):
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert f"usage: perception {command}" in printed
    assert f"examples:\n  perception {command} " in printed


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"perception {perception.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["extract", "--help"], ["segment", "--help"], ["depth", "--help"]])
def test_help_is_fast_and_without_torch(arguments):
    script = (
        "import sys; from perception.commands.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'mmengine', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    started = time.process_time() + sum(os.times()[2:4])
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)
    assert sum(os.times()[:4]) - started < 0.5  # CPU seconds, so that a busy machine does not matter


def test_a_reader_that_leaves_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "perception.commands.main"], stdout=-1, stderr=-1, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 141


def test_mistakes_in_the_command_line(capsys):
    assert main(["extrat"]) == 2
    assert capsys.readouterr().err == "perception: Unknown command 'extrat'; did you mean 'extract'?\n"
    assert main(["xyz"]) == 2
    assert "choose one of extract, classify" in capsys.readouterr().err


def test_errors_are_one_sentence_on_stderr(monkeypatch, capsys):
    assert run_with(monkeypatch, UserError("The sky is green; blue was expected.")) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "perception: The sky is green; blue was expected.\n")
    assert run_with(monkeypatch, PromptTooLongError("'a b'... has 90 tokens and 77 fit")) == 2
    assert capsys.readouterr().err == "perception: 'a b'... has 90 tokens and 77 fit; shorten it.\n"
    assert run_with(monkeypatch, KeyboardInterrupt()) == 130
    assert "interrupted; run the same command again to resume" in capsys.readouterr().err
    assert run_with(monkeypatch, KeyboardInterrupt(), "adapt") == 130
    assert "interrupted; run the same command again to start over" in capsys.readouterr().err
    assert run_with(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "/full/x")) == 2
    assert "No space left (/full/x): free space and run the same command again" in capsys.readouterr().err
    with pytest.raises(OSError, match="Input/output"):
        run_with(monkeypatch, OSError(errno.EIO, "Input/output error"))


@pytest.mark.parametrize("error", [UserError("its weights do not fit"), RuntimeError("could not determine the shape")])
def test_an_interrupt_that_a_library_turns_into_another_error(error, monkeypatch, capsys):
    def swallowing(args):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None

    monkeypatch.setattr("perception.commands.store.run", swallowing)
    assert main(["store", "folder", "stat"]) == 130
    assert capsys.readouterr().err == "perception: interrupted; run the same command again to resume.\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_names_that_are_no_utf8_are_printed():
    """As in a locale such as en_US.UTF-8, whose standard output is strict."""
    script = "import sys; from perception.commands.main import main; main(['--help']); print('bad\\udcff.png')"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.endswith("bad\\udcff.png\n"), done.stderr
