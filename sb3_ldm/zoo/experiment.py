"""rl_zoo3's experiment manager for meta-reinforcement learning."""

import contextlib
import copy
import json
from pathlib import Path
from pprint import pprint
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import ALGOS, get_latest_run_id
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import Logger, make_output_format
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.checks import check_installed, warn_user
from sb3_ldm.envs import backend_of, check_env_kwargs, make_meta_vec_env, monitor_of
from sb3_ldm.envs.interrupts import close_env
from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.evaluation import evaluation_tasks
from sb3_ldm.evaluation.callbacks import (
    CHECKPOINT_FILE,
    LatestCheckpointCallback,
    MetaEvalCallback,
    MetaProgressBarCallback,
)
from sb3_ldm.files import PARTIAL, replacing
from sb3_ldm.results import RUN_FILE, load_metadata
from sb3_ldm.results.evaluation_table import EVALUATIONS_FILE, drop_evaluations_after
from sb3_ldm.zoo.agent_files import (
    CHECKPOINT_FILES,
    check_agent,
    load_buffer,
    load_statistics,
    save_agent,
    save_interrupted,
    say,
    statistics_beside,
    tell,
)
from sb3_ldm.zoo.configs import config_text, read_config, resolve_config, unrecordable
from sb3_ldm.zoo.final_evaluation import evaluate_finally, evaluation_splits
from sb3_ldm.zoo.options import UNUSED_HYPERPARAMETERS, check_hyperparameters
from sb3_ldm.zoo.run_folder import RunFolder, Spent
from sb3_ldm.zoo.script import signals_deferred

FINAL_REPEATS = 10
#: Options of the command line that a run goes on with, besides those that ``run.json`` has under names of their own.
KEPT_OPTIONS = (
    "eval_freq",
    "save_freq",
    "log_interval",
    "eval_env_kwargs",
    "vec_env",
    "save_replay_buffer",
    "tensorboard_log",
    "gym_packages",
)
HYPERPARAMETERS_FILE = "hyperparameters.yml"  #: what a run was made with, to go on with


