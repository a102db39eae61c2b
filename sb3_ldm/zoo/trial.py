"""
A trial of a search of hyperparameters is a run like any other, with checkpoints to go on from, that is evaluated on the
validation tasks alone: ``python -m sb3_ldm.zoo.trial``, with the options of ``python -m sb3_ldm.train``.
"""

import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.envs.interrupts import close_env
from sb3_ldm.envs.tasks import VALIDATION, TaskDistribution
from sb3_ldm.evaluation import task_distribution_of
from sb3_ldm.evaluation.callbacks import MetaEvalCallback
from sb3_ldm.results import RUN_FILE, newest_file
from sb3_ldm.results.evaluation_table import EVALUATIONS_FILE, load_evaluations
from sb3_ldm.zoo.agent_files import CHECKPOINT_FILES
from sb3_ldm.zoo.experiment import MetaExperimentManager
from sb3_ldm.zoo.options import REFUSED_IN_TRAINING
from sb3_ldm.zoo.script import run_script

REFUSED = 3  #: exit status of a trial whose hyperparameters do not go together


class TrialManager(MetaExperimentManager):
    """
    A run that is a trial: it looks at no task but those of training and validation, and leaves its curves but no agent.

    :param should_stop: called after each rollout
    """

    evaluation_repeats = 3
    keeps_best_model = False

    def __init__(self, *args: Any, should_stop: Callable[[], bool] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.should_stop = should_stop

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        env = self.create_envs(1)
        try:
            check_held_out(task_distribution_of(env), self.env_kwargs, self.eval_env_kwargs)
        finally:
            env.close()
        return super().setup_experiment()

    def splits(self, env: VecEnv, final: bool = False) -> tuple[str, ...]:
        return (VALIDATION,)

    def create_callbacks(self) -> None:
        super().create_callbacks()
        if self.should_stop is not None:
            self.callbacks.append(_StopCallback(self.should_stop))

    def learn(self, model: BaseAlgorithm) -> None:
        try:
            self._train(model)
        finally:
            evaluated = [callback.env for callback in self.callbacks if isinstance(callback, MetaEvalCallback)]
            for env in [model.env, *evaluated]:
                if env is not None:
                    close_env(env)

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        self._save_run(model, finished=model.num_timesteps >= self.n_timesteps)
        self._remove_checkpoint()


class _StopCallback(BaseCallback):
    """Ask after each rollout, when it may have been evaluated, whether to stop."""

    def __init__(self, should_stop: Callable[[], bool]):
        super().__init__()
        self.should_stop = should_stop
        self._stop = False

    def _on_rollout_end(self) -> None:
        self._stop = self.should_stop()

    def _on_step(self) -> bool:
        return not self._stop


def check_held_out(tasks: TaskDistribution, env_kwargs: Mapping[str, Any], eval_env_kwargs: Mapping[str, Any]) -> None:
    """
    :param tasks: of the environments
    :param env_kwargs: of the environments
    :param eval_env_kwargs: of those for evaluation
    :raises ValueError: if agents could learn from test tasks, or be judged by them
    """
    if VALIDATION not in tasks.splits:
        raise ValueError(
            f"env_kwargs={env_kwargs}: tuning needs held-out training tasks, since the test tasks must not be looked at; give "
            "--env-kwargs validation_tasks:6."
        )
    if env_kwargs.get("task_split", "train") != "train" or eval_env_kwargs != env_kwargs:
        raise ValueError(
            f"env_kwargs={env_kwargs}, eval_env_kwargs={eval_env_kwargs}: trials train on the training tasks and are "
            "evaluated on the held-out ones; leave task_split and --eval-env-kwargs out."
        )


def validation_returns(folder: Path) -> list[float]:
    """
    :param folder: a trial's own folder
    :return: mean returns on the validation tasks in the last episode of a meta-episode, one for each evaluation so far
    """
    path = newest_file(folder, EVALUATIONS_FILE)
    return [] if path is None else load_evaluations(path).select(VALIDATION).last_returns()[1].tolist()


def is_finished(folder: Path) -> bool:
    """
    :param folder: a trial's own folder
    :return: whether it was trained to its end
    """
    path = newest_file(folder, RUN_FILE)
    return path is not None and bool(json.loads(path.read_text(encoding="utf-8"))["finished"])


def remove_checkpoint(folder: Path) -> None:
    """
    :param folder: a trial's own folder, whose checkpoints are not needed any more
    """
    for name in CHECKPOINT_FILES:
        for path in folder.glob(f"*/*/{name}"):
            path.unlink()


def main(arguments: Sequence[str] | None = None, should_stop: Callable[[], bool] | None = None) -> None:
    """
    :param arguments: the command line, that of the process by default
    :param should_stop: called after each rollout
    """

    def manager(*args: Any, **kwargs: Any) -> TrialManager:
        return TrialManager(*args, should_stop=should_stop, **kwargs)

    run_script(manager, sys.argv[1:] if arguments is None else arguments, REFUSED_IN_TRAINING)


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, ValueError):
        traceback.print_exc()
        sys.exit(REFUSED)
