"""The first minutes: agents of the package, and a training that is small."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tables import RESULTS, load_results
from sb3_ldm import quickstart
from sb3_ldm.results import RUN_FILE, load_run
from sb3_ldm.results.statistics import n_reached
from sb3_ldm.zoo import experiment
from sb3_ldm.zoo.configs import read_preset
from sb3_ldm.zoo.pretrained import about_pretrained, evaluate_pretrained


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    evaluate_pretrained("rl2", "GridNavi-v0", folder / "rl2", n_repeats=1)
    return folder / "rl2"


def test_an_agent_of_the_package_leaves_what_a_run_leaves(shown):
    run, told = load_run(shown), about_pretrained("rl2", "GridNavi-v0")
    assert (run.algo, run.seed, run.timesteps, run.episodes_per_task) == ("rl2", told["seed"], told["timesteps"], 4)
    assert run.final_evaluation is not None and run.trajectories is not None
    returns = run.final_evaluation.select("train", True, 4).returns.mean()
    assert returns == pytest.approx(told["results"]["train"]["most likely actions"]["returns"][3], abs=0.5)


def test_a_line_of_the_overview_tells_what_was_reached(shown):
    run = load_run(shown)
    table = quickstart.overview({"rl2": [run, run]})
    cells = [next(iter(column.cells)) for column in table.columns]
    assert run.final_evaluation is not None
    reached = {split: run.final_evaluation.select(split, False, 4).n_reached for split in ("train", "test")}
    assert cells[:2] == ["RL²", "2"]
    assert cells[2] == f"{reached['train']:.1f} of 18 ({reached['train']:.1f}, {reached['train']:.1f})"
    assert cells[3].startswith(f"{reached['test']:.1f} of 27 (")
    returns = [float(one) for one in cells[4].split(", ")]
    told = [run.final_evaluation.select("test", False, k).returns.mean() for k in (1, 2, 3, 4)]
    assert returns == pytest.approx(told, abs=0.051)


def test_both_algorithms_are_trained_alike_but_for_imagination():
    ldm, rl2 = (read_preset(algo, quickstart.ENV_ID) for algo in ("ldm", "rl2"))
    assert {name: ldm[name] for name in rl2} == rl2


def test_runs_are_trained_and_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quickstart, "ALGORITHMS", ("rl2",))
    monkeypatch.setattr(experiment, "FINAL_REPEATS", 1)
    folders = quickstart.train_all(4000, [3], tmp_path)
    assert folders is not None
    assert [json.loads((folder / RUN_FILE).read_text())["seed"] for folder in folders["rl2"]] == [3]
    assert (tmp_path / "rl2-3.log").is_file()
    quickstart.show_trained(folders, tmp_path)
    told = capsys.readouterr().out
    assert "of 6" in told and "of 3" in told and "learning_curves.png" in told


def test_a_training_that_fails_is_told_with_the_end_of_its_log(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quickstart, "ENV_ID", "NoSuchGrid-v0")
    assert quickstart.train_all(4000, [0], tmp_path) is None
    assert "NoSuchGrid-v0" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--frames", "0"], ["--seeds", "0"], ["--seed", "-1"]])
def test_bad_numbers_are_refused_before_any_work(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["quickstart"])
    with pytest.raises(ValueError, match=rf"{words[0][2:]}={words[1]}"):
        quickstart.main(words)
    assert not any(tmp_path.iterdir())


def test_what_is_said_of_repetitions_is_what_the_runs_reached():
    runs = load_results(RESULTS / "doors")
    seeds = sorted({run.seed for run in runs.values()})
    assert len(runs) == 2 * len(seeds) and len(seeds) % 2 == 0
    reached = {algo: n_reached([runs[f"{algo}_seed{seed}"] for seed in seeds], "test") for algo in ("ldm", "rl2")}
    ldm, rl2 = (np.reshape(reached[algo], (-1, 2)).mean(axis=1) for algo in ("ldm", "rl2"))  # two seeds each
    page = " ".join((Path(__file__).parents[1] / "docs" / "getting_started.md").read_text().split())
    told = re.search(r"in (\d+) of (\d+) repetitions .* on average ([\d.]+) of 3 against ([\d.]+)", page)
    assert told is not None
    assert [float(one) for one in told.groups()] == [(ldm > rl2).sum(), len(ldm), ldm.mean().round(1), rl2.mean().round(1)]