class MetaExperimentManager(ExperimentManager):
    """
    An experiment in the RL Zoo's style and folder layout, with meta-evaluation on the training and the unseen tasks.

    Beside the zoo's files the run folder gets ``progress*.csv`` (what was logged), ``evaluations.csv`` (every evaluated
    episode), ``run.json`` and, where the tasks can be drawn, ``reward_maps.npz`` and ``trajectories.npz``: all that
    ``python -m sb3_ldm.figures`` needs.

    Continuing from a run's checkpoint or its last agent (``-i RUN/checkpoint.zip``) goes on in the same run folder until
    ``n_timesteps`` in total; any other agent, the run's best one too, begins a run of its own.
    """

    evaluation_repeats = 1  #: meta-episodes on each task, while it trains
    keeps_best_model = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._trained_from = Path(self.trained_agent)  #: Path() where it begins anew
        if self.tensorboard_log is not None:
            check_installed("tensorboard", "tensorboard")
        self.config = resolve_config(kwargs.get("config"), self.algo)
        self._config_name = Path(self.config).stem
        self._spent = Spent()
        self._interrupted = False
        self._goes_on = False  #: in the folder of the run that it continues
        self._folder = RunFolder()
        if self.continue_training and self._trained_from.stem in (Path(CHECKPOINT_FILE).stem, self.env_name):
            self._continue_in(self._trained_from.parent)

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> tuple[Any, ...]:
        check_hyperparameters(self.algo, hyperparams)
        for name in UNUSED_HYPERPARAMETERS:
            if hyperparams.get(name):
                raise ValueError(
                    f"{name}={hyperparams[name]!r}: environments are not wrapped here, for meta-episodes have a layout. "
                    "Wrap your environment inside the MetaEpisodeWrapper that it is registered with."
                )
        preprocessed = super()._preprocess_hyperparams(hyperparams)
        if self._eval_env_kwargs_args is None:  # the zoo forgets those of the file
            self.eval_env_kwargs = self.env_kwargs
        for env_kwargs in (self.env_kwargs, self.eval_env_kwargs):
            check_env_kwargs(self.env_name.gym_id, env_kwargs)
        return preprocessed

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        hyperparams = ExperimentManager._preprocess_schedules(hyperparams)
        for name in ("vae_learning_rate", "ent_coef"):
            value = hyperparams.get(name)
            # "lin_1e-3", as the zoo has it for the policy's learning rate; "auto" of SAC is none.
            if isinstance(value, str) and not value.startswith("auto"):
                as_learning_rate = {"learning_rate": value}
                hyperparams[name] = ExperimentManager._preprocess_schedules(as_learning_rate)["learning_rate"]
        return hyperparams

    def create_log_folder(self) -> None:
        """Claim a folder: one that a run which began at the same time has taken is its own."""
        while not self._goes_on and not self._folder.claim(Path(self.save_path)):
            run_id = get_latest_run_id(self.log_path, self.env_name) + 1
            self.save_path = str(Path(self.log_path) / f"{self.env_name}_{run_id}")
            self.params_path = str(Path(self.save_path) / self.env_name)
        super().create_log_folder()

    def close(self, failed: bool = False) -> None:
        """
        Leave the run's folder to others.

        :param failed: whether the run did not come to its end; then it leaves no folder that has nothing in it
        """
        self._folder.leave(Path(self.save_path), failed)

    def _continue_in(self, run_folder: Path) -> None:
        """Write to the folder that the checkpoint lies in, if it is one of this experiment's runs."""
        params_path = run_folder / self.env_name
        if not (params_path / "config.yml").is_file():
            return
        before: dict[str, Any] = {}
        try:
            before = load_metadata(run_folder / RUN_FILE)
        except (FileNotFoundError, ValueError) as error:
            warn_user(f"{error} The times that the run has taken so far are not known.")
        self._check_unfinished(before)
        self._folder.continue_in(run_folder)
        self._goes_on = True
        self.save_path, self.params_path = str(run_folder), str(params_path)
        if before:
            if Path(self.config).resolve() == (run_folder / HYPERPARAMETERS_FILE).resolve():
                self._config_name = before["config"]
            self._spent.add(before)

    def _check_unfinished(self, before: dict[str, Any]) -> None:
        """Refuse to go on where there is nothing to do."""
        if before.get("finished") and 0 < self.n_timesteps <= before["frames"]:
            raise ValueError(
                f"trained_agent={str(self._trained_from)!r} is of a run that is finished, with {before['frames']} of "
                f"{self.n_timesteps} timesteps: to train it further, give a larger -n, which counts from its beginning."
            )

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        env = make_meta_vec_env(
            self.env_name.gym_id,
            n_envs,
            seed=self.seed,
            backend="subproc" if self.args.vec_env == "subproc" else "auto",
            env_kwargs=self.eval_env_kwargs if eval_env else self.env_kwargs,
            verbose=0 if eval_env or no_log else self.verbose,
            monitor_dir=None if eval_env or no_log else self.save_path,
        )
        if not eval_env:
            self._backend = backend_of(env)
        return self._maybe_normalize(env, eval_env)

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        statistics = statistics_beside(self._trained_from, self.env_name)
        if not (self.continue_training and statistics.is_file()):
            return super()._maybe_normalize(env, eval_env)
        normalizer = load_statistics(statistics, env)
        if eval_env:
            normalizer.training = normalizer.norm_reward = False
        return normalizer

    def splits(self, env: VecEnv, final: bool = False) -> tuple[str, ...]:
        """
        :param env: vectorised meta-episode environments
        :param final: whether it is the evaluation at the end
        :return: the splits to evaluate on
        """
        return evaluation_splits(env, final)

    def create_callbacks(self) -> None:
        path = Path(self.save_path)
        # Also without --save-freq there is one of what was learned when the run ends early.
        self._checkpoint = LatestCheckpointCallback(max(self.save_freq, 1), path, self._statistics_path, self._save_run)
        if self.save_freq > 0:
            self.callbacks.append(self._checkpoint)
        evaluation = None
        if self.eval_freq > 0:
            eval_env = self._create_eval_env()
            evaluation = MetaEvalCallback(
                eval_env,
                splits=self.splits(eval_env),
                eval_freq=self.eval_freq,
                n_repeats=self.evaluation_repeats,
                log_path=path,
                best_model_save_path=path if self.keeps_best_model else None,
                verbose=0 if self.show_progress else self.verbose,
            )
            self.callbacks.append(evaluation)
        if self.show_progress:
            # The zoo closes the bar by ending the first callback.
            self.callbacks.insert(0, MetaProgressBarCallback(evaluation))

    def _create_eval_env(self) -> VecEnv:
        """As many sub-environments as the larger split has tasks, but no more than 64."""
        env = self.create_envs(1, eval_env=True)
        n_tasks = max(len(evaluation_tasks(env, split)) for split in self.splits(env))
        env.close()
        return self.create_envs(min(n_tasks, 64), eval_env=True)

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        experiment = super().setup_experiment()
        if experiment is None:
            return None
        model, hyperparams = experiment
        self._saved_hyperparams = dict(hyperparams)
        suffix = f"_from_{model.num_timesteps}" if self.continue_training else ""
        formats = [make_output_format("csv", self.save_path, suffix)]
        if self.verbose > 1:
            formats.append(make_output_format("stdout", self.save_path))
        if self.tensorboard_log is not None:
            # A folder for each run, as SB3 has them, and the same one when it goes on.
            folder = Path(self.save_path).resolve()
            run = f"{folder.parent.parent.name}_{self.algo}_{folder.name.removeprefix(f'{self.env_name}_')}"
            formats.append(make_output_format("tensorboard", str(Path(self.tensorboard_log) / run)))
        model.set_logger(Logger(self.save_path, formats))
        return model, hyperparams

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        for name in ("policy", "policy_kwargs"):
            hyperparams.pop(name, None)
        check_agent(self._trained_from)
        model = ALGOS[self.algo].load(
            self.trained_agent,
            env=env,
            tensorboard_log=self.tensorboard_log,
            verbose=self.verbose,
            device=self.device,
            **hyperparams,
        )
        load_buffer(model, self._trained_from)
        drop_evaluations_after(Path(self.save_path) / EVALUATIONS_FILE, model.num_timesteps)
        monitor = monitor_of(env)
        assert monitor is not None
        monitor.continue_from(model.num_timesteps)
        if not getattr(model, "resumes", False):
            # Else each continuation would meet the run's first tasks again, with the first actions' noise.
            seed = int(np.random.default_rng([self.seed, model.num_timesteps]).integers(2**30))
            env.seed(seed)
            set_random_seed(seed)
        print(f"Continuing after {model.num_timesteps} of {self.n_timesteps} steps in {self.save_path}")
        return model

    def learn(self, model: BaseAlgorithm) -> None:
        self._began_at = model.num_timesteps
        try:
            self._train(model)
            with signals_deferred():
                self._save_agent(model)  # before all that may fail
        except BaseException as reason:  # also signals: however a run ends, it keeps its agent
            self._interrupted = True
            if model.num_timesteps == self._began_at and not self._goes_on:
                raise  # nothing was learned
            with signals_deferred():
                kept = self._save_interrupted(model)
                if isinstance(reason, KeyboardInterrupt):  # the run goes on to its evaluation
                    say(f"Interrupted. {kept}")
                else:
                    tell(reason, kept)
            if not isinstance(reason, KeyboardInterrupt):  # who terminates does not wait for the evaluation
                raise
        finally:
            for bar in self.callbacks:
                if isinstance(bar, MetaProgressBarCallback):
                    with contextlib.suppress(OSError):  # the terminal may be gone
                        bar.on_training_end()
        try:
            self._save_results(model)
        except BaseException as reason:
            agent = Path(self.save_path) / (CHECKPOINT_FILE if self._interrupted else self._agent_file)
            tell(reason, f"The agent is saved, its final evaluation is not complete; make up for it with -i {agent}")
            raise

    @property
    def _agent_file(self) -> str:
        return f"{self.env_name}.zip"

    @property
    def _statistics_path(self) -> Path:
        return Path(self.params_path) / "vecnormalize.pkl"

    def _save_agent(self, model: BaseAlgorithm) -> None:
        """What ``save_trained_model`` of rl_zoo3 saves, whole at any time."""
        save_agent(model, Path(self.save_path) / self._agent_file, self._statistics_path, self.save_replay_buffer)

    def _save_interrupted(self, model: BaseAlgorithm) -> str:
        """Save what has been learned, and tell what there is now."""
        if self._goes_on and model.num_timesteps == self._began_at:
            return f"Nothing was learned since {self._trained_from}."
        self._checkpoint.init_callback(model)
        saves = {self._agent_file: lambda: self._save_agent(model), CHECKPOINT_FILE: self._checkpoint.save}
        return save_interrupted(model, Path(self.save_path), saves)

    def _train(self, model: BaseAlgorithm) -> None:
        """Train what is left to train."""
        remaining = self.n_timesteps - model.num_timesteps
        self._save_run(model)
        if remaining > 0:
            # Where it continues, callbacks must not start over, and neither must the schedules.
            callback = CallbackList(self.callbacks)
            log_interval = self._rollouts_per_log(model, remaining)
            model.learn(remaining, callback, log_interval, reset_num_timesteps=not self.continue_training)  # type: ignore[arg-type]

    def _rollouts_per_log(self, model: BaseAlgorithm, n_timesteps: int) -> int | None:
        """
        Rollouts, of off-policy algorithms meta-episodes, between two rows of the log: as given, else ten, or fewer where a
        short run had less than ten rows.
        """
        if self.log_interval != -1:
            return max(self.log_interval, 0) or None  # as in rl_zoo3, below -1 nothing is logged
        if hasattr(model, "rollout_buffer"):
            per_rollout = model.n_steps * model.n_envs  # type: ignore[attr-defined]
        else:
            per_rollout = observation_layout(model.observation_space).meta_episode_steps
        n_rollouts = -(-n_timesteps // per_rollout)
        return min(max(n_rollouts // 10, 1), 10)

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """Call the run finished, whose model :meth:`learn` has saved."""
        self._save_run(model, finished=not self._interrupted)
        if not self._interrupted:
            self._remove_checkpoint()

    def _remove_checkpoint(self) -> None:
        for name in CHECKPOINT_FILES:
            (Path(self.save_path) / name).unlink(missing_ok=True)

    def _save_results(self, model: BaseAlgorithm) -> None:
        """The final evaluation, and what figures are drawn from."""
        self._save_run(model)
        env = self._create_eval_env()
        try:
            splits = self.splits(env, final=True)
            evaluate_finally(model, env, self.algo, Path(self.save_path), splits, FINAL_REPEATS, self.seed)
        finally:
            close_env(env)
        if model.env is not None:
            close_env(model.env)

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        """rl_zoo3's files, each of them put in the place of an older one when it is whole."""
        folder = Path(self.params_path)
        with TemporaryDirectory(prefix=PARTIAL, dir=folder) as name:
            self.params_path = name
            try:
                super()._save_config(saved_hyperparams)
            finally:
                self.params_path = str(folder)
            for file in Path(name).iterdir():
                with replacing(folder / file.name) as path:
                    file.rename(path)

    def _save_run(self, model: BaseAlgorithm, finished: bool = False) -> None:
        run = {
            "finished": finished,
            "algo": self.algo,
            "config": self._config_name,
            "env": self.env_name.gym_id,
            "env_kwargs": self.env_kwargs,
            "seed": self.seed,
            "frames": model.num_timesteps,
            "n_timesteps": self.n_timesteps,
            "n_envs": self.n_envs,
            "backend": self._backend,
            "episodes_per_task": observation_layout(model.observation_space).episodes_per_task,
            "hyperparameters": {name: value for name, value in self._saved_hyperparams.items() if name != "env_kwargs"},
            "options": {name: value for name in KEPT_OPTIONS if (value := getattr(self.args, name)) not in (None, "", [])},
            **self._spent.described(),
        }
        if self._unrecorded:
            run["unrecorded"] = self._unrecorded
        with replacing(Path(self.save_path) / RUN_FILE) as path:
            path.write_text(json.dumps(run, indent=2, default=str) + "\n", encoding="utf-8")
        if not self._unrecorded:
            self._save_hyperparameters()

    def _save_hyperparameters(self) -> None:
        """What the run goes on with after an interruption, and what trains the same agent, in the form of ``zoo_configs``."""
        given = {"env_kwargs": self.env_kwargs} if self.env_kwargs else {}
        complete = {**self._saved_hyperparams, "n_timesteps": self.n_timesteps, **given}
        with replacing(Path(self.save_path) / HYPERPARAMETERS_FILE) as path:
            path.write_text(config_text(self.env_name.gym_id, dict(sorted(complete.items()))), encoding="utf-8")

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """As rl_zoo3 does, but from files with classes in them, too, and without changing what a module has."""
        presets, env_id = read_config(self.config), self.env_name.gym_id
        if not {env_id, "default"} & presets.keys():
            raise ValueError(f"{self.config} has no hyperparameters for {env_id}, and no default ones.")
        hyperparams = {**copy.deepcopy(presets.get(env_id, presets.get("default", {}))), **(self.custom_hyperparams or {})}
        if "env_kwargs" in hyperparams and self.env_kwargs:  # the command line's count
            hyperparams["env_kwargs"] = self.env_kwargs
        saved = copy.deepcopy(dict(sorted(hyperparams.items())))  # what is made of them changes nested ones
        self._unrecorded = unrecordable({**saved, "env_kwargs": self.env_kwargs})
        if self._unrecorded:
            warn_user(
                f"{', '.join(self._unrecorded)}: {HYPERPARAMETERS_FILE} cannot hold what is defined in no module that can be "
                "imported, or cannot be copied. None is written: to continue this run or to train it again, give --conf-file.",
            )
        print(f"Hyperparameters of {self.config}:")
        pprint(saved)
        return hyperparams, saved
