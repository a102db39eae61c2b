"""rl_zoo3's search of hyperparameters for meta-reinforcement learning: the objective is generalisation to held-out tasks."""

import contextlib
import json
import os
import socket
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.common.evaluation import evaluate_meta, task_distribution_of
from sb3_ldm.common.meta_episode import observation_layout
from sb3_ldm.envs.tasks import VALIDATION
from sb3_ldm.zoo.experiment import MetaExperimentManager
from sb3_ldm.zoo.search_space import check_names, suggest, to_hyperparameters

VALIDATION_TASKS = 6  #: held-out training tasks, or a third of them if there are few
EVALUATION_REPEATS = 3  #: meta-episodes on each task, actions sampled
_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
_EXPERIMENT = "experiment"  #: user attribute of a study: what all of its trials have in common
_WORKER = "worker"  #: user attribute of a trial: host and process that run it


class TrialCallback(BaseCallback):
    """
    Evaluate on the validation tasks while a trial trains, and stop it if it is behind the others.

    :param trial: the trial
    :param eval_env: environments to evaluate on
    :param eval_freq: time steps (of all sub-environments together) between evaluations
    """

    def __init__(self, trial: optuna.Trial, eval_env: VecEnv, eval_freq: int):
        super().__init__()
        self.trial = trial
        self.eval_env = eval_env
        self.eval_freq = eval_freq
        self.is_pruned = False
        self.scores: list[float] = []
        self._last = 0

    def _on_step(self) -> bool:
        return not self.is_pruned

    def _on_rollout_start(self) -> None:
        if self.num_timesteps - self._last >= self.eval_freq:
            self._last = self.num_timesteps
            self.evaluate()

    def evaluate(self) -> None:
        """Evaluate now."""
        self.scores.append(validation_return(self.model, self.eval_env))
        self.trial.report(self.scores[-1], len(self.scores))  # the RL Zoo's pruners count evaluations
        self.is_pruned = self.trial.should_prune()


def validation_return(model: BaseAlgorithm, env: VecEnv) -> float:
    """
    :param model: a trained agent
    :param env: environments with validation tasks
    :return: mean return on them in the last episode of a meta-episode
    """
    return float(evaluate_meta(model, env, VALIDATION, n_repeats=EVALUATION_REPEATS).mean_returns[-1])


