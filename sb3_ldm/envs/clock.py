"""One clock of the meta-episodes: at which step of which inner episode each worker is, and whether all of it was seen."""

from typing import Any, NamedTuple

import numpy as np

from sb3_ldm.envs.meta_episode import MetaEpisodeLayout


class Moment(NamedTuple):
    """Where the workers are in their meta-episodes, ``(n_envs,)`` each."""

    step: np.ndarray  #: steps of the meta-episode so far
    episode: np.ndarray  #: index of the inner episode
    episode_step: np.ndarray  #: steps of the inner episode so far
    whole: np.ndarray  #: whether the meta-episode was seen from its start on


class MetaEpisodeClock:
    """
    Follows the meta-episodes of all workers. Its owner advances it; others are handed a :class:`Moment` that never changes.

    :param layout: of the meta-episodes' observations
    :param n_envs: number of workers
    """

    def __init__(self, layout: MetaEpisodeLayout, n_envs: int):
        self.layout = layout
        self.n_envs = n_envs
        self.start()

    def start(self, at_start: np.ndarray | None = None) -> None:
        """
        Begin anew, where the workers were reset.

        :param at_start: whether each worker begins a meta-episode, ``(n_envs,)``: others are in the midst of one, which is not
            whole; None if all begin one
        """
        step, episode, episode_step = np.zeros((3, self.n_envs), dtype=np.int64)
        whole = np.ones(self.n_envs, dtype=bool) if at_start is None else at_start.astype(bool)
        self.now = Moment(step, episode, episode_step, whole)

    def advance(self, episode_ends: np.ndarray, dones: np.ndarray) -> None:
        """
        :param episode_ends: whether a step of each worker ended an inner episode, ``(n_envs,)``
        :param dones: whether it ended the meta-episode, ``(n_envs,)``
        """
        now, layout = self.now, self.layout
        step, episode, whole = now.step + 1, now.episode + episode_ends, now.whole
        # Longer than a meta-episode can be: somebody else reset the environments.
        lost = (step >= layout.meta_episode_steps) | (episode >= layout.episodes_per_task)
        if lost.any() or dones.any():
            lost &= ~dones
            whole = (whole | dones) & ~lost
            step[lost | dones] = episode[lost | dones] = 0
        self.now = Moment(step, episode, np.where(episode_ends | dones, 0, now.episode_step + 1), whole)

    def get_state(self) -> dict[str, Any]:
        """:return: where the workers are, as arrays"""
        return self.now._asdict()

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`get_state`, of as many workers
        """
        self.now = Moment(**{name: array.copy() for name, array in state.items()})
