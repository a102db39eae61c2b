"""The table of many runs."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.experiment import differences
from benchmarks.experiment_file import available_experiments, load_experiment
from benchmarks.sweep import changes, is_complete, main, sweep_table
from benchmarks.tables import RESULTS, load_results


def test_only_what_differs_is_shown() -> None:
    defaults = {"beta": 1.0, "vae_kwargs": {"layers": [3, 4], "place": "x"}, "n_timesteps": 5, "left": 1}
    options = {"beta": 2.0, "vae_kwargs": {"layers": (3, 4), "place": "y"}, "n_timesteps": 7}
    assert differences(options, defaults, {"left": 0, "other": 0}) == {"beta": 2.0, "vae_kwargs.place": "y", "left": 0}


@pytest.mark.parametrize("name", available_experiments())
def test_the_committed_runs_are_what_the_experiments_say(name: str) -> None:
    """What is reported is what the configurations that ship do."""
    for run in load_experiment(name).runs:
        kept = run.kept()
        assert kept is None or run.changed_settings(kept) == [], run.name


def test_the_table_has_a_row_for_each_run_with_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(RESULTS / "gridworld", tmp_path / "group")
    main(["group", "--results", str(tmp_path)])
    written = capsys.readouterr().out
    assert written == sweep_table(["group"], tmp_path)
    header, _, *lines = written.splitlines()
    rows = [dict(zip(header.strip("| ").split(" | "), line.strip("| ").split(" | "), strict=True)) for line in lines]
    cells = next(row for row in rows if row["run"] == "group/ldm_seed0")
    final = load_results(RESULTS / "gridworld")["ldm_seed0"].final_evaluation
    assert final is not None
    sampled = final.select("test", deterministic=False, episode=4)
    assert cells["other than the default"] == "-" and cells["unseen solved"] == f"{sampled.n_reached:.1f} of 27"
    assert cells["unseen"] == f"{sampled.returns.mean():.2f}" and 0 < float(cells["imagined unseen"]) < 1


def test_the_committed_table_has_every_run() -> None:
    groups = ["dropout", *(path.name for path in sorted(RESULTS.glob("gridworld*")) if path.is_dir()), "mixture_workers"]
    rows, expected = (set(text.splitlines()) for text in ((RESULTS / "gridworld_sweep.md").read_text(), sweep_table(groups)))
    assert rows == expected


def test_what_was_not_written_down_is_not_made_up() -> None:
    partly = load_results(RESULTS / "gridworld_exploration")["mixed_current_beliefs"]
    assert not is_complete(partly) and "reward_likelihood" not in changes(partly)
    assert "others were not recorded" in sweep_table(["gridworld_exploration"])


def test_nested_defaults_and_the_environment_count() -> None:
    run = load_results(RESULTS / "gridworld")["ldm_seed2"]
    options = {**run.hyperparameters, "vae_kwargs": {**run.hyperparameters["vae_kwargs"], "dropout_place": "embeddings"}}
    same = replace(run, metadata={**run.metadata, "hyperparameters": options, "env_kwargs": {"horizon": 20}})
    assert changes(same) == {"env_kwargs.horizon": 20}
