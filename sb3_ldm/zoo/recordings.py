"""What a trained agent does and imagines, recorded as small files that figures are drawn from."""

from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_ldm.data.probes import get_probes, has_full_length, visited_probes
from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.envs.steps import StepReader
from sb3_ldm.evaluation import MetaLearner, ShowsBeliefs, evaluate_meta, evaluation_tasks, record_meta, task_distribution_of
from sb3_ldm.files import save_arrays
from sb3_ldm.results.evaluation_table import load_evaluations


def save_trajectories(
    model: MetaLearner, env: VecEnv, path: Path, split: str = "test", deterministic: bool = False, seed: int = 0
) -> None:
    """
    Save one meta-episode on every task of a split (Figure 8a): ``tasks``, ``split``, ``positions`` and, of agents
    with ``belief_maps`` (:class:`~sb3_ldm.evaluation.ShowsBeliefs`), ``beliefs``.

    ``positions`` ``(n_tasks, N, H + 1, task_dim)`` names for each state the task whose probe it is nearest to, on the
    gridworld the agent's cell; ``beliefs`` ``(n_tasks, N, n_probes)`` is the decoder's reward of each probe at the ends of the
    N episodes. Nothing is saved where episodes end early, which have no such form.

    :param model: the agent
    :param env: environments with probes and episodes of one length, to run on
    :param path: the npz file
    :param split: the tasks
    :param deterministic: whether the agent takes its most likely actions
    :param seed: of the agent's actions
    """
    layout, probes = observation_layout(env.observation_space), get_probes(env)
    tasks = task_distribution_of(env).tasks(split)
    batch = record_meta(model, env, tasks, deterministic=deterministic, seed=seed)
    if not has_full_length(batch, layout):
        return
    arrays: dict[str, Any] = {
        "tasks": tasks,
        "split": np.full(len(tasks), split),
        "positions": probes.tasks[visited_probes(batch, layout, probes)],
    }
    if isinstance(model, ShowsBeliefs):
        times = np.arange(1, layout.episodes_per_task + 1) * layout.max_episode_steps
        arrays["beliefs"] = model.belief_maps(batch, probes, times).astype(np.float32)
    save_arrays(path, **arrays)


def has_positions(env: VecEnv) -> bool:
    """
    :param env: environments that have been reset
    :return: whether they tell the ``position`` of a robot, a vector
    """
    return env.has_attr("position") and np.ndim(env.get_attr("position", 0)[0]) == 1


class PathRecorder(VecEnvWrapper):
    """
    Gathers where robots are before each step, for whole meta-episodes.

    :param venv: environments that tell their ``position``
    """

    def __init__(self, venv: VecEnv):
        super().__init__(venv)
        self.layout = observation_layout(venv.observation_space)
        self.reader = StepReader(self.layout, self.num_envs)
        #: Of each meta-episode that ended, its task and its paths ``(N, H, position_dim)``, NaN after an early end.
        self.finished: list[tuple[np.ndarray, np.ndarray]] = []

    def reset(self) -> VecEnvObs:
        obs = self.venv.reset()
        self.reader.start(self.venv, obs)
        shape = (self.num_envs, self.layout.episodes_per_task, self.layout.max_episode_steps)
        self._paths = np.full((*shape, len(self.get_attr("position", 0)[0])), np.nan)
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        now = self.reader.clock.now
        self._paths[np.arange(self.num_envs), now.episode, now.episode_step] = self.get_attr("position")
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        step = self.reader.read(self.venv, self._actions, obs, rewards, dones, infos)
        for i in np.flatnonzero(dones):
            self.finished.append((step.tasks[i], self._paths[i].copy()))
            self._paths[i] = np.nan
        return obs, rewards, dones, infos


def save_paths(
    model: MetaLearner, env: VecEnv, path: Path, split: str = "eval", deterministic: bool = True, seed: int = 0
) -> None:
    """
    Save where a robot goes in one meta-episode on every task of a split (Figure 8b to d): ``tasks``, ``split``,
    ``deterministic`` and ``paths`` ``(n_tasks, N, H, position_dim)``, the position before each step.

    :param model: the agent
    :param env: environments that tell their ``position``, to run on
    :param path: the npz file
    :param split: the tasks
    :param deterministic: whether the agent takes its most likely actions
    :param seed: of the environments and of the agent's actions
    """
    tasks, recorder = evaluation_tasks(env, split), PathRecorder(env)
    evaluate_meta(model, recorder, tasks=tasks, deterministic=deterministic, seed=seed)
    # Sub-environments without a task of their own repeat one; the first of each is taken.
    found = {tuple(task): paths for task, paths in reversed(recorder.finished)}
    paths = np.stack([found[tuple(task)] for task in tasks]).astype(np.float32)
    save_arrays(path, tasks=tasks, split=np.full(len(tasks), split), deterministic=deterministic, paths=paths)


def save_zoo_evaluations(evaluations: Path, path: Path, split: str) -> None:
    """
    The evaluations of a run as SB3's ``EvalCallback`` saves them, for rl_zoo3's plots: an episode is a whole meta-episode.

    :param evaluations: ``evaluations.csv``; nothing is written if there is none
    :param path: file to write, ``evaluations.npz``
    :param split: the split to take
    """
    if not evaluations.is_file():
        return
    table = load_evaluations(evaluations).select(split)
    if len(table) == 0:
        return
    # Those of the same tasks and episodes alone: a run may go on with other ones.
    evaluated, n_rows = np.unique(table.timesteps, return_counts=True)
    table = table.where(np.isin(table.timesteps, evaluated[n_rows == n_rows[-1]]))
    timesteps = np.unique(table.timesteps)
    shape = (len(timesteps), -1, int(table.episode.max(initial=1)))
    order = np.argsort(table.timesteps, kind="stable")  # rows of a meta-episode lie one behind the other
    arrays = {
        "results": table.returns[order].reshape(shape).sum(-1),
        "ep_lengths": table.lengths[order].reshape(shape).sum(-1),
    }
    if table.has_successes:
        arrays["successes"] = table.successes[order].reshape(shape)[..., -1]
    save_arrays(path, timesteps=timesteps, **arrays)
