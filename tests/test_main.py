"""The one command: what it lists, what it calls, and how the commands' options are told."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sb3_ldm
from sb3_ldm import __main__ as script
from sb3_ldm.registry import resolve
from sb3_ldm.version import __version__

#: Commands that have options of rl_zoo3's, with some of their own and some of those.
MIXED = {
    "train": (("--algo", "--eval-freq", "--hyperparams"), ("--track", "--save-replay-buffer")),
    "enjoy": (("--split", "--video", "--n-tasks"), ("--exp-id", "--stochastic", "--load-best")),
    "evaluate": (("--split", "--repeats", "--json", "--env"), ("--exp-id", "--num-threads")),
    "tune": (("--tune", "--ray-address", "--gpus-per-trial", "--n-jobs"), ("--sampler", "--pruner")),
}


def test_commands_are_told_in_a_line_each_before_anything_heavy_is_imported():
    command = [sys.executable, "-X", "importtime", "-m", "sb3_ldm", "--help"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0
    commands = re.findall(r"^  (\w+)  +\w.*$", told.stdout, re.MULTILINE)
    assert commands == list(script.COMMANDS)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in told.stderr.splitlines()}
    assert "gymnasium" in imported and not {"torch", "stable_baselines3", "matplotlib", "rl_zoo3"} & imported


def test_a_command_is_called_with_the_words_behind_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "own.py").write_text(
        "import sys\n"
        "given = []\n"
        "def main(arguments):\n"
        "    given.append((sys.argv, arguments))\n"
        "    if arguments:\n"
        "        raise ValueError('n=0: use more')\n"
        "    return 3\n"
    )
    monkeypatch.setattr(sb3_ldm, "__path__", [*sb3_ldm.__path__, str(tmp_path)])
    monkeypatch.setitem(script.COMMANDS, "own", "of one's own")
    assert script.main(["own"]) == 3
    assert script.main(["own", "-n", "0"]) == 1
    assert capsys.readouterr().err == "error: n=0: use more (--debug shows where)\n"
    assert script.main(["own", "-n", "0", "--debug"]) == 1
    assert capsys.readouterr().err.startswith("Traceback")
    monkeypatch.setattr(sys, "argv", ["/bin/sb3-ldm", "own", "-n", "0"])
    assert script.main() == 1
    argv, given = sys.modules.pop("sb3_ldm.own").given[-1]
    assert argv == ["sb3-ldm own", "-n", "0"] and given == ["-n", "0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "--env", "A"], "'trian' is no command: did you mean train?"),
        (["--algo", "ldm"], "'--algo' is no command: use demo, enjoy, evaluate"),
        ([], "give a command"),
    ],
)
def test_an_unknown_command_is_refused_with_the_nearest_one(words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sb3-ldm"])
    assert script.main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"sb3-ldm: error: {message}")


def test_bad_options_end_with_a_line_in_every_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sb3-ldm"])
    bad = {
        "quickstart": (["--frames", "0"], "frames=0"),
        "train": (["--frames", "0"], "--frames"),
        "tune": (["--n-jobs", "0", "--ray-address"], "n_jobs=0"),
        "enjoy": (["--n-envs", "0"], "n_envs=0"),
        "evaluate": (["--n-envs", "0"], "n_envs=0"),
        "figures": (["nowhere"], "nowhere"),
    }
    for command, (words, named) in bad.items():
        assert script.main([command, *words]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and named in line and line.endswith("(--debug shows where)")


def test_the_version_is_told(capsys):
    assert script.main(["--version"]) == 0
    assert capsys.readouterr().out == f"sb3-ldm {__version__}\n"


def test_the_script_is_installed():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parent.parent / "setup.cfg")
    name, _, reference = setup["options.entry_points"]["console_scripts"].strip().partition(" = ")
    assert name == "sb3-ldm" and resolve(reference) is script.main


@pytest.mark.parametrize("command", MIXED)
def test_help_tells_own_options_first(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sb3-ldm"])
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit, match="0"):
        script.main([command, "--help"])
    told = capsys.readouterr().out
    assert told.startswith(f"usage: sb3-ldm {command} [options]") and told.count("usage:") == 1
    own, theirs = told.split("\noptions of rl_zoo3:\n")
    for options, there, elsewhere in ((MIXED[command][0], own, theirs), (MIXED[command][1], theirs, own)):
        for option in options:
            shown = rf"^  (-\w+ .*)?{option}(?![\w-])"
            assert re.search(shown, there, re.MULTILINE) and not re.search(shown, elsewhere, re.MULTILINE), option
    assert "--debug" in own and "``" not in told


def test_help_needs_no_extras(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert script.main(["tune"]) == 1
    assert "pip install 'sb3_ldm[tune]'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        script.main(["tune", "--help"])


def test_help_names_the_module_where_that_was_called(monkeypatch, capsys):
    from sb3_ldm.figures.__main__ import main

    monkeypatch.setattr(sys, "argv", ["figures/__main__.py"])
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert capsys.readouterr().out.startswith("usage: python -m sb3_ldm.figures [options] RUN_DIR")
