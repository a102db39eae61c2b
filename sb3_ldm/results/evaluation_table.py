"""``evaluations.csv``: what meta-evaluations of a run found, one row an episode."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from sb3_ldm.files import append_lines, finished_lines, replacing

EVALUATIONS_FILE = "evaluations.csv"
EVALUATION_COLUMNS = ("timesteps", "split", "deterministic", "task", "episode", "return", "length", "success")
_REMEDY = "remove or restore the file: without it, a run begins another one"


@dataclass(frozen=True)
class MetaEvaluation:
    """
    Results of a meta-evaluation; one row a meta-episode, one column an episode index.

    :param tasks: the task of each meta-episode, ``(n, task_dim)``
    :param returns: true return of each episode, ``(n, episodes_per_task)``
    :param lengths: steps of each episode, same shape
    :param successes: whether each episode succeeded, same shape; None if the env does not tell
    """

    tasks: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray | None

    @property
    def mean_returns(self) -> np.ndarray:
        """Mean return of each episode index, ``(episodes_per_task,)``."""
        return self.returns.mean(axis=0)

    def per_task(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Average over repetitions of a task.

        :param values: a row for each meta-episode, ``(n, episodes_per_task)``
        :return: the different tasks, ``(n_tasks, task_dim)``, and the averages, ``(n_tasks, episodes_per_task)``
        """
        tasks, index = np.unique(self.tasks, axis=0, return_inverse=True)
        index = index.reshape(-1)
        return tasks, np.stack([values[index == one].mean(axis=0) for one in range(len(tasks))])

    @property
    def n_reached(self) -> float | None:
        """Tasks that succeed in the last episode, averaged over repetitions of a task."""
        if self.successes is None:
            return None
        distinct = len(np.unique(self.tasks, axis=0))
        return float(self.successes[:, -1].sum() * distinct / len(self.tasks))


