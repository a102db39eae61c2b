"""Small environments and comparisons that several test files share."""

import csv
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_ldm.envs import FiniteTaskDistribution, TaskEnvMixin, make_meta_vec_env
from sb3_ldm.envs.meta_episode import MetaEpisodeWrapper

#: Imaginary tasks as the paper's text has them, from the start, whatever the decoder knows.
PAPER: dict[str, Any] = {
    "imagination_starts": 0,
    "imagination_requires": None,
    "n_partners": 14,
    "mixture_weights": "per_worker",
    "mixture_time": "current",
    "imaginary_reward": "mean",
    "imagination_dropout": "step",
    "n_candidates": 1,
    "require_goal": False,
}


class Drift(TaskEnvMixin, gym.Env):
    """A point that drifts by the action plus the task; ends at random, starts at random, and counts its resets."""

    def __init__(self, end_probability=0.2, reward=None):
        values = np.array([[0.1], [0.2], [0.3], [-0.1], [-0.2]])
        self.set_tasks(FiniteTaskDistribution({"train": values[:3], "test": values[3:]}), "train")
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), dtype=np.float64)
        self.action_space = spaces.Box(0.5, 1.0, (2,), dtype=np.float32)
        self.end_probability = end_probability
        self.reward = reward
        self.resets = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        task = self.select_task(options)
        self.resets.append({"seed": seed, "options": options})
        self.position = self.np_random.normal(size=2)
        return self.position.copy(), {"task": task, "resets": len(self.resets)}

    def step(self, action):
        self.position = self.position + action + self.task
        reward = float(self.position.sum()) if self.reward is None else self.reward
        terminated = bool(self.np_random.random() < self.end_probability)
        return self.position.copy(), reward, terminated, False, {"height": self.position[1]}


class Bandit(TaskEnvMixin, gym.Env):
    """Three arms, one of which pays 1 and the others 0; the third one pays in the test task only."""

    def __init__(self):
        self.set_tasks(FiniteTaskDistribution({"train": np.array([[0], [1]]), "test": np.array([[2]])}), "train")
        self.observation_space = spaces.Box(0, 1, (1,), dtype=np.float32)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(1, dtype=np.float32), {"task": self.select_task(options)}

    def step(self, action):
        paid = bool(action == self.task[0])
        return np.ones(1, dtype=np.float32), float(paid), False, False, {"is_success": paid}


def vec_env(make, n_envs: int, episodes: int = 2, horizon: int = 4, seed: int = 0, subproc: bool = False) -> VecEnv:
    """Monitored meta-episodes of an environment."""

    def make_one():
        return Monitor(MetaEpisodeWrapper(make(), episodes, max_episode_steps=horizon))

    env = SubprocVecEnv([make_one] * n_envs) if subproc else DummyVecEnv([make_one] * n_envs)
    env.seed(seed)
    return env


def grid_vec_env(n_envs: int, episodes: int = 2, horizon: int = 6, seed: int = 0, backend: str = "auto", **kwargs) -> VecEnv:
    """Short meta-episodes of the gridworld."""
    options = {"episodes_per_task": episodes, "horizon": horizon, **kwargs}
    return make_meta_vec_env("GridNavi-v0", n_envs, seed=seed, backend=backend, env_kwargs=options)


def parameters(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    """Copies of every network's parameters."""
    return {
        f"{name}/{key}": value.clone()
        for name, state in model.get_parameters().items()
        if not name.endswith("optimizer")
        for key, value in state.items()
    }


def differing(one: dict[str, th.Tensor], two: dict[str, th.Tensor]) -> list[str]:
    """Names of the parameters that are not equal bit for bit."""
    assert one.keys() == two.keys() and one
    return [name for name in one if not th.equal(one[name], two[name])]


def assert_same_optimizer(one: dict, two: dict) -> None:
    """Two state dicts of an optimiser are equal bit for bit."""
    assert one["param_groups"] == two["param_groups"] and one["state"].keys() == two["state"].keys()
    for key, state in one["state"].items():
        for name, value in state.items():
            assert th.equal(value, two["state"][key][name]), f"{name} of parameter {key}"


def small_run(folder: Path, algo: str, n_timesteps: int) -> list[str]:
    """The command line of a run that takes a second."""
    small = {"n_envs": 4, "batch_size": 20} | ({"vae_batch_size": 3} if algo in ("ldm", "varibad") else {})
    options = ["--algo", algo, "--env", "GridNavi-v0", "--env-kwargs", "horizon:5", "episodes_per_task:2", "--seed", "0"]
    options += ["-f", str(folder), "--eval-freq", "-1", "-n", str(n_timesteps)]
    return [*options, "-params", *(f"{name}:{value}" for name, value in small.items())]


def evaluated_timesteps(run: Path) -> list[int]:
    """When a run was evaluated."""
    with open(run / "evaluations.csv") as file:
        return sorted({int(row["timesteps"]) for row in csv.DictReader(file)})


@contextmanager
def user_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """
    :return: a list that holds the UserWarnings of the body when it has ended, and nothing of what a library deprecates or
        the garbage collector finds unclosed in the meantime
    """
    told: list[warnings.WarningMessage] = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            yield told
        finally:
            told += [one for one in seen if issubclass(one.category, UserWarning)]


@contextmanager
def warns_here(match: str, file: str) -> Iterator[None]:
    """
    The body gives a UserWarning.

    :param match: what its message has, a regular expression
    :param file: whose line it points at
    """
    with user_warnings() as told:
        yield
    assert any(re.search(match, str(one.message)) and one.filename == file for one in told), [str(one) for one in told]
