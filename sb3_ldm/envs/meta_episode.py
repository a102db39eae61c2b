"""N episodes of one task strung together into one episode, the *meta-episode* (the BAMDP of paper section 2).

The agent must see what it needs to infer the task, so the observation is flat and holds, in this order,
``[state, previous action, previous reward, done flag of the inner episode]``. The previous action is one-hot if actions
are discrete. At the start of a meta-episode everything but the state is 0; at the start of each later episode of the
same task the done flag is 1 and the action and the reward are those of the step that ended the episode before.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import common as gym_wrappers

from sb3_ldm.checks import check_integer
from sb3_ldm.envs import env_state
from sb3_ldm.envs.tasks import Task, check_task_env

#: gymnasium's own class, whether or not rl_zoo3 has put a subclass in its place, which writes into the environment's infos.
TimeLimit: type[gym_wrappers.TimeLimit] = next(
    cls for cls in gym_wrappers.TimeLimit.__mro__ if cls.__module__ == gym_wrappers.__name__
)


@lru_cache
def _one_hot_table(n: int) -> np.ndarray:
    return np.eye(n, dtype=np.float32)


@dataclass(frozen=True)
class MetaEpisodeLayout:
    """
    Where things are in a meta-episode's observation, and how long a meta-episode is.

    :param state_dim: length of the environment's own observation
    :param action_dim: number of discrete actions, or length of an action vector
    :param discrete: whether actions are discrete, one-hot in the observation
    :param episodes_per_task: episodes in a meta-episode, N in the paper
    :param max_episode_steps: steps in an episode at most, H in the paper
    :raises ValueError: if a number is not positive
    """

    state_dim: int
    action_dim: int
    discrete: bool
    episodes_per_task: int
    max_episode_steps: int

    def __post_init__(self) -> None:
        for name in ("state_dim", "action_dim", "episodes_per_task", "max_episode_steps"):
            value = getattr(self, name)
            check_integer(name, value, 1)

    @property
    def dim(self) -> int:
        """Length of the whole observation."""
        return self.state_dim + self.action_dim + 2

    @property
    def state(self) -> slice:
        """The environment's own observation s_t."""
        return slice(0, self.state_dim)

    @property
    def action(self) -> slice:
        """The previous action a_{t-1}."""
        return slice(self.state_dim, self.state_dim + self.action_dim)

    @property
    def reward(self) -> slice:
        """The previous reward r_{t-1}, one number; see :attr:`reward_index`."""
        return slice(self.reward_index, self.reward_index + 1)

    @property
    def done(self) -> slice:
        """Whether an inner episode ended just before, one number; see :attr:`done_index`."""
        return slice(self.done_index, self.done_index + 1)

    @property
    def reward_index(self) -> int:
        """Position of the previous reward."""
        return self.state_dim + self.action_dim

    @property
    def done_index(self) -> int:
        """Position of the done flag."""
        return self.state_dim + self.action_dim + 1

    @property
    def meta_episode_steps(self) -> int:
        """Steps in a meta-episode at most, H+ = N * H in the paper."""
        return self.episodes_per_task * self.max_episode_steps

    def encode_actions(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: indices from 0, ``(...)``, if discrete; else vectors, ``(..., action_dim)``
        :return: what stands in the observation, ``(..., action_dim)``, float32
        """
        return _one_hot_table(self.action_dim)[actions] if self.discrete else np.asarray(actions, dtype=np.float32)

    def observations(self, states: np.ndarray, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray) -> np.ndarray:
        """
        Assemble the observations that follow steps; works on one step (``...`` empty) or on many.

        :param states: ``(..., state_dim)``
        :param actions: the actions taken, see :meth:`encode_actions`
        :param rewards: the rewards received, ``(...)``
        :param dones: whether the steps ended an inner episode, ``(...)``
        :return: new array, ``(..., dim)``, float32
        """
        observations = np.empty((*states.shape[:-1], self.dim), dtype=np.float32)
        observations[..., self.state] = states
        observations[..., self.action] = self.encode_actions(actions)
        observations[..., self.reward_index] = rewards
        observations[..., self.done_index] = dones
        return observations

    def first_observations(self, states: np.ndarray) -> np.ndarray:
        """
        Assemble the observations that start meta-episodes.

        :param states: ``(..., state_dim)``
        :return: new array with zeros besides the states, ``(..., dim)``, float32
        """
        observations = np.zeros((*states.shape[:-1], self.dim), dtype=np.float32)
        observations[..., self.state] = states
        return observations


class MetaObservationSpace(spaces.Box):
    """
    The flat observation space of a meta-episode, which carries its :class:`MetaEpisodeLayout`.

    It equals any ``Box`` with the same bounds, so a model may be loaded with another number of episodes per task.

    :param state_space: of the environment itself, a flat ``Box``
    :param action_space: of the environment, ``Discrete`` or a 1-D ``Box``
    :param episodes_per_task: episodes in a meta-episode
    :param max_episode_steps: steps in an episode at most
    :raises ValueError: if a space is of another kind (with a remedy) or a number is not positive
    """

    layout: MetaEpisodeLayout

    def __init__(
        self, state_space: spaces.Space, action_space: spaces.Space, episodes_per_task: int, max_episode_steps: int
    ) -> None:
        if not isinstance(state_space, spaces.Box) or len(state_space.shape) != 1:
            raise ValueError(
                f"observation_space={state_space} must be a Box with one dimension: "
                "wrap the environment in gymnasium.wrappers.FlattenObservation"
            )
        if isinstance(action_space, spaces.Discrete):
            if action_space.start != 0:
                raise ValueError(
                    f"action_space={action_space} must start at 0, as the actions of SB3's agents do: wrap the environment in "
                    "gymnasium.wrappers.TransformAction"
                )
            action_dim, action_low, action_high = int(action_space.n), np.zeros(action_space.n), np.ones(action_space.n)
        elif isinstance(action_space, spaces.Box) and len(action_space.shape) == 1:
            # No action precedes the first observation, so 0 must lie within the bounds.
            action_dim = action_space.shape[0]
            action_low, action_high = np.minimum(action_space.low, 0), np.maximum(action_space.high, 0)
        else:
            raise ValueError(f"action_space={action_space} must be Discrete or a Box with one dimension")
        layout = MetaEpisodeLayout(
            state_dim=state_space.shape[0],
            action_dim=action_dim,
            discrete=isinstance(action_space, spaces.Discrete),
            episodes_per_task=episodes_per_task,
            max_episode_steps=max_episode_steps,
        )
        with np.errstate(over="ignore"):
            low = np.concatenate([state_space.low, action_low, [-np.inf, 0]]).astype(np.float32)
            high = np.concatenate([state_space.high, action_high, [np.inf, 1]]).astype(np.float32)
        super().__init__(low, high, dtype=np.float32)
        self.layout = layout


def observation_layout(space: spaces.Space) -> MetaEpisodeLayout:
    """
    :param space: an observation space
    :return: the layout of a meta-episode's observation
    :raises ValueError: if the space is not that of a meta-episode, saying how to make one
    """
    if isinstance(space, MetaObservationSpace):
        return space.layout
    raise ValueError(
        f"observation_space={space} is not that of a meta-episode: make the environment by its registered id or wrap it in "
        "sb3_ldm.envs.meta_episode.MetaEpisodeWrapper, without a wrapper that changes observations outside of it"
    )


#: The largest number that an observation can hold.
_LARGEST = float(np.finfo(np.float32).max)

#: What wrappers, SB3 and gymnasium write into ``info`` where an episode ends; inside of a meta-episode that is no end.
_ENDS = frozenset(
    (
        *("TimeLimit.truncated", "episode", "_episode", "is_success"),
        *(
            "terminal_observation",
            "final_observation",
            "_final_observation",
            "final_obs",
            "_final_obs",
            "final_info",
            "_final_info",
        ),
        *("terminal_state", "terminated", "truncated", "episode_returns", "episode_lengths", "episode_successes"),
    )
)


def checked_reward(reward: Any, env: object, step: int) -> float:
    """
    :param reward: what the environment returned
    :param env: the environment, for the message
    :param step: steps since the last reset, for the message
    :return: the reward
    :raises ValueError: if it is not one number, or one that float32 cannot hold: NaN, infinite or too large
    """
    if not isinstance(reward, (float, int)):
        if np.shape(reward) != () or np.asarray(reward).dtype.kind not in "buif":
            raise ValueError(
                f"reward={reward!r} of env={env} at step {step} after the reset has shape {np.shape(reward)}, expected one "
                "number: return float(reward)"
            )
    if not -_LARGEST <= reward <= _LARGEST:  # nor is NaN
        raise ValueError(
            f"reward={reward} at step {step} after the reset is NaN or infinite, expected finite numbers of float32 "
            f"(env={env})"
        )
    return float(reward)


def checked_states(states: Any, shape: tuple[int, ...], env: object, when: str) -> np.ndarray:
    """
    :param states: what the environment returned, array-like
    :param shape: that they must have, ``(state_dim,)`` or ``(n, state_dim)``
    :param env: the environment, for the message
    :param when: for the message
    :return: the states, float32; no copy where they are already
    :raises ValueError: if they are no numbers, of another shape, or such that float32 cannot hold: NaN, infinite or too large
    """
    try:
        given = np.asarray(states)
    except (ValueError, TypeError) as error:  # rows of several lengths
        raise ValueError(f"observation={states!r} of env={env} {when} is no array: {error}") from None
    if given.shape != shape or given.dtype.kind not in "buif":
        space = getattr(env, "observation_space", None)
        raise ValueError(
            f"env={env} returned an observation of shape {given.shape}, but says observation_space={space}: expected "
            f"numbers of shape {shape} {when}, not {given.dtype}"
        )
    if given.dtype != np.float32:
        with np.errstate(over="ignore"):
            given = given.astype(np.float32)
    if not np.isfinite(given).all():
        raise ValueError(f"observation={states} {when} has NaN or infinity, expected finite numbers of float32 (env={env})")
    return given


def checked_rewards(rewards: Any, n: int, env: object, step: int) -> np.ndarray:
    """
    :param rewards: what a batch of environments returned, array-like
    :param n: how many they are
    :param env: the environments, for the message
    :param step: steps since the last reset, for the message
    :return: the rewards, ``(n,)``
    :raises ValueError: if they are not one number each, or such that float32 cannot hold: NaN, infinite or too large
    """
    given = np.asarray(rewards)
    if given.shape != (n,) or given.dtype.kind not in "buif":
        raise ValueError(
            f"rewards of env={env} at step {step} after the reset have shape {given.shape} and type {given.dtype}, expected "
            f"numbers of shape ({n},)"
        )
    if not (np.abs(given) <= _LARGEST).all():  # nor is NaN
        raise ValueError(
            f"reward={rewards} at step {step} after the reset is NaN or infinite, expected finite numbers of float32 "
            f"(env={env})"
        )
    return given


def check_actions(actions: np.ndarray, layout: "MetaEpisodeLayout", shape: tuple[int, ...]) -> None:
    """
    :param actions: one action, or one of each of some environments
    :param layout: layout of their observations, which show actions
    :param shape: that they must have
    :raises ValueError: if they have another shape, or are discrete and do not exist
    """
    if actions.shape != shape:
        raise ValueError(f"actions={actions!r} has shape {actions.shape}, expected {shape}")
    if layout.discrete:
        # NumPy would take a negative one from the end, and show the agent another action than it took.
        if actions.dtype.kind not in "ui" or actions.min() < 0 or actions.max() >= layout.action_dim:
            raise ValueError(f"actions={actions!r} has some that do not exist, use whole numbers 0 to {layout.action_dim - 1}")
    elif actions.dtype.kind not in "buif":
        raise ValueError(f"actions={actions!r} of type {actions.dtype} are no numbers")


def time_limit_of(env: gym.Env) -> int | None:
    """
    :param env: an environment, wrapped or not
    :return: the steps of an episode at most, found in its ``TimeLimit`` or its spec; None if there is no limit
    """
    wrapped: gym.Env = env
    while isinstance(wrapped, gym.Wrapper):
        if isinstance(wrapped, TimeLimit):
            return wrapped._max_episode_steps
        wrapped = wrapped.env
    return None if env.spec is None else env.spec.max_episode_steps


class MetaEpisodeWrapper(gym.Wrapper[np.ndarray, Any, np.ndarray, Any], gym.utils.RecordConstructorArgs):
    """
    String ``episodes_per_task`` episodes of one task into one episode.

    Only the end of the last episode is an end, and a *terminal* one: the meta-episode's length is the horizon of the
    decision problem (paper section 2), so no value is bootstrapped there. The ends in between are invisible but for the
    done flag in the observation, which already shows the next episode's first state.

    ``info`` holds, at every step, the ``task`` that it was made in; at the end of every inner episode ``terminal_state`` (the
    state that the episode ended in), ``terminated`` and ``truncated``, of which one is true (the task itself ended it, so
    that no value follows, or else a time limit did), and ``is_success`` (if the environment reports it); at the end of the
    meta-episode also ``episode_returns``, ``episode_lengths`` and ``episode_successes`` (one entry per episode);
    ``is_success`` is then that of the last episode. ``reset`` returns ``task`` in ``info`` and hands its options on, so that
    ``{"task": task}`` fixes it.
    An episode succeeded if the environment says ``is_success`` at its last step or, where it says ``success`` instead (as
    Meta-World does), if that was 1 at any step. What wrappers inside of the meta-episode say of the ends of episodes does not
    get out; where there is a ``Monitor`` among them, ``episode`` is of the whole meta-episode.

    :param env: a :class:`~sb3_ldm.envs.tasks.TaskEnv` with a flat ``Box`` observation
    :param episodes_per_task: episodes in a meta-episode, N in the paper
    :param max_episode_steps: time limit of an episode to apply, H in the paper; None: the environment has one already
    :raises ValueError: if the environment is not fit for it, with a remedy
    """

    def __init__(self, env: gym.Env, episodes_per_task: int, max_episode_steps: int | None = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self, episodes_per_task=episodes_per_task, max_episode_steps=max_episode_steps
        )
        check_task_env(env)
        if isinstance(env.observation_space, MetaObservationSpace):
            raise ValueError(f"env={env} makes meta-episodes already: change its own episodes_per_task, do not wrap it twice")
        own_limit = time_limit_of(env)
        limits = [limit for limit in (own_limit, max_episode_steps) if limit is not None]
        if not limits:
            raise ValueError(
                "max_episode_steps=None, but the environment has no time limit and a meta-episode needs one: "
                "give max_episode_steps or wrap the environment in gymnasium.wrappers.TimeLimit"
            )
        space = MetaObservationSpace(env.observation_space, env.action_space, episodes_per_task, min(limits))
        self._limits_time = max_episode_steps is not None
        gym.Wrapper.__init__(self, TimeLimit(env, max_episode_steps) if max_episode_steps is not None else env)
        self.observation_space = space
        self.layout = space.layout
        self._task_dim = env.get_wrapper_attr("task_distribution").task_dim
        self._action_shape = () if space.layout.discrete else (space.layout.action_dim,)
        #: Resets and steps so far: who has moved the environment before can tell whether somebody else has since.
        self.n_moves = 0
        self._started = time.time()
        self._description: str | None = None
        self._options: dict[str, Any] = {}
        self._task: Task | None = None
        self._running = False
        self._step = 0
        self._length = 0
        self._return = 0.0
        self._success: bool | None = None
        self._succeeded: bool | None = None
        self._summary: Any = None
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._successes: list[bool | None] = []

    @property
    def episodes_per_task(self) -> int:
        """Episodes in a meta-episode."""
        return self.layout.episodes_per_task

    @property
    def task_dim(self) -> int:
        """Length of a task vector."""
        return self._task_dim

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]
        """The spec that makes this environment again."""
        if self._cached_spec is None:
            spec = super().spec
            if spec is not None and self._limits_time:
                # This wrapper applies its time limit anew; as the spec's it would cut the meta-episode short.
                inner = self.env.get_wrapper_attr("env").spec
                spec.max_episode_steps = None if inner is None else inner.max_episode_steps
        return self._cached_spec

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.n_moves += 1
        raw_state, info = self.env.reset(seed=seed, options=options)
        self._task = self._read_task()
        if options is not None and options.get("task") is not None and not _same_task(self._task, options["task"]):
            # It may put tasks into a form of its own, which it then must know again.
            raw_state, info = self.env.reset(options={**options, "task": self._task})
            self._check_task()
        state = self._checked_state(raw_state, "at step 0 after the reset")
        self._options = {**(options or {}), "task": self._task}
        self._running = True
        self._step = 0
        self._summary = None
        self._returns, self._lengths, self._successes = [], [], []
        self._start_episode()
        return self.layout.first_observations(state), {**info, "task": self._task.copy()}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self._running:
            raise ResetNeeded("Cannot call step() before reset() or after the end of the meta-episode")
        check_actions(np.asarray(action), self.layout, self._action_shape)
        self.n_moves += 1
        raw_state, raw_reward, terminated, truncated, inner_info = self.env.step(action)
        self._step += 1
        reward = checked_reward(raw_reward, self.env, self._step)
        state = self._checked_state(raw_state, f"at step {self._step} after the reset")
        self._length += 1
        self._return += reward
        self._note(inner_info)
        assert self._task is not None
        info = {name: value for name, value in inner_info.items() if name not in _ENDS}
        info["task"] = self._task.copy()

        ended = bool(terminated or truncated)
        if self._length >= self.layout.max_episode_steps and not ended:
            raise ValueError(
                f"env={self.env} goes on after step {self._length} of an episode, the last one by its time limit: wrap it in "
                "gymnasium.wrappers.TimeLimit, or give max_episode_steps"
            )
        done = False
        if ended:
            info.update(self._finish_episode(state, bool(terminated)))
            done = len(self._lengths) == self.layout.episodes_per_task
            if done:
                self._running = False
            else:
                raw_state, _ = self.env.reset(options=self._options)
                self._check_task()
                state = self._checked_state(raw_state, f"at the reset after step {self._step}")
                self._start_episode()
        return self.layout.observations(state, action, reward, ended), reward, done, False, info  # type: ignore[arg-type]

    def _checked_state(self, state: Any, when: str) -> np.ndarray:
        return checked_states(state, (self.layout.state_dim,), self.env, when)

    def _note(self, info: dict[str, Any]) -> None:
        """Keep what the environment says of the episode that it is in."""
        success = info.get("is_success")
        self._success = None if success is None else bool(success)
        if info.get("success") is not None:
            self._succeeded = bool(self._succeeded) or bool(info["success"])
        if "episode" in info:
            self._summary = info["episode"]

    def _read_task(self) -> Task:
        """The task that the environment has, a vector of numbers."""
        task = np.array(self.env.get_wrapper_attr("task"))
        expected = (self.task_dim,)
        if task.shape != expected or task.dtype.kind not in "buif":
            raise ValueError(
                f"env={self.env} has the task {task!r} after reset, expected a vector of {self.task_dim} numbers: call "
                "select_task(options) in reset; tasks that are names or objects must be numbered"
            )
        return task

    def describe(self) -> str:
        """:return: a text that is equal for environments that were made in the same way, and sample the same split"""
        if self._description is None:
            self._description = env_state.describe(self)
        return f"{self._description} {self.env.get_wrapper_attr('task_split')}"

    def get_env_state(self) -> bytes | None:
        """:return: where the meta-episode is, with all random streams; None where the environment cannot tell all of it"""
        return env_state.get_state(self)

    def set_env_state(self, state: bytes) -> None:
        """
        :param state: from :meth:`get_env_state` of an environment that was made in the same way; what is pickled in it is run
        """
        env_state.set_state(self, state)

    def _check_task(self) -> None:
        """Refuse environments that draw another task than they are told to, as most would."""
        task = self.env.get_wrapper_attr("task")
        if not _same_task(task, self._task):
            raise ValueError(
                f"env={self.env} was reset with options={{'task': {self._task!r}}} and has the task {task!r}: call "
                "select_task(options) in reset"
            )

    def _start_episode(self) -> None:
        self._length, self._return, self._success, self._succeeded = 0, 0.0, None, None

    def _finish_episode(self, terminal_state: np.ndarray, terminated: bool) -> dict[str, Any]:
        self._lengths.append(self._length)
        self._returns.append(self._return)
        success = self._succeeded if self._success is None else self._success
        self._successes.append(success)
        info = end_of_episode_info(terminal_state, terminated, success)
        if len(self._lengths) == self.layout.episodes_per_task:
            # Environments that only tell of successes say nothing of an episode without one.
            told = any(success is not None for success in self._successes)
            successes = np.array([bool(success) for success in self._successes]) if told else None
            info.update(end_of_meta_episode_info(np.array(self._returns), np.array(self._lengths), successes))
            if self._summary is not None:
                # SB3 adds no Monitor where there is one inside, and waits for what it says.
                more = self._summary if isinstance(self._summary, Mapping) else {}
                info["episode"] = {**more, **monitor_summary(sum(self._returns), sum(self._lengths), self._started)}
        return info


def _same_task(one: Any, two: Any) -> bool:
    one, two = np.asarray(one), np.asarray(two)
    return one.shape == two.shape and bool(np.all((one == two) | np.isclose(one, two, equal_nan=True)))


def monitor_summary(total: float, length: int, started: float) -> dict[str, Any]:
    """
    :param total: return of a meta-episode
    :param length: its steps
    :param started: when the environment was made, seconds of ``time.time``
    :return: what SB3's ``Monitor`` says of it in ``info["episode"]``
    """
    return {"r": round(float(total), 6), "l": int(length), "t": round(time.time() - started, 6)}


def end_of_episode_info(terminal_state: np.ndarray, terminated: bool, success: bool | None) -> dict[str, Any]:
    """
    :param terminal_state: the state that the episode ended in, ``(state_dim,)``
    :param terminated: whether the task itself ended it, else a time limit did
    :param success: whether it succeeded, None if the environment does not say
    :return: what ``info`` holds at the end of every inner episode
    """
    state = np.array(terminal_state, dtype=np.float32)
    info: dict[str, Any] = {"terminal_state": state, "terminated": terminated, "truncated": not terminated}
    if success is not None:
        info["is_success"] = success
    return info


def end_of_meta_episode_info(returns: np.ndarray, lengths: np.ndarray, successes: np.ndarray | None) -> Mapping[str, Any]:
    """
    :param returns: of each inner episode, ``(episodes_per_task,)``
    :param lengths: of each inner episode, ``(episodes_per_task,)``
    :param successes: of each inner episode, ``(episodes_per_task,)``; None if the environment does not say
    :return: what ``info`` holds at the end of a meta-episode besides, copied
    """
    info = {"episode_returns": returns.copy(), "episode_lengths": lengths.copy()}
    if successes is not None:
        info["episode_successes"] = successes.copy()
    return info
