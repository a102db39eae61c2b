"""The environment's own transitions, read back from a vectorised step of meta-episodes, and what agents see of them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, unwrap_vec_normalize

from sb3_ldm.envs.clock import MetaEpisodeClock, Moment
from sb3_ldm.envs.meta_episode import MetaEpisodeLayout


class Step(NamedTuple):
    """A true step of all workers: nothing of it is normalised, and where an episode ended, the next one does not show yet."""

    states: np.ndarray  #: s_t, ``(n_envs, state_dim)``
    actions: np.ndarray  #: a_t, indices ``(n_envs,)`` or vectors ``(n_envs, action_dim)``
    rewards: np.ndarray  #: r_{t+1}, ``(n_envs,)``
    next_states: np.ndarray  #: s_{t+1}, the state that an episode ended in where one ended, ``(n_envs, state_dim)``
    episode_ends: np.ndarray  #: whether it ended an inner episode, ``(n_envs,)``
    terminated: np.ndarray  #: whether the task itself ended it: no value follows; else a time limit did, ``(n_envs,)``
    dones: np.ndarray  #: whether it ended the meta-episode, ``(n_envs,)``
    tasks: np.ndarray  #: that the step was made in, ``(n_envs, task_dim)``
    at: Moment  #: where in their meta-episodes the workers were before it

    def first(self, n_envs: int) -> "Step":
        """:return: the step of the first of the workers"""
        if n_envs == len(self.dones):
            return self
        workers = slice(n_envs)
        at = Moment(*(array[workers] for array in self.at))
        return Step._make((*(array[workers] for array in self[:-1]), at))


class StepReader:
    """
    Reads back what steps of vectorised meta-episodes truly were, whatever a ``VecNormalize`` made of them. It owns the clock.

    :param layout: of the observations
    :param n_envs: number of workers
    """

    def __init__(self, layout: MetaEpisodeLayout, n_envs: int):
        self.layout = layout
        self.clock = MetaEpisodeClock(layout, n_envs)
        #: What the workers observe now, not normalised, ``(n_envs, layout.dim)``.
        self.observations = np.zeros((n_envs, layout.dim), dtype=np.float32)
        self._tasks = np.zeros((n_envs, 0))
        self._has_task = np.zeros(n_envs, dtype=bool)

    def start(self, env: VecEnv, obs: Any, at_start: np.ndarray | None = None) -> None:
        """
        Begin where environments have been reset.

        :param env: the environments
        :param obs: what their reset returned
        :param at_start: see :meth:`MetaEpisodeClock.start`
        """
        self.observations = original_obs(env, obs)
        self.clock.start(at_start)
        self._has_task[:] = False

    def read(
        self, env: VecEnv, actions: np.ndarray, obs: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> Step:
        """
        :param env: the environments
        :param actions: that they were given
        :param obs: what they returned, and so on
        :return: the step of all workers
        :raises ValueError: if something else than its last episode ended a meta-episode
        """
        check_whole(dones, infos)
        states = self.observations[:, self.layout.state]
        self.observations = original_obs(env, obs)
        next_states = self.observations[:, self.layout.state]
        episode_ends = (self.observations[:, self.layout.done_index] > 0.5) | dones
        terminated = np.zeros(len(dones), dtype=bool)
        if episode_ends.any():
            next_states = next_states.copy()
            for i in np.flatnonzero(episode_ends):
                next_states[i], terminated[i] = infos[i]["terminal_state"], infos[i]["terminated"]
        at = self.clock.now
        if dones.any():
            at = at._replace(whole=at.whole & ~self._parts_of_two(dones, infos))
        step = Step(
            states=states,
            actions=actions.reshape(len(dones)) if self.layout.discrete else actions,
            rewards=original_rewards(env, rewards),
            next_states=next_states,
            episode_ends=episode_ends,
            terminated=terminated,
            dones=dones,
            tasks=self._read_tasks(dones, infos),
            at=at,
        )
        self.clock.advance(episode_ends, dones)
        return step

    def _parts_of_two(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        """Whether each meta-episode that ended has another length than was seen: somebody else moved its environment."""
        seen = self.clock.now.step + 1
        lengths = [infos[i]["episode_lengths"].sum() if done else seen[i] for i, done in enumerate(dones)]
        return seen != np.array(lengths)

    def _read_tasks(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        # Tasks change with meta-episodes alone; at the end of one it is read again, as that is what is stored.
        if not self._has_task.all() or dones.any():
            self._tasks = np.array([info["task"] for info in infos])
            self._has_task = ~dones
        return self._tasks

    def check_rewards(self, step: Step) -> None:
        """
        :param step: that was read last
        :raises ValueError: if the agent was shown other rewards than it got
        """
        shown = self.observations[:, self.layout.reward_index]
        wrong = ~step.dones & ~np.isclose(shown, step.rewards, rtol=1e-3, atol=1e-5)
        for i in np.flatnonzero(wrong):
            raise ValueError(
                f"The agent was rewarded {step.rewards[i]} and shown {shown[i]}: a wrapper around the meta-episodes changes "
                "rewards. Wrap the environment inside of MetaEpisodeWrapper."
            )

    def get_state(self) -> dict[str, Any]:
        """:return: where the workers are, as arrays"""
        return {"observations": self.observations.copy(), "clock": self.clock.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`get_state`, of as many workers
        """
        self.observations = state["observations"].copy()
        self.clock.set_state(state["clock"])
        self._has_task[:] = False


