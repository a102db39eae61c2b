"""
Results as small tables, a folder of them for each experiment in ``benchmarks/results``:

- ``runs.jsonl``: what ``run.json`` says, a line for each run, and the mean returns in the last episode, actions sampled;
- ``evaluations.csv.gz``: evaluations in training, sums over the ``n`` tasks of a split, in the first and the last episode;
- ``final.csv.gz``: the final evaluation (of a run that was stopped, its last), sums over the ``n`` repetitions of a task;
- ``imagination.csv.gz``: what figures show of a run's ``progress.csv``, with five digits;
- ``<run>_<file>.npz``: recordings of a variant's first seed, as far as they are drawn.

``python -m benchmarks.tables EXPERIMENT RUN FOLDER`` puts what ``sb3_ldm.train`` left in a folder into them, as
:mod:`benchmarks.run` does at the end of each run; with ``--forget`` instead of a folder a run's rows are taken out.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd

from sb3_ldm.command import run_command
from sb3_ldm.figures.grid import MAX_TRAJECTORIES, spread_evenly
from sb3_ldm.files import LOCK_FILE, replacing, save_arrays
from sb3_ldm.results import EvaluationTable, RunResult, SavedRewardMaps, runs

RESULTS = Path(__file__).parent / "results"
RUNS_FILE, EVALUATIONS_FILE = "runs.jsonl", "evaluations.csv.gz"
FINAL_FILE, IMAGINATION_FILE = "final.csv.gz", "imagination.csv.gz"
_GZIP: dict[str, Any] = {"method": "gzip", "mtime": 0}  # no time of writing: the same rows are the same file
_DRAWN_MAPS = 6
_COUNTED = ("share_unseen", "distinct_unseen")  # logged numbers that tables tell
_DRAWN = ("peak_reward", "share_imagining", "return_1")  # and return_<last episode>


def _exact(value: float) -> str:
    """The shortest text that is read as the same number."""
    return repr(float(value)).removesuffix(".0")


#: Of numbers in the files. The final evaluation's sums, which tables are made of, are those of the machine, with its errors.
_DIGITS: Mapping[str, Any] = {EVALUATIONS_FILE: "%.10g", FINAL_FILE: _exact, IMAGINATION_FILE: "%.5g"}


@dataclass(frozen=True)
class KeptRewardMaps(SavedRewardMaps):
    """Reward maps of which only those that are drawn were kept, and of the others where they peak."""

    kept_peaks: np.ndarray

    def peaks(self) -> np.ndarray:
        """:return: the cell of the maximum of each map that there was, ``(k, 2)``"""
        return self.kept_peaks


# Writing


def keep_run(folder: Path, results: Path, name: str, recordings: bool = True) -> None:
    """
    Put a finished run into the tables of its experiment, in the place of an earlier one of that name.

    :param recordings: whether to keep what is only drawn, too
    """
    run = runs.load_run(folder)
    final = run.last_evaluation if run.final_evaluation is None else run.final_evaluation
    tables = {
        EVALUATIONS_FILE: _sums(_with_parts(run), ["timesteps", "split", "deterministic"]),
        FINAL_FILE: _sums(_rows(final), ["split", "deterministic", "task"]),
        IMAGINATION_FILE: _logged(run, recordings),
    }
    told: dict[str, Any] = {}
    if final is not None and len(final):
        sampled = final.select(deterministic=False, episode=run.episodes_per_task)
        told |= {"longest_episode": int(final.lengths.max()), "final_timesteps": int(final.timesteps.max())}
        told["returned"] = {split: float(sampled.select(split).returns.mean()) for split in sampled.splits}
    results.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(results.with_name(LOCK_FILE)):  # no other process changes the tables meanwhile
        for file, table in tables.items():
            _replace_rows(results / file, name, table)
        if recordings:
            _keep_recordings(run, results, name)
        _replace_line(results / RUNS_FILE, name, {**run.metadata, **told})  # last: it tells that there is such a run


def forget_run(results: Path, name: str) -> None:
    """:raises ValueError: if there is no such run"""
    if name not in (known := kept_metadata(results)):
        raise ValueError(f"{results} has no run {name!r}, but {', '.join(known) or 'none'}")
    with filelock.FileLock(results.with_name(LOCK_FILE)):
        _replace_line(results / RUNS_FILE, name, None)
        for file in (EVALUATIONS_FILE, FINAL_FILE, IMAGINATION_FILE):
            _replace_rows(results / file, name, pd.DataFrame())
        _remove_recordings(results, name)


def _rows(table: EvaluationTable | None) -> pd.DataFrame:
    """An evaluation as a data frame, one row an episode."""
    if table is None or len(table) == 0:
        return pd.DataFrame()
    columns = {name: value for name, value in vars(table).items() if name not in ("path", "tasks")}
    tasks = [" ".join(f"{number:g}" for number in task) for task in table.tasks]
    return pd.DataFrame({**columns, "task": tasks}).astype({"deterministic": int})


def _with_parts(run: RunResult) -> pd.DataFrame:
    """Evaluations during training, those of parts of the test tasks, which only the final evaluation names, once more."""
    rows, final = _rows(run.evaluations), _rows(run.final_evaluation)
    if len(rows):
        rows = rows[rows["episode"].isin((1, rows["episode"].max()))]
    if len(rows) == 0 or len(final) == 0:
        return rows
    test, parts = rows[rows["split"] == "test"], [rows]
    for split, tasks in final.groupby("split", sort=False)["task"]:
        if split not in rows["split"].values and tasks.isin(test["task"]).all():
            parts.append(test[test["task"].isin(tasks)].assign(split=split))
    return pd.concat(parts)


def _sums(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Returns and successes of each episode of the meta-episode, summed over tasks or over the repetitions of each."""
    if len(rows) == 0:
        return rows
    groups = rows.groupby([*keys, "episode"], sort=False)
    sums, group = groups.size().rename("n").reset_index(), groups.ngroup().to_numpy()
    # Neither pandas' sums, which compensate errors, nor others: those of EvaluationTable.per_task, which results are made of.
    sums = sums.assign(return_=np.bincount(group, rows["returns"]), success_=np.bincount(group, rows["successes"]))
    sums = sums.set_index([*keys, "episode"]).unstack("episode", sort=False)
    sums.insert(0, ("n", ""), sums.pop(("n", 1)))
    sums = sums[["n", "return_", "success_"]].drop(columns=[("n", episode) for episode in sums["n"].columns if episode])
    sums.columns = [f"{quantity}{episode}" for quantity, episode in sums.columns]
    return sums.reset_index().dropna(axis=1, how="all")


