"""Episodes of several tasks side by side, and the credit that their steps get: none from one episode to the next."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.gradient.baseline import linear_baseline


class Episodes(NamedTuple):
    """Steps of episodes; where an episode was shorter than the longest, its last ones are masked and all 0."""

    observations: th.Tensor  #: as the policy saw them, ``(n_tasks, n_episodes, n_steps, obs_dim)``
    actions: th.Tensor  #: as the policy drew them, ``(n_tasks, n_episodes, n_steps, ...)``
    rewards: th.Tensor  #: of the environment, ``(n_tasks, n_episodes, n_steps)``
    mask: th.Tensor  #: whether there was such a step, bool, ``(n_tasks, n_episodes, n_steps)``

    def of_tasks(self, tasks: Any) -> "Episodes":
        """:return: those of some tasks, by index"""
        return Episodes(*(part[tasks] for part in self))


class Credited(NamedTuple):
    """Episodes of which each step has its credit."""

    episodes: Episodes
    returns: th.Tensor  #: from each step on; less ``values`` they are advantages, standardised for each task, ``(n, e, s)``
    values: th.Tensor  #: of the baseline, on the same scale, ``(n, e, s)``

    def of_tasks(self, tasks: Any) -> "Credited":
        """:return: those of some tasks, by index"""
        return Credited(self.episodes.of_tasks(tasks), self.returns[tasks], self.values[tasks])

    @property
    def advantages(self) -> th.Tensor:
        """``(n_tasks, n_episodes, n_steps)``"""
        return self.returns - self.values

    def mean(self, of_steps: th.Tensor) -> th.Tensor:
        """
        :param of_steps: ``(n_tasks, n_episodes, n_steps)``
        :return: the mean over the steps of each task, ``(n_tasks,)``
        """
        mask = self.episodes.mask
        return (of_steps * mask).sum((1, 2)) / mask.sum((1, 2))


def discounted_returns(rewards: th.Tensor, gamma: float) -> th.Tensor:
    """
    :param rewards: of episodes, 0 behind their ends, ``(..., n_steps)``
    :param gamma: discount factor
    :return: discounted sums of the rewards from each step on, ``(..., n_steps)``
    """
    steps, following = [], th.zeros_like(rewards[..., 0])
    for reward in rewards.flip(-1).unbind(-1):
        following = reward + gamma * following
        steps.append(following)
    return th.stack(steps[::-1], -1)


def credit(episodes: Episodes, states: th.Tensor, gamma: float, gae_lambda: float) -> Credited:
    """
    Advantages by the generalised estimator and a linear baseline, standardised over the steps of each task.

    :param episodes: of several tasks
    :param states: what the baseline sees of them, ``(n_tasks, n_episodes, n_steps, state_dim)``
    :param gamma: discount factor
    :param gae_lambda: of the generalised advantage estimator; 1 for returns minus the baseline
    :return: the episodes with their credit
    :raises ValueError: if an advantage is no finite number
    """
    mask = episodes.mask
    returns = discounted_returns(episodes.rewards, gamma)
    values = linear_baseline(states, returns, mask)
    following = th.cat([values[..., 1:], th.zeros_like(values[..., :1])], -1)
    advantages = discounted_returns((episodes.rewards + gamma * following - values) * mask, gamma * gae_lambda)
    n = mask.sum((1, 2), keepdim=True)
    mean = (advantages * mask).sum((1, 2), keepdim=True) / n
    centred = (advantages - mean) * mask
    scale = (centred.square().sum((1, 2), keepdim=True) / n).sqrt() + 1e-8
    if not bool(th.isfinite(scale).all()):
        raise ValueError(
            "The advantages are not finite, NaN or too large: rewards or observations are too large for gamma="
            f"{gamma} and gae_lambda={gae_lambda}; scale them, or use VecNormalize."
        )
    return Credited(episodes, centred / scale + values / scale, values / scale)


class AdaptationBuffer:
    """
    The meta-episodes of a rollout, one of each worker, by their episodes.

    :param buffer_size: not used, as its size is that of meta-episodes
    :param observation_space: of meta-episodes
    :param action_space: of the policy
    :param device: of the tensors
    :param gae_lambda: of the generalised advantage estimator
    :param gamma: discount factor
    :param n_envs: number of workers
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "cpu",
        gae_lambda: float = 1.0,
        gamma: float = 0.99,
        n_envs: int = 1,
    ):
        self.layout = observation_layout(observation_space)
        self.action_space, self.device, self.gae_lambda, self.gamma, self.n_envs = (
            action_space,
            th.device(device),
            gae_lambda,
            gamma,
            n_envs,
        )
        self._is_discrete = isinstance(action_space, spaces.Discrete)
        self._arrays: tuple[np.ndarray, ...] | None = None

    def reset(self, layout: Any = None) -> None:
        """
        Forget all.

        :param layout: of the meta-episodes to come, None for the same
        """
        self.layout = self.layout if layout is None else layout
        shape = (self.n_envs, self.layout.episodes_per_task, self.layout.max_episode_steps)
        action_shape = () if self._is_discrete else (self.layout.action_dim,)
        self._arrays = (
            np.zeros((*shape, self.layout.dim), dtype=np.float32),
            np.zeros((*shape, *action_shape), dtype=np.int64 if self._is_discrete else np.float32),
            np.zeros(shape, dtype=np.float32),
            np.zeros(shape, dtype=bool),
        )
        self.n_episodes = np.zeros(self.n_envs, dtype=np.int64)  #: that have ended, of each worker
        self._step = np.zeros(self.n_envs, dtype=np.int64)

    def add(self, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray, ends: np.ndarray) -> None:
        """
        Add a step of all workers; those that have all of their episodes are left out.

        :param observations: before it, as the policy saw them, ``(n_envs, obs_dim)``
        :param actions: as the policy drew them, ``(n_envs, ...)``
        :param rewards: of the environment, ``(n_envs,)``
        :param ends: whether it ended an episode, ``(n_envs,)``
        """
        assert self._arrays is not None
        runs = np.flatnonzero(self.n_episodes < self.layout.episodes_per_task)
        at = runs, self.n_episodes[runs], self._step[runs]
        there_is = np.ones(self.n_envs, dtype=bool)
        for array, step in zip(self._arrays, (observations, actions, rewards, there_is), strict=True):
            array[at] = step[runs]
        self._step[runs] += 1
        ended = runs[ends[runs]]
        self.n_episodes[ended] += 1
        self._step[ended] = 0

    @property
    def full(self) -> bool:
        """Whether each worker has all episodes of a meta-episode."""
        return bool((self.n_episodes >= self.layout.episodes_per_task).all())

    def episodes(self, first: int, last: int, workers: Any = slice(None)) -> Episodes:
        """
        :param first: of the episodes
        :param last: behind the last one
        :param workers: indices of workers
        :return: these episodes
        """
        assert self._arrays is not None
        observations, actions, rewards, mask = (array[workers, first:last] for array in self._arrays)
        longest = max(1, int(mask.any((0, 1)).sum()))
        parts = (np.ascontiguousarray(part[:, :, :longest]) for part in (observations, actions, rewards, mask))
        return Episodes(*(th.as_tensor(part, device=self.device) for part in parts))

    def returns(self) -> np.ndarray:
        """:return: sums of the rewards of each episode, ``(n_envs, n_episodes)``"""
        assert self._arrays is not None
        return self._arrays[2].sum(-1)