def check_whole(dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
    """
    :param dones: whether the meta-episode ended, ``(n_envs,)``
    :param infos: infos of the step
    :raises ValueError: if something else than its last episode ended a meta-episode
    """
    for i in np.flatnonzero(dones):
        if "episode_returns" not in infos[i]:
            raise ValueError(
                "A meta-episode was cut before its last episode ended, by a time limit around it: leave max_episode_steps out "
                "of gym.register and gym.make, and give MetaEpisodeWrapper that of an episode."
            )


def normalizers(env: VecEnv) -> Iterator[VecNormalize]:
    """
    :param env: environments
    :return: every ``VecNormalize`` around them from the outside inwards, of which one may be for observations and another for
        rewards
    """
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            yield env
        env = env.venv


def _innermost(env: VecEnv) -> VecNormalize | None:
    """The ``VecNormalize`` that the environments' own observations and rewards get to."""
    return next(iter([*normalizers(env)][::-1]), None)


def original_obs(env: VecEnv, obs: Any) -> np.ndarray:
    """
    :param env: environments, with or without a ``VecNormalize``
    :param obs: what they returned last, ``(n_envs, dim)``
    :return: the observations before normalisation, ``(n_envs, dim)``
    """
    normalizer = _innermost(env)
    original = obs if normalizer is None else normalizer.get_original_obs()
    assert isinstance(original, np.ndarray)
    return original


def original_rewards(env: VecEnv, rewards: np.ndarray) -> np.ndarray:
    """
    :param env: environments, with or without a ``VecNormalize``
    :param rewards: what they returned last, ``(n_envs,)``
    :return: the rewards before normalisation, ``(n_envs,)``
    """
    normalizer = _innermost(env)
    return rewards if normalizer is None else normalizer.get_original_reward()


def normalized_rewards(env: VecEnv, rewards: np.ndarray) -> np.ndarray:
    """
    :param env: environments, with or without a ``VecNormalize``
    :param rewards: any, ``(n,)``
    :return: what agents get for them, with the statistics as they are, ``(n,)``
    """
    for normalizer in [*normalizers(env)][::-1]:
        rewards = normalizer.normalize_reward(rewards)
    return rewards


def normalized_obs(env: VecEnv, obs: np.ndarray) -> np.ndarray:
    """
    :param env: environments, with or without a ``VecNormalize``
    :param obs: any, ``(n, dim)``
    :return: what agents are shown of them, with the statistics as they are, ``(n, dim)``
    """
    for normalizer in [*normalizers(env)][::-1]:
        obs = normalizer.normalize_obs(obs)  # type: ignore[assignment]
    return obs


def normalizes_observations(env: VecEnv) -> bool:
    """
    :param env: environments, with or without a ``VecNormalize``
    :return: whether agents see normalised observations
    """
    return any(normalizer.norm_obs for normalizer in normalizers(env))


def normalizes_rewards(env: VecEnv) -> bool:
    """
    :param env: environments, with or without a ``VecNormalize``
    :return: whether agents are trained on normalised rewards
    """
    return any(normalizer.norm_reward for normalizer in normalizers(env))


def has_statistics(normalizer: VecNormalize) -> bool:
    """
    :param normalizer: of environments
    :return: whether it has seen observations, or need not
    """
    rms = getattr(normalizer, "obs_rms", None)
    return not normalizer.norm_obs or not isinstance(rms, RunningMeanStd) or rms.count >= 1.0


def normalization_problem(trained_normalized: bool, env: VecEnv, needs_statistics: bool = True) -> str | None:
    """
    :param trained_normalized: whether an agent was trained with normalised observations
    :param env: environments that it is to act in
    :param needs_statistics: whether theirs are those that it will see observations by
    :return: why it would see something else than in its training; None if it would not
    """
    normalizer = unwrap_vec_normalize(env)
    if trained_normalized:
        wrap = "wrap it in the same way, with VecNormalize.load(path, venv) for the statistics of the training."
        if normalizer is None:
            return f"env={env} has no VecNormalize, but the model was trained with one: {wrap}"
        if not normalizer.norm_obs:
            return f"env={env} has a VecNormalize with norm_obs=False, but the model was trained with norm_obs=True: {wrap}"
        if needs_statistics and not has_statistics(normalizer):
            return f"env={env} has a VecNormalize that has seen no observations, but the model was trained with one: {wrap}"
    elif normalizer is not None and normalizer.norm_obs:
        return (
            f"env={env} has a VecNormalize, but the model was trained on observations as they are: leave it out, or give it "
            "norm_obs=False."
        )
    return None