def _logged(run: RunResult, drawn: bool) -> pd.DataFrame:
    names = [*_COUNTED, *((*_DRAWN, f"return_{run.episodes_per_task}") if drawn else ())]
    found = {name: run.progress[f"imagination/{name}"] for name in names if f"imagination/{name}" in run.progress}
    if not found:
        return pd.DataFrame()
    table = pd.DataFrame({"timesteps": run.progress[runs.TIMESTEPS], **found})
    return table.dropna(subset=[*found], how="all").dropna(subset="timesteps").astype({"timesteps": int})


def _replace_rows(path: Path, name: str, table: pd.DataFrame) -> None:
    """Write a run's rows in the place of those that it had; the runs stay in alphabetical order."""
    old = _read(path)
    table.insert(0, "run", name)
    kept = [one for one in (old[old["run"] != name], table) if len(one)]
    if not kept:
        path.unlink(missing_ok=True)
        return
    rows = pd.concat(kept).sort_values("run", kind="stable")
    with replacing(path) as partial:
        rows.to_csv(partial, index=False, float_format=_DIGITS[path.name], lineterminator="\n", compression=_GZIP)


def _replace_line(path: Path, name: str, metadata: Mapping[str, Any] | None) -> None:
    known: dict[str, Mapping[str, Any]] = {**kept_metadata(path.parent)}
    known.pop(name, None)
    if metadata is not None:
        known[name] = metadata
    ordered = [{"run": run, **known[run]} for run in sorted(known)]
    lines = [json.dumps(one, separators=(",", ":"), ensure_ascii=False) for one in ordered]
    with replacing(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _keep_recordings(run: RunResult, results: Path, name: str) -> None:
    """What is drawn of a variant's first seed; other seeds' recordings are not kept."""
    variant = _variant(name)
    seeds = {other: int(other.rsplit("_seed", 1)[1]) for other in kept_metadata(results) if _variant(other) == variant}
    if any(seed < run.seed for seed in seeds.values()):
        return
    for other in {*seeds, name}:
        _remove_recordings(results, other)
    if (maps := run.reward_maps) is not None:
        drawn = {"weights": maps.weights[:_DRAWN_MAPS], "maps": maps.maps[:_DRAWN_MAPS]}
        peaks = maps.peaks().astype(np.uint8)
        save_arrays(results / f"{name}_{runs.REWARD_MAPS_FILE}", tasks=maps.tasks, peaks=peaks, **drawn)
    if (trajectories := run.trajectories) is not None:
        chosen = spread_evenly(len(trajectories.tasks), MAX_TRAJECTORIES)
        beliefs = {} if trajectories.beliefs is None else {"beliefs": trajectories.beliefs[chosen]}
        arrays = {"tasks": trajectories.tasks[chosen], "split": trajectories.splits[chosen], **beliefs}
        arrays["positions"] = trajectories.positions[chosen].astype(np.int8)
        save_arrays(results / f"{name}_{runs.TRAJECTORIES_FILE}", **arrays)
    if (paths := run.paths) is not None:
        arrays = {"tasks": paths.tasks, "split": paths.splits, "paths": paths.paths}
        save_arrays(results / f"{name}_{runs.PATHS_FILE}", **arrays, deterministic=paths.deterministic)


def _remove_recordings(results: Path, name: str) -> None:
    for file in (runs.REWARD_MAPS_FILE, runs.TRAJECTORIES_FILE, runs.PATHS_FILE):
        (results / f"{name}_{file}").unlink(missing_ok=True)


def _variant(name: str) -> str:
    return re.sub(r"_seed\d+$", "", name)


# Reading


def kept_metadata(results: Path) -> dict[str, dict[str, Any]]:
    """:return: what ``run.json`` said of each run, by its name"""
    path = results / RUNS_FILE
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    return {line.pop("run"): line for line in lines}


def load_results(results: Path) -> dict[str, RunResult]:
    """
    :return: all of its runs by name, as :func:`sb3_ldm.results.load_run` gives them; in evaluations during training each
        task has the mean of all of its split
    """
    times = tuple(path.stat().st_mtime_ns for path in sorted(results.glob("*"))) if results.is_dir() else ()
    return _load_results(results, times)


@lru_cache(maxsize=64)
def _load_results(results: Path, _: tuple[int, ...]) -> dict[str, RunResult]:
    files = (EVALUATIONS_FILE, FINAL_FILE, IMAGINATION_FILE)
    tables = {file: {str(name): rows for name, rows in _read(results / file).groupby("run")} for file in files}
    recordings: dict[str, tuple[str, Callable[[Path], Any]]] = {
        "reward_maps": (runs.REWARD_MAPS_FILE, _load_reward_maps),
        "trajectories": (runs.TRAJECTORIES_FILE, runs.load_trajectories),
        "paths": (runs.PATHS_FILE, runs.load_paths),
    }
    loaded = {}
    for name, metadata in kept_metadata(results).items():
        found = {key: (results / f"{name}_{file}", load) for key, (file, load) in recordings.items()}
        final = _table(results / FINAL_FILE, tables[FINAL_FILE].get(name), metadata, None)
        loaded[name] = RunResult(
            path=results / name,
            metadata=metadata,
            evaluations=_table(results / EVALUATIONS_FILE, tables[EVALUATIONS_FILE].get(name), metadata, final),
            final_evaluation=final,
            progress=_progress(tables[IMAGINATION_FILE].get(name)),
            **{key: load(path) if path.is_file() else None for key, (path, load) in found.items()},
        )
    return loaded


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame({"run": []})
    return pd.read_csv(path, dtype={"run": str, "task": str}, float_precision="round_trip")


def _table(
    path: Path, rows: pd.DataFrame | None, metadata: Mapping[str, Any], final: EvaluationTable | None
) -> EvaluationTable | None:
    """
    As many episodes as the sums are of: of the final evaluation repetitions of each task, during training one for each of its
    tasks. The first one has all of the sum, so that means are the same to the last digit; no single one means anything.
    """
    if rows is None:
        return None
    episodes = [int(name.removeprefix("return_")) for name in rows.dropna(axis=1, how="all") if name.startswith("return_")]
    n, n_episodes = rows["n"].to_numpy(), len(episodes)
    if "task" in rows:
        rows = rows.assign(timesteps=metadata["final_timesteps"])
        tasks = np.repeat([np.array(task.split(), dtype=float) for task in rows["task"]], n, axis=0)
    else:
        assert final is not None, f"{path} has evaluations of tasks that {FINAL_FILE} lacks"
        of_split = {split: np.unique(final.select(split).tasks, axis=0) for split in rows["split"].unique()}
        tasks = np.concatenate([of_split[split] for split in rows["split"]])
    each = rows.loc[rows.index.repeat(n * n_episodes)]  # a row for each episode
    position = each.groupby(level=0).cumcount().to_numpy() // n_episodes  # among those of its sum
    returned, succeeded = (
        np.repeat(rows.reindex(columns=[f"{quantity}_{one}" for one in episodes]).to_numpy(float), n, axis=0).ravel()
        for quantity in ("return", "success")
    )
    return EvaluationTable(
        path=path,
        timesteps=each["timesteps"].to_numpy(),
        split=each["split"].to_numpy(str),
        deterministic=each["deterministic"].to_numpy(bool),
        tasks=np.repeat(tasks, n_episodes, axis=0),
        episode=np.tile(episodes, len(tasks)),
        returns=np.where(position == 0, returned, 0.0),
        lengths=np.full(len(each), metadata["longest_episode"]),
        successes=np.where(np.isnan(succeeded), np.nan, position < succeeded),
    )


def _progress(rows: pd.DataFrame | None) -> dict[str, np.ndarray]:
    if rows is None:
        return {}
    columns = {name: rows[name].to_numpy(float) for name in rows if name not in ("run", "timesteps")}
    known = {f"imagination/{name}": values for name, values in columns.items() if not np.isnan(values).all()}
    return {runs.TIMESTEPS: rows["timesteps"].to_numpy(float), **known}


def _load_reward_maps(path: Path) -> SavedRewardMaps:
    saved = runs.load_reward_maps(path)
    with np.load(path) as archive:
        return KeptRewardMaps(saved.weights, saved.tasks, saved.maps, archive["peaks"].astype(int))


def main(arguments: Sequence[str] | None = None) -> None:
    """
    :param arguments: the command line, that of the process by default
    :raises FileNotFoundError: if the folder is not that of a run
    :raises ValueError: if its files cannot be read, or there is no run to forget
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="name of the experiment")
    parser.add_argument("run", help="<variant>_seed<k>, what the run is called in it")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", type=Path, nargs="?", help="where the run left its files")
    what.add_argument("--forget", action="store_true", help="take the run out of the tables")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where all results are")
    options = parser.parse_args(arguments)
    results = options.results / options.experiment
    if options.forget:
        forget_run(results, options.run)
    else:
        keep_run(options.folder, results, options.run)


if __name__ == "__main__":
    sys.exit(run_command(main))
