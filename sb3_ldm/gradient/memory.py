"""What an agent that acts knows of the tasks: the steps that it has seen, and the parameters that it has adapted to them."""

from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch as th

from sb3_ldm.gradient.episodes import Episodes
from sb3_ldm.gradient.policies import Parameters


class Seen(NamedTuple):
    """A step of all environments, and what came of it."""

    observations: np.ndarray  #: ``(n_envs, obs_dim)``
    actions: np.ndarray  #: ``(n_envs, ...)``


class Memory(NamedTuple):
    """
    The state of ``predict``. Calls do not change what they were given; the list of steps is shared by those that follow each
    other, each of which knows its length.
    """

    steps: list[Seen]  #: of all environments
    outcomes: list[tuple[np.ndarray, np.ndarray]]  #: reward and end of an episode that each step but the last led to
    n_seen: int  #: steps of the list that this memory has
    first: np.ndarray  #: step that the episodes for each environment's next gradient step begin with, ``(n_envs,)``
    n_episodes: np.ndarray  #: that have ended since, ``(n_envs,)``
    n_steps: np.ndarray  #: gradient steps in this meta-episode, ``(n_envs,)``
    parameters: Parameters | None  #: of each environment, stacked; None while all have the initial ones
    forgotten: np.ndarray  #: whether a meta-episode begins here, ``(n_envs,)``

    @classmethod
    def empty(cls, n_envs: int) -> "Memory":
        """
        :param n_envs: number of environments
        :return: of nothing
        """
        none = np.zeros(n_envs, dtype=np.int64)
        return cls([], [], 0, none, none, none, None, np.ones(n_envs, dtype=bool))

    @staticmethod
    def refuse(state: Any) -> NoReturn:
        """
        :param state: that is no memory
        :raises ValueError: always
        """
        raise ValueError(f"state is {type(state).__name__}, expected what predict returned, or None at first")

    @property
    def n_envs(self) -> int:
        """Number of environments."""
        return len(self.first)

    def checked(self, n_envs: int) -> "Memory":
        """
        :param n_envs: number of observations
        :return: itself
        :raises ValueError: if it is of another number of environments
        """
        if self.n_envs != n_envs:
            raise ValueError(
                f"state is of {self.n_envs} environments, but observation of {n_envs}: give each environment its own memory, "
                "or None to begin anew"
            )
        return self

    def noticed(self, starts: np.ndarray, rewards: np.ndarray, ends: np.ndarray) -> "Memory":
        """
        Notice what the last step led to.

        :param starts: whether a meta-episode begins, ``(n_envs,)``
        :param rewards: of the last step, ``(n_envs,)``
        :param ends: whether it ended an episode, ``(n_envs,)``
        :return: the memory with it
        """
        memory = self
        if self.n_seen > 0 and self.n_seen == len(self.outcomes) + 1:
            self.outcomes.append((rewards, ends))
        elif 0 < self.n_seen <= len(self.outcomes):  # somebody goes on from an earlier state
            steps, outcomes = self.steps[: self.n_seen], self.outcomes[: self.n_seen - 1]
            memory = self._replace(steps=steps, outcomes=[*outcomes, (rewards, ends)])
        counted = memory.n_episodes + (ends & (self.n_seen > memory.first))
        return memory._replace(
            first=np.where(starts, self.n_seen, memory.first),
            n_episodes=np.where(starts, 0, counted),
            n_steps=np.where(starts, 0, memory.n_steps),
            forgotten=starts,
        )

    def due(self, episodes: int, steps: int) -> np.ndarray:
        """
        :param episodes: before a gradient step
        :param steps: gradient steps in a meta-episode
        :return: indices of environments whose next gradient step is due
        """
        return np.flatnonzero((self.n_steps < steps) & (self.n_episodes >= episodes))

    def episodes(self, task: int, n: int, device: th.device) -> Episodes:
        """
        :param task: index of the environment
        :param n: number of its episodes
        :param device: of the tensors
        :return: the episodes that it has seen since the last gradient step, of one task
        """
        steps = range(self.first[task], self.n_seen)
        ends = np.array([self.outcomes[step][1][task] for step in steps])
        last = np.flatnonzero(ends)[:n]
        lengths = np.diff(last, prepend=-1)
        shape = (1, n, int(lengths.max()))
        episode = np.repeat(np.arange(n), lengths)
        within = np.concatenate([np.arange(length) for length in lengths])

        def of(values: list[Any]) -> th.Tensor:
            arranged = np.zeros((*shape, *np.shape(values[0])), dtype=np.asarray(values[0]).dtype)
            arranged[0, episode, within] = values[: len(episode)]
            return th.as_tensor(arranged, device=device)

        return Episodes(
            of([self.steps[step].observations[task] for step in steps]),
            of([self.steps[step].actions[task] for step in steps]),
            of([np.float32(self.outcomes[step][0][task]) for step in steps]),
            of([np.True_ for _ in steps]),
        )

    def adapted(self, task: int, parameters: Parameters) -> "Memory":
        """
        :param task: index of an environment
        :param parameters: of all environments, after its gradient step
        :return: the memory with them, which looks for the episodes of the next step
        """
        this = np.arange(self.n_envs) == task
        return self._replace(
            parameters=parameters,
            first=np.where(this, self.n_seen, self.first),
            n_episodes=np.where(this, 0, self.n_episodes),
            n_steps=self.n_steps + this,
        )

    def with_step(self, observations: np.ndarray, actions: np.ndarray, n_steps: int) -> "Memory":
        """
        :param observations: that were acted on, ``(n_envs, obs_dim)``
        :param actions: as the policy drew them, ``(n_envs, ...)``
        :param n_steps: gradient steps in a meta-episode
        :return: the memory with this step, and without those that no gradient step will need
        """
        needed = self.first[self.n_steps < n_steps]
        oldest = int(needed.min()) if len(needed) else self.n_seen
        steps, outcomes, first, n_seen = self.steps, self.outcomes, self.first, self.n_seen
        if oldest > n_seen // 2:
            steps, outcomes = steps[oldest:n_seen], outcomes[oldest:n_seen]
            first, n_seen = np.maximum(first - oldest, 0), n_seen - oldest
        elif len(steps) > n_seen:  # somebody goes on from an earlier state
            steps, outcomes = steps[:n_seen], outcomes[:n_seen]
        steps.append(Seen(observations.copy(), actions))
        return self._replace(steps=steps, outcomes=outcomes, first=first, n_seen=n_seen + 1)
