"""Reading what a run leaves in its folder.

``run.json`` says what was run, ``evaluations.csv`` holds the evaluations during training and ``final_evaluation.csv`` the
more thorough one at its end, ``progress.csv`` (and ``progress_from_<steps>.csv`` of a continued run) is what was logged,
``reward_maps.npz``, ``trajectories.npz`` and ``paths.npz`` are recordings of the trained agent.

Nothing here draws or trains; :mod:`sb3_ldm.figures` and whoever else looks at finished runs start from :func:`load_run`.
"""

import csv
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_ldm.checks import warn_user
from sb3_ldm.files import finished_lines
from sb3_ldm.results.evaluation_table import EVALUATIONS_FILE, EvaluationTable, load_evaluations

RUN_FILE = "run.json"
FINAL_FILE = "final_evaluation.csv"
PROGRESS_FILE = "progress.csv"
TIMESTEPS = "time/total_timesteps"
REWARD_MAPS_FILE = "reward_maps.npz"
TRAJECTORIES_FILE = "trajectories.npz"
PATHS_FILE = "paths.npz"

#: What can be done about a damaged file of a run.
_REMEDY = "restore it, or leave this run out"
REQUIRED_METADATA = ("algo", "env", "seed", "frames", "episodes_per_task")


def files_of_attempts(folder: Path, name: str) -> list[Path]:
    """
    :param folder: a log folder, with the RL Zoo's folders ``<algo>/<env>_<k>`` in it
    :param name: of a file in them
    :return: those that there are, the latest one last
    """
    return sorted(folder.glob(f"*/*/{name}"), key=lambda path: path.stat().st_mtime)


def newest_file(folder: Path, name: str) -> Path | None:
    """
    :param folder: a log folder, with the RL Zoo's folders ``<algo>/<env>_<k>`` in it
    :param name: of a file in them
    :return: the latest of :func:`files_of_attempts`, None if there is none
    """
    return next(reversed(files_of_attempts(folder, name)), None)


@dataclass(frozen=True)
class SavedRewardMaps:
    """
    Imaginary tasks of the gridworld, as they were saved at the end of a run.

    :param weights: mixture weights, summed for each training task, ``(k, n_tasks)``
    :param tasks: the training tasks, ``(n_tasks, 2)``
    :param maps: imaginary reward for each cell as the next state, indexed [x, y], ``(k, size, size)``
    """

    weights: np.ndarray
    tasks: np.ndarray
    maps: np.ndarray

    def peaks(self) -> np.ndarray:
        """:return: the cell of each map's maximum, ``(k, 2)``"""
        flat = self.maps.reshape(len(self.maps), -1).argmax(axis=1)
        return np.stack(np.unravel_index(flat, self.maps.shape[1:]), axis=-1)


@dataclass(frozen=True)
class SavedTrajectories:
    """
    Paths of the trained agent in the gridworld.

    :param tasks: the goals, ``(k, 2)``
    :param splits: names of the splits that they are from, ``(k,)``
    :param positions: visited cells, ``(k, n_episodes, horizon + 1, 2)``
    :param beliefs: reward that the decoder expects of each cell at the end of each episode, indexed [x, y],
        ``(k, n_episodes, size, size)``; None if the algorithm has no decoder
    """

    tasks: np.ndarray
    splits: np.ndarray
    positions: np.ndarray
    beliefs: np.ndarray | None


@dataclass(frozen=True)
class SavedPaths:
    """
    Where the trained agent's robot goes in the locomotion domains.

    :param tasks: the tasks, ``(k, task_dim)``
    :param splits: names of the splits that they are from, ``(k,)``
    :param paths: positions in metres before each step, NaN after an early end, ``(k, n_episodes, horizon, position_dim)``
    :param deterministic: whether the agent took its most likely actions
    """

    tasks: np.ndarray
    splits: np.ndarray
    paths: np.ndarray
    deterministic: bool = True