class TuningManager(MetaExperimentManager):
    """
    A search of hyperparameters in the RL Zoo's style. The test tasks are never touched: trials are judged on training tasks
    that are held out from training, and without such tasks nothing is run.
    """

    tuned: ClassVar[Sequence[str] | None] = None  #: parameters to vary, None for the default ones

    def create_log_folder(self) -> None:
        """Trials leave no models."""

    def create_callbacks(self) -> None:
        """Each trial has its own."""

    def _hold_out(self) -> None:
        """Hold training tasks out, if it is not said how many."""
        if "validation_tasks" in self.env_kwargs:
            return
        env = self.create_envs(1)
        tasks = task_distribution_of(env)
        n_tasks = (
            min(VALIDATION_TASKS, max(1, len(tasks.tasks("train")) // 3)) if tasks.is_finite("train") else VALIDATION_TASKS
        )
        env.close()
        for kwargs in (self.env_kwargs, self.eval_env_kwargs):
            kwargs["validation_tasks"] = n_tasks

    def _check_validation(self) -> None:
        starts = self._hyperparams.get("imagination_starts", 0)
        if starts >= self.n_timesteps:
            raise ValueError(
                f"imagination_starts={starts:.0f} of n_timesteps={self.n_timesteps}: no trial would ever imagine a task; give "
                "longer trials or -params imagination_starts:0."
            )
        env = self.create_envs(1)
        try:
            splits = task_distribution_of(env).splits
            self._meta_episode_steps = observation_layout(env.observation_space).meta_episode_steps
        finally:
            env.close()
        if VALIDATION not in splits:
            raise ValueError(
                f"env_kwargs={self.env_kwargs}: tuning needs held-out training tasks, since the test tasks must not be looked "
                "at; give --env-kwargs validation_tasks:6."
            )
        if self.env_kwargs.get("task_split", "train") != "train" or self.eval_env_kwargs != self.env_kwargs:
            raise ValueError(
                f"env_kwargs={self.env_kwargs}, eval_env_kwargs={self.eval_env_kwargs}: trials train on the training tasks "
                "and are evaluated on the held-out ones; leave task_split and --eval-env-kwargs out."
            )

    def _check_same_experiment(self, study: optuna.Study) -> None:
        """Values of trials can only be compared if no more than what is searched was different."""
        described = {
            "algo": self.algo,
            "env": self.env_name.gym_id,
            "env_kwargs": self.env_kwargs,
            "config": Path(self.config).stem,
            "hyperparameters": self.custom_hyperparams or {},
            "n_timesteps": self.n_timesteps,
        }
        mine = json.loads(json.dumps(described, default=str))
        theirs = study.user_attrs.get(_EXPERIMENT)
        if theirs is None:
            study.set_user_attr(_EXPERIMENT, mine)
            return
        different = [f"{name}={mine[name]!r} (there {theirs[name]!r})" for name in mine if mine[name] != theirs[name]]
        if different:
            raise ValueError(
                f"study_name={self.study_name} in {self.storage} is of another experiment: {', '.join(different)}; give "
                "another --study-name."
            )

    def objective(self, trial: optuna.Trial) -> float:
        trial.set_user_attr(_WORKER, [socket.gethostname(), os.getpid()])
        overrides = to_hyperparameters(
            suggest(trial, self.algo, check_names(self.algo, self.tuned)),
            self._meta_episode_steps,
            self.n_envs,
            self._hyperparams.get("n_steps"),
        )
        trial.set_user_attr("hyperparameters", json.dumps(overrides))
        env, eval_env = self.create_envs(self.n_envs), self._create_eval_env()
        assert self.n_evaluations is not None
        callback = TrialCallback(trial, eval_env, max(1, self.n_timesteps // self.n_evaluations))
        try:
            hyperparameters = {**self._hyperparams, **self._preprocess_schedules(dict(overrides))}
            # Another seed for each trial: what is good with one seed alone is no good.
            seed = self.seed + trial.number
            try:
                model = ALGOS[self.algo](env=env, seed=seed, verbose=0, device=self.device, **hyperparameters)
                model.learn(self.n_timesteps, callback)
            except (AssertionError, ValueError) as error:  # as in the RL Zoo: it did not get along with what was sampled
                print(f"Trial {trial.number} with {overrides}: {error}")
                raise optuna.TrialPruned from error
            if callback.is_pruned:
                raise optuna.TrialPruned
            callback.evaluate()
        finally:
            env.close()
            eval_env.close()
        # Single evaluations are noisy: the last quarter of them.
        return float(np.mean(callback.scores[-max(1, len(callback.scores) // 4) :]))

    def hyperparameters_optimization(self) -> None:
        self._hold_out()
        self._check_validation()
        check_names(self.algo, self.tuned)
        if self.n_jobs != 1:
            raise ValueError(f"n_jobs={self.n_jobs}: start the same command several times instead.")
        assert self.storage is not None and self.study_name is not None
        folder = Path(self.log_folder) / self.algo / "tune" / self.study_name
        folder.mkdir(parents=True, exist_ok=True)
        storage = open_storage(self.storage)
        study = optuna.create_study(
            sampler=self._create_sampler(self.sampler),
            pruner=self._create_pruner(self.pruner),
            storage=storage,
            study_name=self.study_name,
            load_if_exists=True,
            direction="maximize",
        )
        self._check_same_experiment(study)
        free_lost_trials(study)
        wanted = self.n_trials if self.max_total_trials is None else max(0, self.max_total_trials - n_counted(study))
        print(f"Study {self.study_name}: {n_counted(study)} trials so far, {wanted} to run; objective: {VALIDATION} tasks")
        if study.trials:
            study.sampler.reseed_rng()  # with the same seed, it would draw what it has drawn before
        callbacks = [] if self.max_total_trials is None else [MaxTrialsCallback(self.max_total_trials, states=_COUNTED)]
        with contextlib.suppress(KeyboardInterrupt):
            if wanted > 0:
                study.optimize(self.objective, n_trials=wanted, n_jobs=1, callbacks=callbacks, gc_after_trial=True)
        for path in write_study(study, folder, self.algo, self.env_name.gym_id, self.config, self.custom_hyperparams):
            print(path)


def open_storage(storage: str) -> Any:
    """
    :param storage: a URL of a database, or a file ``*.log`` for Optuna's journal
    :return: what Optuna understands
    """
    if not storage.endswith(".log"):
        return storage
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(storage))


def n_counted(study: optuna.Study) -> int:
    """:return: trials that are finished, pruned or running"""
    return len(study.get_trials(states=_COUNTED))


def free_lost_trials(study: optuna.Study) -> list[int]:
    """
    Mark trials as failed whose process on this machine has died, as they would count as running forever.

    :param study: a study that workers may have been killed in
    :return: numbers of those trials
    """
    lost = []
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        host, process = trial.user_attrs.get(_WORKER, (None, None))
        if host == socket.gethostname() and process is not None and not _is_alive(process):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            lost.append(trial.number)
    return lost


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def best_config(
    study: optuna.Study, env_id: str, config: str | Path, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """
    :param study: a study with a finished trial
    :param env_id: id of the environment
    :param config: the file of hyperparameters that the trials started from
    :param given: hyperparameters that were given besides
    :return: the best trial's hyperparameters as the content of such a file
    """
    preset = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    start = preset.get(env_id, preset.get("default", {}))
    return {env_id: {**start, **(given or {}), **json.loads(study.best_trial.user_attrs["hyperparameters"])}}


def write_study(
    study: optuna.Study,
    folder: Path,
    algo: str,
    env_id: str,
    config: str | Path,
    given: Mapping[str, Any] | None = None,
) -> list[Path]:
    """
    :param study: a study
    :param folder: where its results go
    :param algo: name of the algorithm
    :param env_id: id of the environment
    :param config: the file of hyperparameters that the trials started from
    :param given: hyperparameters that were given besides
    :return: files: ``trials.csv``, and if a trial is finished ``best.yml`` (for ``train --conf-file``), ``history.png`` and,
        of two or more, ``importances.png``
    """
    written = [folder / "trials.csv"]
    study.trials_dataframe().to_csv(written[0], index=False)
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    if not finished:
        return written
    best = study.best_trial
    header = f"# {algo} on {env_id}: trial {best.number} of {len(study.trials)}, {best.value:.2f} on held-out training tasks\n"
    written.append(folder / "best.yml")
    text = yaml.safe_dump(best_config(study, env_id, config, given), sort_keys=False)
    written[-1].write_text(header + text, encoding="utf-8")
    written.append(folder / "history.png")
    # Its plots are marked as experimental, years after they came.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    _save(plot_optimization_history(study), written[-1])
    if len(finished) > 1 and len({trial.value for trial in finished}) > 1:
        with contextlib.suppress(ValueError, RuntimeError):  # too few trials to tell
            axis = plot_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
            _save(axis, folder / "importances.png")
            written.append(folder / "importances.png")
    return written


def _save(axis: Axes, path: Path) -> None:
    figure = axis.get_figure()
    assert isinstance(figure, Figure)
    figure.savefig(path, dpi=150, bbox_inches="tight")
