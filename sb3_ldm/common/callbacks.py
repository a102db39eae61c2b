"""Callbacks that every algorithm can use."""

import csv
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.common.evaluation import MetaEvaluation, evaluate_meta, evaluation_tasks, meta_episode_recorder
from sb3_ldm.common.latent_dynamics import MetaEpisodeBatch
from sb3_ldm.common.meta_episode import observation_layout
from sb3_ldm.common.probes import coverage, get_probes, has_full_length, has_probes, visited_probes

CHECKPOINT_FILE = "checkpoint.zip"
BUFFER_FILE = "checkpoint_replay_buffer.pkl"
BEST_MODEL = "best_model"
BEST_NORMALIZER_FILE = "best_vecnormalize.pkl"  #: statistics that the best model was evaluated with
EVALUATION_COLUMNS = ("timesteps", "split", "deterministic", "task", "episode", "return", "length", "success")


class MetaEvalCallback(BaseCallback):
    """
    Meta-evaluate the agent during training, at the ends of rollouts.

    Logs ``eval/<split>_return_<k>`` for every episode index k and ``eval/<split>_reached``; where tasks can be probed also
    ``eval/<split>_coverage_<k>``, how many of them were visited in the episodes 1 to k. Appends every episode to
    ``evaluations.csv`` and keeps the model with the best return in the last episode on the first split. Where training goes on
    in the folders of an interrupted run, its best model stays until a better one comes.

    :param env: environments to evaluate on
    :param splits: task splits to evaluate, each with all of its tasks; the first one chooses the best model
    :param eval_freq: time steps (of all sub-environments together) between evaluations
    :param n_repeats: meta-episodes per task
    :param deterministic: whether the agent takes its most likely actions
    :param log_path: folder of ``evaluations.csv``, None to write none
    :param best_model_save_path: folder of ``best_model.zip``, None to keep none
    :param seed: of the evaluations
    :param verbose: 1 to print each result
    """

    def __init__(
        self,
        env: VecEnv,
        splits: tuple[str, ...] = ("train", "test"),
        eval_freq: int = 100_000,
        n_repeats: int = 1,
        deterministic: bool = False,
        log_path: str | Path | None = None,
        best_model_save_path: str | Path | None = None,
        seed: int = 0,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        if eval_freq < 1:
            raise ValueError(f"eval_freq={eval_freq}: use at least 1 time step between evaluations.")
        if not splits:
            raise ValueError("splits=(): name at least one split to evaluate on.")
        self.env = env
        self.splits = splits
        self.eval_freq = eval_freq
        self.n_repeats = n_repeats
        self.deterministic = deterministic
        self.log_path = None if log_path is None else Path(log_path)
        self.best_model_save_path = None if best_model_save_path is None else Path(best_model_save_path)
        self.seed = seed
        self.best_mean_return = -np.inf
        self.last_evaluations: Mapping[str, MetaEvaluation] = {}
        self._last_timesteps: int | None = None

    def _on_training_start(self) -> None:
        if self._last_timesteps is not None and self._last_timesteps > self.num_timesteps:
            self._last_timesteps = None  # the model counts from 0 again
        if self.num_timesteps > 0 and self.best_mean_return == -np.inf and self.best_model_save_path is not None:
            if self.log_path is not None and (self.best_model_save_path / f"{BEST_MODEL}.zip").is_file():
                logged = self.log_path / "evaluations.csv"
                self.best_mean_return = best_logged_return(logged, self.splits[0], self.deterministic)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self._last_timesteps is None or self.num_timesteps - self._last_timesteps >= self.eval_freq:
            self.evaluate()

    def _on_training_end(self) -> None:
        if self._last_timesteps != self.num_timesteps:
            self.evaluate()
            self.logger.dump(self.num_timesteps)

    def evaluate(self) -> None:
        """Evaluate on every split now, and log it."""
        self._last_timesteps = self.num_timesteps
        evaluations, recorded = {}, {}
        for split in self.splits:
            tasks = evaluation_tasks(self.env, split)
            recorder = meta_episode_recorder(self.env, len(tasks) * self.n_repeats) if has_probes(self.env) else None
            evaluations[split] = evaluate_meta(
                self.model,
                self.env,
                split,
                n_repeats=self.n_repeats,
                deterministic=self.deterministic,
                seed=self.seed,
                recorder=recorder,
            )
            if recorder is not None:
                recorded[split] = recorder.get(np.arange(len(tasks) * self.n_repeats))
        # All at once, so that an interrupt leaves no evaluation of some splits alone.
        for split, evaluation in evaluations.items():
            self._log(split, evaluation)
        for split, batch in recorded.items():
            if has_full_length(batch, observation_layout(self.env.observation_space)):
                self._log_coverage(split, batch)
        self.last_evaluations = evaluations
        score = float(self.last_evaluations[self.splits[0]].mean_returns[-1])
        if self.best_model_save_path is not None and score > self.best_mean_return:
            self.best_model_save_path.mkdir(parents=True, exist_ok=True)
            normalizer = self.model.get_vec_normalize_env()
            if normalizer is not None:
                _replace(self.best_model_save_path / BEST_NORMALIZER_FILE, lambda path: normalizer.save(str(path)))
            _replace(self.best_model_save_path / f"{BEST_MODEL}.zip", self.model.save)
        self.best_mean_return = max(self.best_mean_return, score)

    def _log(self, split: str, evaluation: MetaEvaluation) -> None:
        for i, value in enumerate(evaluation.mean_returns):
            self.logger.record(f"eval/{split}_return_{i + 1}", value)
        if evaluation.n_reached is not None:
            self.logger.record(f"eval/{split}_reached", evaluation.n_reached)
        if self.verbose > 0:
            print(f"{self.num_timesteps} steps, {split}: returns {np.round(evaluation.mean_returns, 2)}")
        if self.log_path is not None:
            append_evaluation(self.log_path / "evaluations.csv", self.num_timesteps, split, self.deterministic, evaluation)

    def _log_coverage(self, split: str, batch: MetaEpisodeBatch) -> None:
        """How many of the probed tasks (on the gridworld, cells) were visited up to the end of each episode."""
        probes, layout = get_probes(self.env), observation_layout(self.env.observation_space)
        visited = visited_probes(batch, layout, probes)
        for i, value in enumerate(coverage(visited, len(probes.tasks))):
            self.logger.record(f"eval/{split}_coverage_{i + 1}", value)


class MetaProgressBarCallback(ProgressBarCallback):
    """
    SB3's progress bar, with the last evaluation's returns beside it.

    :param evaluation: where the returns come from, None to show none
    """

    def __init__(self, evaluation: MetaEvalCallback | None = None):
        super().__init__()
        self.evaluation = evaluation
        self._shown: Mapping[str, MetaEvaluation] | None = None

    def _on_rollout_end(self) -> None:
        if self.evaluation is None or self.evaluation.last_evaluations is self._shown:
            return
        self._shown = self.evaluation.last_evaluations
        returns = [f"{split} {result.mean_returns[-1]:.2f}" for split, result in self._shown.items()]
        self.pbar.set_description("return " + ", ".join(returns))


class LatestCheckpointCallback(BaseCallback):
    """
    Keep one checkpoint to continue from: ``checkpoint.zip``, ``checkpoint_replay_buffer.pkl`` for algorithms with a buffer,
    ``<env_id>/vecnormalize.pkl`` where the zoo looks for it. Each file is replaced in one step, so a crash while saving
    leaves whole files, of this checkpoint or the previous one.

    :param save_freq: time steps (of all sub-environments together) between checkpoints
    :param save_path: folder of the checkpoint
    :param normalize_path: where the statistics of a ``VecNormalize`` go, ``vecnormalize.pkl`` in the same folder by default
    :param on_save: called with the model after each checkpoint
    """

    def __init__(
        self,
        save_freq: int,
        save_path: str | Path,
        normalize_path: str | Path | None = None,
        on_save: Callable[[BaseAlgorithm], None] | None = None,
    ):
        super().__init__()
        if save_freq < 1:
            raise ValueError(f"save_freq={save_freq}: use at least 1 time step between checkpoints.")
        self.save_freq = save_freq
        self.save_path = Path(save_path)
        self.on_save = on_save
        self.normalize_path = self.save_path / "vecnormalize.pkl" if normalize_path is None else Path(normalize_path)
        self._last = 0

    def _on_training_start(self) -> None:
        self._last = self.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        # After the updates on the last rollout, so that none of them is lost.
        if self.num_timesteps - self._last >= self.save_freq:
            self._last = self.num_timesteps
            self.save()

    def save(self) -> None:
        """Save a checkpoint now."""
        self.save_path.mkdir(parents=True, exist_ok=True)
        normalizer = self.model.get_vec_normalize_env()
        if normalizer is not None:
            _replace(self.normalize_path, lambda path: normalizer.save(str(path)))
        if getattr(self.model, "replay_buffer", None) is not None:
            _replace(self.save_path / BUFFER_FILE, self.model.save_replay_buffer)  # type: ignore[attr-defined]
        _replace(self.save_path / CHECKPOINT_FILE, self.model.save)
        if self.on_save is not None:
            self.on_save(self.model)


def _replace(path: Path, save: Callable[[Path], None]) -> None:
    """Write a file beside ``path``, then put it there in one step."""
    partial = path.with_name("partial_" + path.name)
    save(partial)
    os.replace(partial, path)


def best_logged_return(path: Path, split: str, deterministic: bool) -> float:
    """
    :param path: ``evaluations.csv``
    :param split: name of the tasks' split
    :param deterministic: whether actions were the most likely ones
    :return: the best mean return in the last episode of all evaluations, minus infinity if there is none
    """
    if not path.is_file():
        return -np.inf
    with open(path, newline="") as file:
        kept = (split, str(int(deterministic)))
        rows = [row for row in csv.DictReader(file) if (row["split"], row["deterministic"]) == kept and row["length"]]
    returns: dict[str, list[float]] = {}
    last = max((int(row["episode"]) for row in rows), default=0)
    for row in rows:
        if int(row["episode"]) == last:
            returns.setdefault(row["timesteps"], []).append(float(row["return"]))
    return max((float(np.mean(values)) for values in returns.values()), default=-np.inf)


def drop_evaluations_after(path: Path, timesteps: int) -> None:
    """
    Take the rows of a run out of ``evaluations.csv`` that a run continued from ``timesteps`` will write again.

    :param path: the file; nothing happens without one
    :param timesteps: the last time step to keep
    """
    if not path.is_file():
        return
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    # A killed run may have left its last row unfinished.
    kept = [row for row in rows[1:] if len(row) == len(EVALUATION_COLUMNS) and int(row[0]) <= timesteps]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([*rows[:1], *kept])


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
    if not path.exists():
        writer.writerow(EVALUATION_COLUMNS)
    for row, task in enumerate(evaluation.tasks):
        label = " ".join(f"{number:g}" for number in np.atleast_1d(task))
        for k, episode_return in enumerate(evaluation.returns[row]):
            success = "" if evaluation.successes is None else int(evaluation.successes[row, k])
            length = int(evaluation.lengths[row, k])
            writer.writerow([timesteps, split, int(deterministic), label, k + 1, f"{episode_return:.6g}", length, success])
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        os.write(file.fileno(), rows.getvalue().encode())  # in one step, since others may be reading
