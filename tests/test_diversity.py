"""What is imagined beside what is reached: whose runs, which numbers, and that few runs are told nothing of."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import report
from benchmarks.diversity import FIGURE, comparable, draw, imagined_and_reached, section
from benchmarks.experiment import Experiment, Training
from sb3_ldm.results import TIMESTEPS, RunResult
from sb3_ldm.results.evaluation_table import EVALUATION_COLUMNS, load_evaluations


def made_up_run(
    folder: Path, name: str, imagined: float | None, n_reached: int, n_tasks: int = 4, **metadata: Any
) -> RunResult:
    """A run that imagines `imagined` goals late in training and reaches some of the tasks."""
    path = folder / name
    path.mkdir()
    with open(path / "final_evaluation.csv", "w", newline="") as file:
        rows = [[100, "test", 0, f"{k + 2} 3", 1, 0.0, 30, int(k < n_reached)] for k in range(n_tasks)]
        csv.writer(file).writerows([EVALUATION_COLUMNS, *rows])
    progress = {TIMESTEPS: np.array([0.4, 0.6, 1.0]) * metadata.get("frames", 100)}
    if imagined is not None:
        progress["imagination/distinct_unseen"] = np.array([27.0, imagined - 1, imagined + 1])
    state = {"algo": "ldm", "env": "GridNavi-v0", "seed": 0, "frames": 100, "episodes_per_task": 1, **metadata}
    return RunResult(path, state, None, load_evaluations(path / "final_evaluation.csv"), progress, None, None, None)


def of(name: str, own: list[str], borrowed: list[str], config: str = "ldm") -> Experiment:
    def training(experiment: str, variant: str) -> Training:
        return Training(experiment, variant, 0, "ldm", "GridNavi-v0", 100, config=config)

    return Experiment(name, name, "", [*(training(name, one) for one in own), *(training("another", one) for one in borrowed)])


def test_each_run_of_the_preset_that_imagined_is_a_point(tmp_path):
    first, second, alone = (made_up_run(tmp_path, f"r{k}", 10.0 * k if k else None, k) for k in (1, 2, 0))
    robot = made_up_run(tmp_path, "robot", 5.0, 1, env="AntGoal-v0")
    experiments = [of("a", ["v", "w", "robot"], []), of("b", [], ["v"]), of("c", ["v"], [], "ldm-paper")]
    found = {"a": {"v": [first, alone], "w": [second], "robot": [robot]}, "b": {"v": [first]}, "c": {"v": [second]}}
    points = imagined_and_reached(experiments, found)
    assert [(point.run.path.name, point.title, point.imagined, point.reached) for point in points] == [
        ("r1", "a", 10.0, 1.0),
        ("r2", "a", 20.0, 2.0),
    ]


def test_runs_are_compared_with_those_of_the_same_seed_and_budget(tmp_path):
    kinds = [(200, 0), (100, 1), (100, 0), (100, 1)]
    runs = [made_up_run(tmp_path, f"r{k}", 10.0, 1, frames=frames, seed=seed) for k, (frames, seed) in enumerate(kinds)]
    points = imagined_and_reached([of("a", ["v"], [])], {"a": {"v": runs}})
    groups = {name: [point.run.path.name for point in members] for name, members in comparable(points).items()}
    assert groups == {"100, seed 0": ["r2"], "100, seed 1": ["r1", "r3"], "200, seed 0": ["r0"]}
    assert list(groups) == sorted(groups)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_correlation_is_that_of_the_ranks(tmp_path, sign):
    runs = [made_up_run(tmp_path, f"r{k}", 20.0 + sign * 2.0**k, k, n_tasks=8) for k in range(8)]
    experiment = of("a", ["v"], [])
    points = imagined_and_reached([experiment], {"a": {"v": runs}})
    text = section(points, "imagined.png")
    assert f"the same seed: {sign:.2f} (100, seed 0, 8 runs)." in text and "](imagined.png)" in text
    assert section(points[:7], "imagined.png") == "", "seven runs tell little"
    (axis,) = draw(points).axes
    dots = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines if len(line.get_xdata())}
    assert dots == {(point.imagined, point.reached) for point in points}
    told = report._diversity_section([experiment], {"a": {"v": runs}}, tmp_path, tmp_path / "page.md", True)
    assert f"({FIGURE})" in told and (tmp_path / FIGURE).read_bytes().startswith(b"\x89PNG")
