"""What an agent is to everything that runs it."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.data import MetaEpisodeBatch
from sb3_ldm.envs.tasks import TaskProbes


@runtime_checkable
class MetaLearner(Protocol):
    """
    An agent that adapts to the task that it is in while it acts: all that evaluations, recordings, videos and ``enjoy`` know.

    A meta-episode is several episodes in a row on one task, which nobody names. What an agent learns of the task on the way
    is its ``state``, whatever that is: the memory of a recurrent network, the posterior of a latent context, parameters
    after some gradient steps, or None of an agent that does not adapt. It gets the state that it returned at the step
    before, and nothing else is handed over, for each observation brings what there is to learn from: the environment's
    state, the previous action, the previous reward, and whether an episode has just ended (``env.observation_space.layout``
    of meta-episodes names the columns). Every algorithm of Stable-Baselines3 is such an agent.

    What an agent may have besides is asked for by name and may be missing: a ``device`` that it computes on;
    ``get_env()`` and ``get_vec_normalize_env()``, the environments that it is trained in and their normalisation, which are
    lent to evaluations; ``trained_normalized``, whether its observations must be normalised; ``save``, so that callbacks can
    keep the best one; and the methods of :class:`ShowsBeliefs` and :class:`SeesDifferently`.
    """

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """
        :param observation: of each environment, ``(n_envs, obs_dim)``
        :param state: what this method returned at the step before, None at the first one
        :param episode_start: whether a new meta-episode begins, ``(n_envs,)``: what was learned in that environment is
            of another task, and to be forgotten. The ends of episodes inside of a meta-episode are in the observation instead
        :param deterministic: whether to take the most likely actions instead of sampling them
        :return: actions ``(n_envs, ...)``, and what is known of the tasks now
        """
        ...


@runtime_checkable
class ShowsBeliefs(Protocol):
    """An agent that can tell which rewards it expects, which figures of trajectories then show beside them."""

    def belief_maps(self, batch: MetaEpisodeBatch, probes: TaskProbes, times: np.ndarray) -> np.ndarray:
        """
        :param batch: meta-episodes that it has gone through
        :param probes: transitions that are typical of each task
        :param times: after how many transitions of a meta-episode to look, ``(n_times,)``
        :return: expected rewards, ``(batch, n_times, n_probes)``
        """
        ...


@runtime_checkable
class SeesDifferently(Protocol):
    """An agent that learns from recorded meta-episodes as it is shown them, and not as they are."""

    def agent_view(self, env: VecEnv) -> Callable[[np.ndarray], np.ndarray] | None:
        """
        :param env: where meta-episodes come from
        :return: what the agent is shown of its observations ``(..., obs_dim)``; None for all as it is
        """
        ...
