"""rl_zoo3's search of hyperparameters for meta-reinforcement learning: the objective is generalisation to held-out tasks."""

import ast
import contextlib
import json
import os
import shutil
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
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

from sb3_ldm.checks import check_integer
from sb3_ldm.cluster import Cluster, RemoteProcess
from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.envs.tasks import VALIDATION
from sb3_ldm.evaluation import task_distribution_of
from sb3_ldm.evaluation.callbacks import CHECKPOINT_FILE
from sb3_ldm.files import replacing
from sb3_ldm.registry import get_algorithm
from sb3_ldm.results import newest_file
from sb3_ldm.zoo import trial as trial_module
from sb3_ldm.zoo.configs import read_preset
from sb3_ldm.zoo.experiment import MetaExperimentManager
from sb3_ldm.zoo.search_space import check_names, suggest, to_hyperparameters
from sb3_ldm.zoo.trial import REFUSED, check_held_out, is_finished, remove_checkpoint, validation_returns

VALIDATION_TASKS = 6  #: held-out training tasks, or a third of them if there are few
_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
_EXPERIMENT = "experiment"  #: user attribute of a study: what all of its trials have in common
_WORKER = "worker"  #: user attribute of a trial: host and process that run it
_CONTINUES = "continues"  #: user attribute of a trial: number of the first one that was lost, in whose folder it goes on
_HYPERPARAMETERS = "hyperparameters"  #: user attribute of a trial: in zoo_configs' format, what it changes
_SEED = "seed"  #: user attribute of a trial
_RETRIES = "retries"  #: user attribute of a trial: whether it is the second try of one that failed
_POLL_S = 2.0
_LOG = "log.txt"


class TrialFailedError(Exception):
    """A trial ended by an error that its hyperparameters are not to blame for, such as a simulator that was lost."""


