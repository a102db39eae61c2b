"""Callbacks that every algorithm can use."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.checks import warn_user
from sb3_ldm.data import MetaEpisodeBatch
from sb3_ldm.data.probes import coverage, get_probes, has_full_length, has_probes, visited_probes
from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.evaluation.evaluate import (
    MetaEvaluation,
    as_vec_env,
    check_normalized,
    evaluate_meta,
    evaluation_tasks,
    is_trained_on,
    meta_episode_recorder,
)
from sb3_ldm.files import replacing
from sb3_ldm.results.evaluation_table import EVALUATIONS_FILE, append_evaluation, load_evaluations

CHECKPOINT_FILE = "checkpoint.zip"
BUFFER_FILE = "checkpoint_replay_buffer.pkl"
BEST_MODEL = "best_model"
BEST_NORMALIZER_FILE = "best_vecnormalize.pkl"  #: statistics that the best model was evaluated with
_LONGEST_LABEL = 18  #: SB3's table cuts keys after 30 characters, of which "_coverage_10" needs 12


def split_label(split: str) -> str:
    """
    :param split: name of a split
    :return: what it is called in the keys of the log: the name, or its beginning and a number of its own (the same in every
        run) where SB3's table would cut the keys of a long one so that they were the same
    """
    if len(split) <= _LONGEST_LABEL:
        return split
    return f"{split[: _LONGEST_LABEL - 7]}~{hashlib.sha256(split.encode()).hexdigest()[:6]}"


class MetaEvalCallback(BaseCallback):
    """
    Meta-evaluate the agent during training, at the ends of rollouts.

    Logs ``eval/<split>_return_<k>`` for every episode index k and ``eval/<split>_reached``; where tasks can be probed also
    ``eval/<split>_coverage_<k>``, how many of them were visited in the episodes 1 to k (:func:`split_label` shortens
    long names of splits). Appends every episode to
    ``evaluations.csv`` and keeps the model with the best return in the last episode on the first split. Where training goes on
    in the folders of an interrupted run, its best model stays until a better one comes. An agent that is not trained, of which
    no more than ``predict`` is needed, is evaluated by ``callback.init_callback(agent)`` and ``callback.evaluate()``.

    :param env: environments to evaluate on, others than those of the training; one that is no VecEnv is made one, a
        registered id several
    :param splits: task splits to evaluate, each with all of its tasks; the first one chooses the best model
    :param eval_freq: time steps (of all sub-environments together) between evaluations
    :param n_repeats: meta-episodes per task
    :param deterministic: whether the agent takes its most likely actions
    :param log_path: folder of ``evaluations.csv``, None to write none
    :param best_model_save_path: folder of ``best_model.zip``, None to keep none
    :param seed: of the evaluations
    :param verbose: 1 to print each result
    :raises ValueError: if a parameter is out of its range, the environments have no meta-episodes or no such split, or
        training begins in the same environments, or with a ``VecNormalize`` that these have not
    """

    def __init__(
        self,
        env: VecEnv | gym.Env | str,
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
        if not splits or isinstance(splits, str):
            raise ValueError(f'splits={splits!r}: name the splits to evaluate on, such as ("train", "test").')
        self.env = as_vec_env(env)
        for split in splits:
            evaluation_tasks(self.env, split)  # names a split that there is not
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

    def _init_callback(self) -> None:
        if self.best_model_save_path is not None and not hasattr(self.model, "save"):
            raise ValueError(f"best_model_save_path={self.best_model_save_path}: {self.model!r} cannot be saved; give None.")
        if is_trained_on(self.model, self.env):
            raise ValueError("env: evaluate on environments of their own, not on those that the agent is trained in.")
        check_normalized(self.model, self.env)

    def _on_training_start(self) -> None:
        if self._last_timesteps is not None and self._last_timesteps > self.num_timesteps:
            self._last_timesteps = None  # the model counts from 0 again
        if self.num_timesteps > 0 and self.best_mean_return == -np.inf and self.best_model_save_path is not None:
            if self.log_path is not None and (self.best_model_save_path / f"{BEST_MODEL}.zip").is_file():
                self.best_mean_return = self._best_logged_return(self.log_path / EVALUATIONS_FILE)

    def _best_logged_return(self, path: Path) -> float:
        if not path.is_file():
            return -np.inf
        _, returns = load_evaluations(path).select(self.splits[0], self.deterministic).last_returns()
        return float(returns.max(initial=-np.inf))

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        # After the last rollout, what its update makes of the agent is evaluated.
        is_last = self.num_timesteps >= self.model._total_timesteps
        if not is_last and (self._last_timesteps is None or self.num_timesteps - self._last_timesteps >= self.eval_freq):
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
            normalizer = getattr(self.model, "get_vec_normalize_env", lambda: None)()
            if normalizer is not None:
                with replacing(self.best_model_save_path / BEST_NORMALIZER_FILE) as path:
                    normalizer.save(str(path))
            with replacing(self.best_model_save_path / f"{BEST_MODEL}.zip") as path:
                self.model.save(path)
        self.best_mean_return = max(self.best_mean_return, score)

    def _log(self, split: str, evaluation: MetaEvaluation) -> None:
        for i, value in enumerate(evaluation.mean_returns):
            self._record(f"eval/{split_label(split)}_return_{i + 1}", value)
        if evaluation.n_reached is not None:
            self._record(f"eval/{split_label(split)}_reached", evaluation.n_reached)
        if self.verbose > 0:
            print(f"{self.num_timesteps} steps, {split}: returns {np.round(evaluation.mean_returns, 2)}")
        if self.log_path is not None:
            append_evaluation(self.log_path / EVALUATIONS_FILE, self.num_timesteps, split, self.deterministic, evaluation)

    def _record(self, key: str, value: float) -> None:
        logger = getattr(self.model, "logger", None)  # an agent that is not trained has none
        if logger is not None:
            logger.record(key, value)

    def _log_coverage(self, split: str, batch: MetaEpisodeBatch) -> None:
        """How many of the probed tasks (on the gridworld, cells) were visited up to the end of each episode."""
        probes, layout = get_probes(self.env), observation_layout(self.env.observation_space)
        visited = visited_probes(batch, layout, probes)
        for i, value in enumerate(coverage(visited, len(probes.tasks))):
            self._record(f"eval/{split_label(split)}_coverage_{i + 1}", value)


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

    def _on_training_end(self) -> None:
        if hasattr(self, "pbar"):  # training may have ended before it began
            super()._on_training_end()


class LatestCheckpointCallback(BaseCallback):
    """
    Keep one checkpoint to continue from: ``checkpoint.zip``, ``checkpoint_replay_buffer.pkl`` for algorithms with a buffer,
    ``<env_id>/vecnormalize.pkl`` where the zoo looks for it. Each file is replaced in one step, so a crash while saving
    leaves whole files, of this checkpoint or the previous one. Where the disk is full, training goes on with a warning.

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
            try:
                self.save()
            except OSError as error:  # a full disk is no reason to lose what is not saved
                warn_user(f"No checkpoint after {self.num_timesteps} steps, training goes on: {error}")

    def save(self) -> None:
        """
        Save a checkpoint now.

        :raises OSError: if it cannot be written
        """
        self.save_path.mkdir(parents=True, exist_ok=True)
        normalizer = self.model.get_vec_normalize_env()
        if normalizer is not None:
            with replacing(self.normalize_path) as path:
                normalizer.save(str(path))
        if getattr(self.model, "replay_buffer", None) is not None:
            with replacing(self.save_path / BUFFER_FILE) as path:
                self.model.save_replay_buffer(path)  # type: ignore[attr-defined]
        with replacing(self.save_path / CHECKPOINT_FILE) as path:
            self.model.save(path)
        if self.on_save is not None:
            self.on_save(self.model)