@dataclass(frozen=True)
class EvaluationTable:
    """
    Evaluations of one run, one row an episode; all arrays are ``(n,)`` if not said otherwise.

    :param path: the file that the rows are from
    :param timesteps: training steps before the evaluation
    :param split: name of the tasks' split
    :param deterministic: whether actions were the most likely ones (else they were sampled)
    :param tasks: the tasks, ``(n, task_dim)``
    :param episode: index of the episode in its meta-episode, from 1
    :param returns: return of the episode
    :param lengths: steps of the episode
    :param successes: 1 for success, 0 for none, NaN if the environment does not tell
    """

    path: Path
    timesteps: np.ndarray
    split: np.ndarray
    deterministic: np.ndarray
    tasks: np.ndarray
    episode: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order of the file."""
        return tuple(dict.fromkeys(self.split.tolist()))

    @property
    def n_tasks(self) -> int:
        """Number of different tasks."""
        return len(np.unique(self.tasks, axis=0))

    @property
    def n_reached(self) -> float:
        """Number of tasks that succeed, averaged over repetitions of a task; NaN if the environment does not tell."""
        return float(self.successes.mean() * self.n_tasks) if len(self) else float("nan")

    @property
    def has_successes(self) -> bool:
        """Whether the environment tells success."""
        return len(self) > 0 and not np.isnan(self.successes).any()

    def where(self, mask: np.ndarray) -> "EvaluationTable":
        """
        :param mask: which rows to keep, bool, ``(n,)``
        :return: these rows
        """
        columns = [field.name for field in fields(self) if field.name != "path"]
        return replace(self, **{name: getattr(self, name)[mask] for name in columns})

    def select(
        self, split: str | None = None, deterministic: bool | None = None, episode: int | None = None
    ) -> "EvaluationTable":
        """
        :param split: keep the rows of this split; None for all
        :param deterministic: keep the rows of this kind of actions; None for both
        :param episode: keep the rows of this episode index; None for all
        :return: the rows that agree
        """
        mask = np.ones(len(self), dtype=bool)
        if split is not None:
            mask &= self.split == split
        if deterministic is not None:
            mask &= self.deterministic == deterministic
        if episode is not None:
            mask &= self.episode == episode
        return self.where(mask)

    def last(self) -> "EvaluationTable":
        """:return: the rows of the last evaluation"""
        return self.where(self.timesteps == self.timesteps.max()) if len(self) else self

    def last_returns(self) -> tuple[np.ndarray, np.ndarray]:
        """:return: training steps of the evaluations, and mean returns in the last episode of a meta-episode, ``(n,)`` each"""
        last = self.select(episode=int(self.episode.max(initial=1)))
        return last.over_time(last.returns)

    def over_time(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Average a column over the rows of each evaluation.

        :param values: a column, ``(n,)``
        :return: training steps of the evaluations and the averages, both of ``(n_evaluations,)``
        """
        steps, index = np.unique(self.timesteps, return_inverse=True)
        return steps, np.bincount(index, weights=values) / np.bincount(index)

    def per_task(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Average a column over the rows of each task.

        :param values: a column, ``(n,)``
        :return: the tasks, ``(n_tasks, task_dim)``, and the averages, ``(n_tasks,)``
        """
        tasks, index = np.unique(self.tasks, axis=0, return_inverse=True)
        index = index.reshape(-1)
        return tasks, np.bincount(index, weights=values) / np.bincount(index)


def load_evaluations(path: Path) -> EvaluationTable:
    """
    :param path: an ``evaluations.csv``
    :return: its rows
    :raises ValueError: if it is empty, lacks columns or a row cannot be read
    """
    reader = csv.DictReader(_rows_with_header(path))
    missing = [name for name in EVALUATION_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; {_REMEDY}.")
    rows = []
    for row in reader:
        try:
            rows.append(_parse_evaluation(row))
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}, line {reader.line_num}, cannot be read: {error}; {_REMEDY}.") from None
    dims = {len(row[3]) for row in rows}
    if len(dims) > 1:
        raise ValueError(f"{path} has tasks of different lengths {sorted(dims)}, expected one task family")
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(EVALUATION_COLUMNS)
    types = (np.int64, str, bool, np.float64, np.int64, np.float64, np.int64, np.float64)
    arrays = [np.array(column, dtype=dtype) for column, dtype in zip(columns, types, strict=True)]
    return EvaluationTable(path, *arrays)


def _parse_evaluation(row: Mapping[str, str]) -> tuple[Any, ...]:
    return (
        int(row["timesteps"]),
        row["split"],
        bool(int(row["deterministic"])),
        tuple(float(number) for number in row["task"].split()),
        int(row["episode"]),
        float(row["return"]),
        int(row["length"]),
        float(row["success"]) if row["success"] else float("nan"),
    )


def _rows_with_header(path: Path) -> list[str]:
    lines = finished_lines(path)
    if not lines:
        raise ValueError(f"{path} is empty, as a crash or a full disk leaves a file; {_REMEDY}.")
    return lines


def drop_evaluations_after(path: Path, timesteps: int) -> None:
    """
    Take the rows of a run out of ``evaluations.csv`` that a run continued from ``timesteps`` will write again.

    :param path: the file; nothing happens without one
    :param timesteps: the last time step to keep
    :raises ValueError: if it is empty or a row cannot be read
    """
    if not path.is_file():
        return
    load_evaluations(path)  # it says what cannot be read
    header, *rows = _rows_with_header(path)
    kept = [row for row in rows if int(row.split(",", 1)[0]) <= timesteps]
    with replacing(path) as partial:
        partial.write_bytes("".join([header, *kept]).encode())


def append_evaluation(path: Path, timesteps: int, split: str, deterministic: bool, evaluation: MetaEvaluation) -> None:
    """
    Append an evaluation to a CSV file, one row an episode.

    :param path: the file, made with a header if there is none
    :param timesteps: training steps before the evaluation
    :param split: name of the tasks' split
    :param deterministic: whether actions were the most likely ones
    :param evaluation: the results
    """
    rows = io.StringIO(newline="")
    writer = csv.writer(rows)
    for row, task in enumerate(evaluation.tasks):
        label = " ".join(f"{number:g}" for number in np.atleast_1d(task))
        for k, episode_return in enumerate(evaluation.returns[row]):
            success = "" if evaluation.successes is None else int(evaluation.successes[row, k])
            length = int(evaluation.lengths[row, k])
            writer.writerow([timesteps, split, int(deterministic), label, k + 1, f"{episode_return:.6g}", length, success])
    append_lines(path, rows.getvalue(), header=",".join(EVALUATION_COLUMNS) + "\r\n")