class TrialRun:
    """
    A trial while it is run, here or elsewhere: reads its evaluations, reports them, and says whether to go on.

    :param trial: the trial
    :param folder: its own folder
    :param options: of its command line, without those that name files
    :param config: the file of hyperparameters that it starts from
    :param n_spared: number of evaluations that are too early to prune it
    """

    def __init__(self, trial: optuna.Trial, folder: Path, options: Sequence[str], config: str, n_spared: int = 0):
        self.trial = trial
        self.n_spared = n_spared
        self.folder = folder
        self.options = options
        self.config = Path(config)
        self.is_pruned = False
        self._n_reported = 0
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / self.config.name).is_file():
            shutil.copyfile(self.config, folder / self.config.name)

    @property
    def log_path(self) -> Path:
        """What the trial prints."""
        return self.folder / _LOG

    def arguments(self, folder: Path) -> list[str]:
        """
        :param folder: what the trial's folder is called there
        :return: the command line, which goes on from a checkpoint if there is one
        """
        words = ["-f", str(folder), "--conf-file", str(folder / self.config.name), *self.options]
        checkpoint = newest_file(self.folder, CHECKPOINT_FILE)
        return words if checkpoint is None else [*words, "-i", str(folder / checkpoint.relative_to(self.folder))]

    def report_and_should_prune(self) -> bool:
        """
        Report what was evaluated since the last call.

        :return: whether the trial is behind the others
        """
        if self._report() and not self.is_pruned and self._n_reported > self.n_spared:
            self.is_pruned = self.trial.should_prune()
        return self.is_pruned

    def _report(self) -> bool:
        news = validation_returns(self.folder)[self._n_reported :]
        for value in news:
            self._n_reported += 1
            self.trial.report(value, self._n_reported)  # the RL Zoo's pruners count evaluations
        return bool(news)

    def value(self) -> float:
        """
        :return: its value at the end
        :raises optuna.TrialPruned: if it ended because it was behind
        """
        self._report()
        if self.is_pruned:
            raise optuna.TrialPruned
        returns = validation_returns(self.folder)
        # Single evaluations are noisy: the last quarter of them.
        return float(np.mean(returns[-max(1, len(returns) // 4) :]))


class TuningManager(MetaExperimentManager):
    """
    A search of hyperparameters in the RL Zoo's style. The test tasks are never touched: trials are judged on training tasks
    that are held out from training, and without such tasks nothing is run.

    :param tuned: parameters to vary, None for the default ones
    :param cluster: where trials are run, None for this process
    """

    _next_trial = 0  #: number of the next trial, if nobody else searches

    def __init__(self, *args: Any, tuned: Sequence[str] | None = None, cluster: Cluster | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.tuned = tuned
        self.cluster = cluster
        self._failures: dict[int, str] = {}  #: trials of this search that failed or were refused, and why
        self._n_retries = 0  #: failed trials that are to be tried once more
        self._n_started = 0  #: trials that were begun by this search

    def create_log_folder(self) -> None:
        """Trials leave no models."""

    def create_callbacks(self) -> None:
        """Each trial has its own."""

    def _hold_out(self) -> None:
        """Hold training tasks out, if it is not said how many."""
        if "validation_tasks" in self.env_kwargs:
            return
        env = self.create_envs(1, no_log=True)
        tasks = task_distribution_of(env)
        n_tasks = (
            min(VALIDATION_TASKS, max(1, len(tasks.tasks("train")) // 3)) if tasks.is_finite("train") else VALIDATION_TASKS
        )
        env.close()
        for kwargs in (self.env_kwargs, self.eval_env_kwargs):
            kwargs["validation_tasks"] = n_tasks

    def _check_validation(self) -> None:
        begins = get_algorithm(self.algo).beginning(self._hyperparams)
        if begins is not None and begins.timestep(self.n_timesteps) >= self.n_timesteps:
            raise ValueError(
                f"{begins.option}={begins.starts:g} of n_timesteps={self.n_timesteps}: no trial would ever {begins.what}; "
                f"give longer trials or -params {begins.option}:0."
            )
        env = self.create_envs(1, no_log=True)
        try:
            tasks = task_distribution_of(env)
            self._meta_episode_steps = observation_layout(env.observation_space).meta_episode_steps
        finally:
            env.close()
        check_held_out(tasks, self.env_kwargs, self.eval_env_kwargs)

    def _check_words(self) -> None:
        """Trials are command lines: what is given in this one must have words."""
        for name, value in {**self.env_kwargs, **(self.custom_hyperparams or {})}.items():
            try:
                ast.literal_eval(repr(value))
            except (ValueError, SyntaxError) as error:
                raise ValueError(f"{name}={value!r}: give it in a file, with --conf-file, not in the command line.") from error

    def _check_same_experiment(self, study: optuna.Study) -> None:
        """Values of trials can only be compared if no more than what is searched was different."""
        described = {
            "algo": self.algo,
            "env": self.env_name.gym_id,
            "env_kwargs": self.env_kwargs,
            "config": Path(self.config).stem,
            "preset": self._preset(),
            "hyperparameters": self.custom_hyperparams or {},
            "n_timesteps": self.n_timesteps,
        }
        mine = json.loads(json.dumps(described, default=str))
        theirs = study.user_attrs.get(_EXPERIMENT)
        if theirs is None:
            study.set_user_attr(_EXPERIMENT, mine)
            return
        different = [f"{name}={mine[name]!r} (there {theirs.get(name)!r})" for name in mine if mine[name] != theirs.get(name)]
        if different:
            raise ValueError(
                f"study_name={self.study_name} in {self.storage} is of another experiment: {', '.join(different)}; give "
                "another --study-name."
            )

    def _preset(self) -> dict[str, Any] | None:
        """Hyperparameters that trials start from."""
        return read_preset(self.config, self.env_name.gym_id) or None

    def _start(self, trial: optuna.Trial) -> TrialRun:
        """Choose a trial's hyperparameters, and say where it is run; one that was lost goes on there, with those it had."""
        trial.set_user_attr(_WORKER, [socket.gethostname(), os.getpid()])
        number, folder = trial.number, self.folder / "trials"
        if _CONTINUES in trial.user_attrs:
            first = trial.study.trials[trial.user_attrs[_CONTINUES]]
            suggest(trial, self.algo, list(first.params))
            number, overrides, seed = first.number, json.loads(first.user_attrs[_HYPERPARAMETERS]), first.user_attrs[_SEED]
        elif any((folder / str(number)).glob("*")):
            raise ValueError(
                f"{folder / str(number)} is of another study {self.study_name!r}: remove it or give another --study-name."
            )
        else:
            if number != self._next_trial:  # others search too, who would draw the same with the same seed
                trial.study.sampler.reseed_rng()
            overrides = to_hyperparameters(
                suggest(trial, self.algo, check_names(self.algo, self.tuned)),
                self._meta_episode_steps,
                self.n_envs,
                self._hyperparams.get("n_steps"),
            )
            seed = self.seed + number  # another one for each trial: what is good with one seed alone is no good
        self._next_trial = trial.number + 1
        self._n_started += 1
        trial.set_user_attr(_HYPERPARAMETERS, json.dumps(overrides))
        trial.set_user_attr(_SEED, seed)
        # What an algorithm is about may begin late, and what it is worth cannot be seen at once: of LDM, imagination.
        options = {**self._hyperparams, **overrides}
        begins = get_algorithm(self.algo).beginning(options)
        n_spared = 1
        if begins is not None:
            begin = begins.timestep(self.n_timesteps)
            n_spared += (begin + (self.n_timesteps - begin) // 3) // self._evaluate_every
        return TrialRun(trial, folder / str(number), self._options(overrides, seed), self.config, n_spared)

    @property
    def _evaluate_every(self) -> int:
        assert self.n_evaluations is not None
        return max(1, self.n_timesteps // self.n_evaluations)

    def _options(self, overrides: Mapping[str, Any], seed: int) -> list[str]:
        every = str(self._evaluate_every)
        words = ["--algo", self.algo, "--env", self.env_name.gym_id, "--seed", str(seed), "-n", str(self.n_timesteps)]
        words += ["--eval-freq", every, "--save-freq", every, "--verbose", "0", "--vec-env", self.args.vec_env]
        words += ["--device", str(self.device), "--num-threads", str(self.args.num_threads)]
        words += ["--log-interval", str(self.log_interval)]
        words += ["--env-kwargs", *(f"{name}:{value!r}" for name, value in self.env_kwargs.items())]
        given = {**(self.custom_hyperparams or {}), **overrides}
        words += ["--hyperparams", *(f"{name}:{value!r}" for name, value in given.items())]
        return [*words, "--gym-packages", *self.args.gym_packages] if self.args.gym_packages else words

    def objective(self, trial: optuna.Trial) -> float:
        """
        Train a trial in this process.

        :param trial: the trial
        :return: its value
        """
        run = self._start(trial)
        if is_finished(run.folder):  # but whoever started it was lost
            return run.value()
        try:
            with run.log_path.open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
                trial_module.main(run.arguments(run.folder), run.report_and_should_prune)
        except (AssertionError, ValueError) as error:  # as in the RL Zoo: it did not get along with what was sampled
            print(f"Trial {trial.number} with {trial.params}: {error}")
            self._failures[trial.number] = _in_words(error)
            remove_checkpoint(run.folder)
            raise optuna.TrialPruned from error
        except Exception as error:
            with run.log_path.open("a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            self._fail(trial.study, trial.study.trials[trial.number], run, _in_words(error))
            raise TrialFailedError(f"{_in_words(error)}, see {run.log_path}") from None
        except KeyboardInterrupt:
            continue_later(trial.study, trial.study.trials[trial.number])
            raise
        return run.value()

    def _fail(self, study: optuna.Study, trial: optuna.trial.FrozenTrial, run: TrialRun, why: str) -> None:
        """Try a trial that failed once more, from its last checkpoint; a second time it is given up."""
        self._failures[trial.number] = why
        if _RETRIES in trial.user_attrs:
            remove_checkpoint(run.folder)
            return
        self._n_retries += 1
        continue_later(study, trial, is_retry=True)

    def _take_retries(self) -> int:
        """How many trials are to be run besides, in the place of those that failed."""
        n, self._n_retries = self._n_retries, 0
        return n

    def _search_here(self, study: optuna.Study, wanted: int) -> None:
        """Trials in this process, one after the other."""
        most = self.max_total_trials
        callbacks = [] if most is None else [MaxTrialsCallback(most, states=_COUNTED)]
        while wanted > 0 and (most is None or n_counted(study) < most):
            options: dict[str, Any] = {"n_jobs": 1, "callbacks": callbacks, "gc_after_trial": True}
            study.optimize(self.objective, n_trials=wanted, catch=(TrialFailedError,), **options)
            wanted = self._take_retries()

    def _report_failures(self) -> None:
        """
        Say which trials of this search failed.

        :raises ChildProcessError: if all did
        """
        if not self._failures:
            return
        lines = [f"trial {number}: {why}" for number, why in self._failures.items()]
        summary = f"{len(lines)} of {self._n_started} trials failed"
        print(f"{summary}, their logs are in {self.folder / 'trials'}:", *lines, sep="\n  ")
        if len(lines) == self._n_started:
            raise ChildProcessError(f"{summary}, nothing was found out; the last one was {lines[-1]}")

    def _search_on_cluster(self, study: optuna.Study, wanted: int, cluster: Cluster) -> None:
        """Trials as processes on the nodes of a cluster; this process alone reads and writes the study."""
        running: list[tuple[TrialRun, RemoteProcess]] = []
        try:
            while wanted > 0 or running:
                while wanted > 0 and len(running) < cluster.n_trials:
                    wanted -= 1
                    if self.max_total_trials is not None and n_counted(study) >= self.max_total_trials:
                        continue
                    run = self._start(study.ask())
                    if is_finished(run.folder):  # but whoever started it was lost
                        _tell(study, run, TrialState.COMPLETE)
                    else:
                        running.append(self._submit(run, cluster))
                for run, process in list(running):
                    state = _look_after(run, process)
                    if state is TrialState.RUNNING:
                        continue
                    running.remove((run, process))
                    _tell(study, run, state)
                    if state is TrialState.FAIL:
                        self._fail(study, study.trials[run.trial.number], run, _last_line(run.log_path))
                        wanted += self._take_retries()
                    elif process.returncode == REFUSED:
                        self._failures[run.trial.number] = _last_line(run.log_path)
                time.sleep(_POLL_S)
        finally:  # of an interrupted search
            for run, process in running:
                process.terminate()
                continue_later(study, study.trials[run.trial.number])
                study.tell(run.trial, state=TrialState.FAIL)

    def _submit(self, run: TrialRun, cluster: Cluster) -> tuple[TrialRun, RemoteProcess]:
        def command() -> list[str]:
            return [sys.executable, "-m", trial_module.__name__, *run.arguments(Path())]

        log = run.log_path.open("ab")
        options: dict[str, Any] = {"keep": [_LOG], "progress": CHECKPOINT_FILE}
        return run, RemoteProcess(command, run.folder, log, n_cpus=cluster.n_cpus, n_gpus=cluster.n_gpus, **options)

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        if not self.config.endswith((".yml", ".yaml")):
            raise ValueError(
                f"conf_file={self.config!r}: a search starts from a .yml file, for it writes the best one as such."
            )
        return super().read_hyperparameters()

    def hyperparameters_optimization(self) -> None:
        self._hold_out()
        self._check_validation()
        check_names(self.algo, self.tuned)
        self._check_words()
        if self.n_jobs != 1 and self.cluster is None:
            raise ValueError(f"n_jobs={self.n_jobs}: start the same command several times instead, or give --ray-address.")
        check_integer("n_trials", self.n_trials, 0)
        assert self.storage is not None and self.study_name is not None
        study = optuna.create_study(
            sampler=self._create_sampler(self.sampler),
            pruner=self._create_pruner(self.pruner),
            storage=open_storage(self.storage),
            study_name=self.study_name,
            load_if_exists=True,
            direction="maximize",
        )
        self._check_same_experiment(study)
        self.folder.mkdir(parents=True, exist_ok=True)
        free_lost_trials(study)
        wanted = self.n_trials if self.max_total_trials is None else max(0, self.max_total_trials - n_counted(study))
        print(f"Study {self.study_name}: {n_counted(study)} trials so far, {wanted} to run; objective: {VALIDATION} tasks")
        self._next_trial = len(study.trials)
        if study.trials:
            study.sampler.reseed_rng()  # with the same seed, it would draw what it has drawn before
        with contextlib.suppress(KeyboardInterrupt):
            if self.cluster is not None:
                self._search_on_cluster(study, wanted, self.cluster)
            else:
                self._search_here(study, wanted)
        env_id, plots = self.env_name.gym_id, not self.no_optim_plots
        for path in write_study(study, self.folder, self.algo, env_id, self.config, self.custom_hyperparams, plots):
            print(path)
        self._report_failures()

    @property
    def folder(self) -> Path:
        """The study's own folder."""
        return Path(self.log_folder) / self.algo / "tune" / str(self.study_name)


def _look_after(run: TrialRun, process: RemoteProcess) -> TrialState:
    """How a trial on a cluster is going; one that is behind is ended."""
    returncode = process.poll()
    if returncode is None and not run.report_and_should_prune():
        return TrialState.RUNNING
    process.terminate()
    assert process.output is not None
    process.output.close()
    if returncode == 0:
        return TrialState.COMPLETE
    return TrialState.PRUNED if returncode in (None, REFUSED) else TrialState.FAIL


def _tell(study: optuna.Study, run: TrialRun, state: TrialState) -> None:
    """Write down how a trial ended."""
    number = run.trial.number
    if state is TrialState.COMPLETE:
        value = run.value()
        study.tell(run.trial, value)
        print(f"Trial {number} with {run.trial.params}: {value:.2f}")
        return
    study.tell(run.trial, state=state)
    if state is not TrialState.FAIL:  # which may be tried once more
        remove_checkpoint(run.folder)
    ended = "pruned" if run.is_pruned else f"failed, see {run.log_path}"
    print(f"Trial {number} with {run.trial.params}: {ended}")


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _last_line(log: Path) -> str:
    """What a process said at last, which is its error."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def continue_later(study: optuna.Study, trial: optuna.trial.FrozenTrial, is_retry: bool = False) -> None:
    """
    Put a trial that was not trained to its end in front of those to come, to go on from its last checkpoint.

    :param study: its study
    :param trial: the trial
    :param is_retry: whether it failed, so that it must not fail once more
    """
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    first = trial.user_attrs.get(_CONTINUES, trial.number if _HYPERPARAMETERS in trial.user_attrs else None)
    attributes = {} if first is None else {_CONTINUES: first}
    if is_retry or _RETRIES in trial.user_attrs:
        attributes[_RETRIES] = 1
    study.enqueue_trial(params, user_attrs=attributes)


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
    Mark trials as failed whose process on this machine has died, as they would count as running forever; they are run again,
    from their last checkpoints.

    :param study: a study that workers may have been killed in; this process has no trials in it yet
    :return: numbers of those trials
    """
    lost = []
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        host, process = trial.user_attrs.get(_WORKER, (None, None))
        # In containers, the next process often has the number of the last one.
        if host == socket.gethostname() and process is not None and (process == os.getpid() or not _is_alive(process)):
            with contextlib.suppress(ValueError):  # another process was faster
                study.tell(trial.number, state=TrialState.FAIL)
                continue_later(study, trial)
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
    return {
        env_id: {**read_preset(config, env_id), **(given or {}), **json.loads(study.best_trial.user_attrs[_HYPERPARAMETERS])}
    }


def write_study(
    study: optuna.Study,
    folder: Path,
    algo: str,
    env_id: str,
    config: str | Path,
    given: Mapping[str, Any] | None = None,
    plots: bool = True,
) -> list[Path]:
    """
    :param study: a study
    :param folder: where its results go
    :param algo: name of the algorithm
    :param env_id: id of the environment
    :param config: the file of hyperparameters that the trials started from
    :param given: hyperparameters that were given besides
    :param plots: whether to draw the search
    :return: files: ``trials.csv``, and if a trial is finished ``best.yml`` (for ``train --conf-file``), ``history.png`` and,
        of two or more, ``importances.png``
    """
    written = [folder / "trials.csv"]
    with replacing(written[0]) as partial:
        study.trials_dataframe().to_csv(partial, index=False)
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    if not finished:
        return written
    best = study.best_trial
    header = f"# {algo} on {env_id}: trial {best.number} of {n_counted(study)}, {best.value:.2f} on held-out training tasks\n"
    written.append(folder / "best.yml")
    text = yaml.safe_dump(best_config(study, env_id, config, given), sort_keys=False)
    with replacing(written[-1]) as partial:
        partial.write_text(header + text, encoding="utf-8")
    if not plots:
        return written
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
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150, bbox_inches="tight", format="png")
    plt.close(figure)