@dataclass(frozen=True)
class RunResult:
    """
    What a finished (or running) run left in its folder; a file that is not there is None or empty.

    :param path: the folder
    :param metadata: all of ``run.json``
    :param evaluations: of ``evaluations.csv``, during training
    :param final_evaluation: of ``final_evaluation.csv``, at the end
    :param progress: columns of ``progress.csv`` and of what continues it, NaN where nothing was logged
    :param reward_maps: of ``reward_maps.npz``
    :param trajectories: of ``trajectories.npz``
    :param paths: of ``paths.npz``
    """

    path: Path
    metadata: Mapping[str, Any]
    evaluations: EvaluationTable | None
    final_evaluation: EvaluationTable | None
    progress: Mapping[str, np.ndarray]
    reward_maps: SavedRewardMaps | None
    trajectories: SavedTrajectories | None
    paths: SavedPaths | None

    @property
    def algo(self) -> str:
        """Name of the algorithm."""
        return str(self.metadata["algo"])

    @property
    def env(self) -> str:
        """Id of the environment."""
        return str(self.metadata["env"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.metadata["seed"])

    @property
    def timesteps(self) -> int:
        """Environment steps that the run was trained for."""
        return int(self.metadata["frames"])

    @property
    def episodes_per_task(self) -> int:
        """Episodes in a meta-episode."""
        return int(self.metadata["episodes_per_task"])

    @property
    def hyperparameters(self) -> Mapping[str, Any]:
        """Hyperparameters, as far as the run wrote them down."""
        return self.metadata.get("hyperparameters") or {}

    @property
    def label(self) -> str:
        """The algorithm or its preset, or what ``run.json`` calls it in ``label``; trained on all tasks, it is an oracle."""
        if "label" in self.metadata:
            return str(self.metadata["label"])
        config = str(self.metadata.get("config", ""))
        name = config if config.startswith(f"{self.algo}-") else self.algo
        oracle = " oracle" if self.env_kwargs.get("task_split") == "all" else ""
        return f"{name}{oracle}{', told its task' if self.env_kwargs.get('observe_task') else ''}"

    @property
    def env_kwargs(self) -> Mapping[str, Any]:
        """What the environment was made with."""
        return self.metadata.get("env_kwargs") or {}

    @property
    def last_evaluation(self) -> EvaluationTable | None:
        """The final evaluation; if training went on after it or has not ended, the last one; None if there is neither."""
        tables = [table.last() for table in (self.evaluations, self.final_evaluation) if table is not None and len(table)]
        return max(reversed(tables), key=lambda table: table.timesteps.max()) if tables else None

    @property
    def has_results(self) -> bool:
        """Whether the run has left anything but what it was made with."""
        tables = (self.evaluations, self.final_evaluation)
        recordings = (self.reward_maps, self.trajectories, self.paths)
        return any(map(len, filter(None, tables))) or bool(self.progress) or any(one is not None for one in recordings)

    def logged(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """
        :param name: a column of ``progress.csv``
        :return: training steps at which it was logged and its values, both empty if it never was
        """
        if name not in self.progress or TIMESTEPS not in self.progress:
            return np.empty(0), np.empty(0)
        steps, values = self.progress[TIMESTEPS], self.progress[name]
        known = ~(np.isnan(steps) | np.isnan(values))
        return steps[known], values[known]


def load_run(path: str | Path) -> RunResult:
    """
    Read the folder of a run.

    :param path: a folder with at least ``run.json``
    :return: what is in it
    :raises FileNotFoundError: if there is no such folder or it has no ``run.json``
    :raises ValueError: if a file lacks something, naming the file and what is missing
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give the folder of a run, which has a {RUN_FILE}")
    metadata = load_metadata(folder / RUN_FILE)
    optional = {
        "evaluations": (EVALUATIONS_FILE, load_evaluations),
        "final_evaluation": (FINAL_FILE, lambda path: load_evaluations(path).last()),
        "reward_maps": (REWARD_MAPS_FILE, load_reward_maps),
        "trajectories": (TRAJECTORIES_FILE, load_trajectories),
        "paths": (PATHS_FILE, load_paths),
    }
    loaded: dict[str, Any] = {}
    for name, (file, load) in optional.items():
        loaded[name] = load(folder / file) if (folder / file).exists() else None
    return RunResult(path=folder, metadata=metadata, progress=load_progress(folder), **loaded)


def load_runs(paths: Iterable[str | Path | RunResult]) -> list[RunResult]:
    """
    Read the folders of runs; those that have no results are left out, with a warning that names them.

    :param paths: folders, as of a pattern like ``logs/*/*``; runs that are loaded already are kept as they are
    :return: what is in those that are runs with results
    :raises FileNotFoundError: if there is none
    :raises ValueError: if a file is damaged, see :func:`load_run`
    """
    runs, without = [], []
    for path in paths:
        if isinstance(path, RunResult):
            runs.append(path)
            continue
        try:
            run = load_run(path)
        except FileNotFoundError as error:
            without.append(str(error))
            continue
        if run.has_results:
            runs.append(run)
        else:
            without.append(f"{path} has no results yet")
    if not runs:
        raise FileNotFoundError("; ".join(without) or "give the folder of a run")
    if without:
        warn_user(f"Left out: {'; '.join(without)}")
    return runs


def group_runs(runs: Iterable[RunResult], label_by: Sequence[str] = ("algo",)) -> dict[str, list[RunResult]]:
    """
    Collect the runs that differ only in their seed.

    :param runs: the runs
    :param label_by: what tells groups apart: ``"algo"`` for the runs' :attr:`~RunResult.label`, ``"path"`` for every folder
        on its own, ``"name"`` for the folder's name without ``_seed<k>``, or any key of ``run.json`` or of its
        hyperparameters, such as ``"beta"``
    :return: runs by label, sorted by seed, labels in order of appearance; with a warning where runs of a label differ in more
        than their seed, and should have labels of their own
    """
    runs = list(runs)
    parent = Path(os.path.commonpath([run.path.resolve().parent for run in runs])) if runs else Path()
    groups: dict[str, list[RunResult]] = {}
    for run in runs:
        label = ", ".join(_label_part(run, key, parent) for key in label_by)
        groups.setdefault(label, []).append(run)
    for label, members in groups.items():
        same_seed = len({run.seed for run in members}) < len(members)
        if same_seed or any(_differ_in_settings(members[0], run) for run in members[1:]):
            folders = ", ".join(str(run.path) for run in members)
            warn_user(
                f"{label}: {folders} are averaged as seeds of one experiment, but have the same seed or other settings; "
                "label_by=('path',) or a hyperparameter tells them apart.",
            )
    return {label: sorted(members, key=lambda run: run.seed) for label, members in groups.items()}


def _differ_in_settings(one: RunResult, other: RunResult) -> bool:
    """By options that both have, since later versions write more of them down; how long they trained is another matter."""
    shared = (one.hyperparameters.keys() & other.hyperparameters.keys()) - {"n_timesteps"}
    return one.env_kwargs != other.env_kwargs or any(one.hyperparameters[k] != other.hyperparameters[k] for k in shared)


def _label_part(run: RunResult, key: str, parent: Path) -> str:
    if key == "algo":
        return run.label
    if key == "name":
        return re.sub(r"_seed\d+$", "", run.path.resolve().name)
    if key == "path":
        return run.path.resolve().relative_to(parent).as_posix()
    for values in (run.metadata, run.hyperparameters):
        if key in values:
            return f"{key}={values[key]}"
    known = ["algo", "path", "name", *(name for name in run.metadata if name != "hyperparameters"), *run.hyperparameters]
    raise ValueError(f"{run.path / RUN_FILE} has no {key!r} to label runs by, it has {', '.join(dict.fromkeys(known))}")


def load_metadata(path: Path, required: Sequence[str] = REQUIRED_METADATA) -> dict[str, Any]:
    """
    :param path: a ``run.json``
    :param required: keys that it must have
    :return: what it says
    :raises FileNotFoundError: if there is none
    :raises ValueError: if it is no JSON object or lacks a key
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: give the folder of a run, which has a {RUN_FILE}.")
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of the encoding
        raise ValueError(f"{path} is not valid JSON, it was damaged: {error}; {_REMEDY}.") from None
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} holds a {type(metadata).__name__}, expected an object; {_REMEDY}.")
    missing = [key for key in required if key not in metadata]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; {_REMEDY}.")
    return metadata


def load_progress(folder: Path) -> dict[str, np.ndarray]:
    """
    :param folder: a run's, with ``progress.csv`` of the Stable-Baselines3 logger and ``progress_from_<steps>.csv`` for each
        time that it was continued after so many steps
    :return: the columns as numbers, NaN where there is none; what a run logged beyond the steps that it was continued from
        is left out
    """
    rows: list[dict[str, float]] = []
    for start, path in sorted(_progress_files(folder)):
        reader = csv.DictReader(finished_lines(path), restkey="")  # a line may be cut where the file was copied
        logged = [{name: _number(text) for name, text in row.items() if name} for row in reader]
        rows = [row for row in rows if not row.get(TIMESTEPS, 0.0) > start] + logged
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, float("nan")) for row in rows]) for name in names}


def _progress_files(folder: Path) -> Iterable[tuple[int, Path]]:
    for path in folder.glob("progress*.csv"):
        match = re.fullmatch(r"progress(?:_from_(\d+))?\.csv", path.name)
        if match:
            yield int(match[1] or 0), path


def _number(text: str | None) -> float:
    try:
        return float(text) if text else float("nan")
    except ValueError:
        return float("nan")


def load_reward_maps(path: Path) -> SavedRewardMaps:
    """
    :param path: a ``reward_maps.npz``
    :return: its arrays
    :raises ValueError: if an array is missing or shapes disagree
    """
    arrays = _load_arrays(path, ("weights", "tasks", "maps"))
    weights, tasks, maps = arrays["weights"], arrays["tasks"], _square(arrays["maps"], 1)
    if maps.ndim != 3 or weights.shape != (len(maps), len(tasks)):
        raise ValueError(
            f"{path} has weights {weights.shape}, tasks {tasks.shape} and maps {maps.shape}, "
            "expected [k, n_tasks], [n_tasks, 2] and [k, size, size] or [k, size * size]"
        )
    return SavedRewardMaps(weights, tasks, maps)


def load_trajectories(path: Path) -> SavedTrajectories:
    """
    :param path: a ``trajectories.npz``
    :return: its arrays
    :raises ValueError: if an array is missing or shapes disagree
    """
    arrays = _load_arrays(path, ("tasks", "split", "positions"))
    tasks, splits, positions, beliefs = arrays["tasks"], arrays["split"], arrays["positions"], arrays.get("beliefs")
    beliefs = None if beliefs is None else _square(beliefs, 2)
    count = len(tasks)
    if positions.ndim != 4 or len(positions) != count or splits.shape != (count,):
        raise ValueError(
            f"{path} has tasks {tasks.shape}, split {splits.shape} and positions {positions.shape}, "
            "expected [k, 2], [k] and [k, n_episodes, horizon + 1, 2]"
        )
    if beliefs is not None and (beliefs.ndim != 4 or beliefs.shape[:2] != positions.shape[:2]):
        raise ValueError(
            f"{path} has beliefs {beliefs.shape} and positions {positions.shape}, "
            "expected beliefs [k, n_episodes, size, size] or [k, n_episodes, size * size]"
        )
    return SavedTrajectories(tasks, splits.astype(str), positions, beliefs)


def load_paths(path: Path) -> SavedPaths:
    """
    :param path: a ``paths.npz``
    :return: its arrays
    :raises ValueError: if an array is missing or shapes disagree
    """
    arrays = _load_arrays(path, ("tasks", "split", "paths"))
    tasks, splits, paths = arrays["tasks"], arrays["split"], arrays["paths"]
    if paths.ndim != 4 or len(paths) != len(tasks) or splits.shape != (len(tasks),):
        raise ValueError(
            f"{path} has tasks {tasks.shape}, split {splits.shape} and paths {paths.shape}, "
            "expected [k, task_dim], [k] and [k, n_episodes, horizon, position_dim]"
        )
    return SavedPaths(tasks, splits.astype(str), paths, bool(arrays.get("deterministic", True)))


def _square(values: np.ndarray, n_leading: int) -> np.ndarray:
    """Give values for all cells in the order of ``gridworld.cells()`` the shape of the grid, indexed [x, y]."""
    size = math.isqrt(values.shape[-1])
    if values.ndim != n_leading + 1 or size**2 != values.shape[-1]:
        return values
    return values.reshape(*values.shape[:-1], size, size)


def _load_arrays(path: Path, required: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise ValueError(f"{path} cannot be read, it is damaged: {error}; {_REMEDY}, or remove the file.") from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks the arrays {', '.join(missing)}, it has {', '.join(arrays) or 'none'}")
    return arrays
