"""Whole meta-episodes, to learn from again."""

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_ldm.data.array_file import read_arrays, read_pickle, write_arrays
from sb3_ldm.envs.meta_episode import MetaEpisodeLayout
from sb3_ldm.envs.steps import Step
from sb3_ldm.memory import fitting, gigabytes, warn_if_too_large


@dataclass(frozen=True)
class MetaEpisodeBatch:
    """
    Meta-episodes as time-major tensors, padded to the longest of them.

    :param states: s_t, ``(T, batch, state_dim)``
    :param actions: a_t, one-hot or vector, ``(T, batch, action_dim)``
    :param rewards: r_{t+1}, ``(T, batch)``
    :param next_states: s_{t+1}, the terminal state where an episode ends, ``(T, batch, state_dim)``
    :param mask: 1 for steps of the meta-episode, 0 for padding, ``(T, batch)``
    :param observations: what the agent saw, from the first observation to the last one, ``(T + 1, batch, obs_dim)``; None
        where the buffer was not asked for them
    :param episode_ends: whether a step ended an inner episode, ``(T, batch)``, bool
    :param terminated: whether the task itself ended it, so that no value follows, and not a time limit; ``(T, batch)``, bool
    :param tasks: of the meta-episodes, ``(batch, task_dim)``; NaN for meta-episodes of files of earlier versions
    """

    states: th.Tensor
    actions: th.Tensor
    rewards: th.Tensor
    next_states: th.Tensor
    mask: th.Tensor
    observations: th.Tensor | None = None
    episode_ends: th.Tensor | None = None
    terminated: th.Tensor | None = None
    tasks: th.Tensor | None = None

    def part(self, meta_episodes: slice) -> "MetaEpisodeBatch":
        """:return: some of the meta-episodes, with the padding of all"""
        given = {name: array for name, array in vars(self).items() if array is not None}
        parts = {name: array[:, meta_episodes] for name, array in given.items() if name != "tasks"}
        return MetaEpisodeBatch(**parts, tasks=None if self.tasks is None else self.tasks[meta_episodes])


class Transitions(NamedTuple):
    """Single transitions out of meta-episodes."""

    states: np.ndarray  #: s_t, ``(n, state_dim)``
    actions: np.ndarray  #: a_t, one-hot or vector, ``(n, action_dim)``
    rewards: np.ndarray  #: r_{t+1}, ``(n,)``
    next_states: np.ndarray  #: s_{t+1}, ``(n, state_dim)``
    episode_ends: np.ndarray  #: whether it ended an inner episode, ``(n,)``
    terminated: np.ndarray  #: whether the task itself ended it, and not a time limit, ``(n,)``
    tasks: np.ndarray  #: that it was made in, ``(n, task_dim)``; NaN where it is not known


#: What is saved besides arrays, the layout and the random stream.
_SAVED_NUMBERS = ("capacity", "n_workers", "keeps", "n_seen", "position", "full", "newest")
BUFFER_KEEPS = ("latest", "uniform")


class MetaEpisodeBuffer:
    """
    Whole meta-episodes in compact types: the latest ones in a ring, or a uniform sample of all so far (a reservoir), in which
    early exploration keeps its share.

    Steps of running meta-episodes are gathered per worker and enter the ring when the meta-episode ends, if it was seen as a
    whole. States are stored once: s_t is s_{t+1} of the step before, or the state that the episode was reset to. Each
    meta-episode knows its task, and which of its inner episodes the task itself ended.

    :param capacity: number of meta-episodes
    :param layout: layout of the meta-episode observations
    :param n_workers: number of workers that add steps
    :param keeps: ``"latest"`` or ``"uniform"``: which meta-episodes stay when there are more than ``capacity``
    :param seed: of what a uniform sample keeps
    :raises ValueError: if ``capacity`` is below 1 or ``keeps`` is unknown
    """

    def __init__(
        self, capacity: int, layout: MetaEpisodeLayout, n_workers: int, keeps: str = "latest", seed: int | None = None
    ):
        if capacity < 1:
            raise ValueError(f"vae_buffer_size={capacity}: the buffer must hold at least 1 meta-episode.")
        if keeps not in BUFFER_KEEPS:
            raise ValueError(f"vae_buffer_keeps={keeps!r}: choose one of {list(BUFFER_KEEPS)}.")
        self.capacity = capacity
        self.keeps = keeps
        self.n_seen = 0
        self.seed(seed)
        self.layout = layout
        self.position = 0
        self.full = False
        #: Where meta-episodes are that were stored since somebody took note of them, see :meth:`take_newest`.
        self.newest: list[int] = []
        #: What the agent is shown of observations ``(..., obs_dim)``; where it is set, batches hold observations.
        self.agent_view: Callable[[np.ndarray], np.ndarray] | None = None
        self._ring = self._allocate_ring()
        self._lengths = np.zeros(capacity, dtype=np.int32)
        self._tasks = np.zeros((capacity, 0))
        self.set_workers(n_workers)

    def _allocate_ring(self) -> dict[str, np.ndarray]:
        """Room for ``capacity`` meta-episodes, of which there may be more than memory for."""
        one = self.bytes_of_one(self.layout)
        what = f"vae_buffer_size={self.capacity}: a buffer of as many meta-episodes of {one:,} bytes"
        remedy = f"Use a vae_buffer_size of at most {fitting(one):,}."
        warn_if_too_large(what, self.capacity * one, remedy)
        try:
            return self._allocate(self.layout, self.capacity)
        except (MemoryError, ValueError) as error:  # of NumPy, whose arrays have a largest size, too
            raise MemoryError(f"{what} needs {gigabytes(self.capacity * one)}, which there are not. {remedy}") from error

    @classmethod
    def bytes_of_one(cls, layout: MetaEpisodeLayout) -> int:
        """
        :param layout: of the meta-episode observations
        :return: memory of a stored meta-episode
        """
        return sum(array.nbytes for array in cls._allocate(layout, 1).values())

    @staticmethod
    def _allocate(layout: MetaEpisodeLayout, rows: int) -> dict[str, np.ndarray]:
        shape = (rows, layout.meta_episode_steps)
        actions: np.ndarray
        if layout.discrete:
            actions = np.zeros(shape, np.uint8 if layout.action_dim <= 256 else np.int32)
        else:
            actions = np.zeros((*shape, layout.action_dim), np.float32)
        return {
            "next_states": np.zeros((*shape, layout.state_dim), np.float32),
            "actions": actions,
            "rewards": np.zeros(shape, np.float32),
            "episode_ends": np.zeros(shape, bool),
            "reset_states": np.zeros((rows, layout.episodes_per_task, layout.state_dim), np.float32),
            "terminated": np.zeros((rows, layout.episodes_per_task), bool),
        }

    def __len__(self) -> int:
        return self.capacity if self.full else self.position

    @property
    def nbytes(self) -> int:
        """Memory of the stored meta-episodes in bytes, when full."""
        return sum(array.nbytes for array in self._ring.values()) + self._lengths.nbytes

    def set_workers(self, n_workers: int) -> None:
        """
        :param n_workers: number of workers that add steps from now on
        """
        self.n_workers = n_workers
        self._running = self._allocate(self.layout, n_workers)

    def running_state(self) -> dict[str, np.ndarray]:
        """:return: the meta-episodes that have not ended, which :meth:`save` leaves out"""
        return {name: array.copy() for name, array in self._running.items()}

    def set_running_state(self, state: dict[str, np.ndarray]) -> None:
        """
        :param state: from :meth:`running_state` of a buffer with as many workers
        """
        for name, array in state.items():
            self._running[name][:] = array

    def running_rewards(self, worker: int, n_steps: int) -> np.ndarray:
        """:return: the first rewards of the meta-episode that a worker is in, ``(n_steps,)``"""
        return self._running["rewards"][worker, :n_steps]

    def add(self, step: Step) -> None:
        """
        Add one step of every worker. Those that ended a meta-episode store it, if it was seen as a whole (``step.at.whole``).

        :param step: of ``n_workers`` workers
        """
        workers, running = np.arange(self.n_workers), self._running
        time, episode, episode_step, whole = step.at
        begins = episode_step == 0
        if begins.any():
            running["reset_states"][workers[begins], episode[begins]] = step.states[begins]
        running["next_states"][workers, time] = step.next_states
        running["actions"][workers, time] = step.actions
        running["rewards"][workers, time] = step.rewards
        running["episode_ends"][workers, time] = step.episode_ends
        if step.episode_ends.any():
            running["terminated"][workers, episode] = step.terminated
        for worker in np.flatnonzero(step.dones & whole):
            self._store(int(worker), int(time[worker]) + 1, step.tasks[worker])

    def _store(self, worker: int, length: int, task: np.ndarray) -> None:
        slot = self._next_slot()
        if slot >= self.capacity:
            return
        self.newest.append(slot)
        del self.newest[: -self.capacity]  # maybe nobody takes note of them
        for name, array in self._ring.items():
            array[slot] = self._running[name][worker]
        self._lengths[slot] = length
        if self._tasks.shape[1] != len(task):
            self._tasks = np.full((self.capacity, len(task)), np.nan)
        self._tasks[slot] = task

    def take_newest(self) -> np.ndarray:
        """:return: indices of the meta-episodes that were stored since the last call and are still there, ``(n,)``"""
        newest, self.newest = np.unique(np.array(self.newest, dtype=np.int64)), []
        return newest

    def _next_slot(self) -> int:
        """:return: where the next meta-episode goes; ``capacity`` or above drops it"""
        self.n_seen += 1
        if self.full and self.keeps == "uniform":
            return int(self._rng.integers(self.n_seen))
        slot = self.position
        self.position += 1
        if self.position == self.capacity:
            self.position, self.full = 0, True
        return slot

    def seed(self, seed: int | None) -> None:
        """
        :param seed: of what a uniform sample keeps from now on
        """
        self._rng = np.random.default_rng(seed)

    def sample(self, batch_size: int, rng: np.random.Generator, device: th.device | str = "cpu") -> MetaEpisodeBatch:
        """
        Draw meta-episodes uniformly, with replacement.

        :param batch_size: number of meta-episodes
        :param rng: source of randomness
        :param device: device of the tensors
        :return: the batch
        """
        return self.get(rng.integers(len(self), size=batch_size), device)

    def sample_transitions(self, n_transitions: int, rng: np.random.Generator) -> Transitions:
        """
        Draw single transitions uniformly from random meta-episodes, with replacement.

        :param n_transitions: number of transitions
        :param rng: source of randomness
        :return: the transitions
        """
        indices = rng.integers(len(self), size=n_transitions)
        steps = rng.integers(self._lengths[indices])
        # Not by whole meta-episodes, which would be a thousand times as much to copy.
        ends, before = self._ring["episode_ends"][indices], np.maximum(steps - 1, 0)
        at_start = (steps == 0) | ends[np.arange(n_transitions), before]
        episode = np.sum(ends & (np.arange(ends.shape[1]) < steps[:, None]), axis=1)
        states = self._ring["next_states"][indices, before]
        states[at_start] = self._ring["reset_states"][indices[at_start], episode[at_start]]
        episode_ends = ends[np.arange(n_transitions), steps]
        return Transitions(
            states=states,
            actions=self.layout.encode_actions(self._ring["actions"][indices, steps]),
            rewards=self._ring["rewards"][indices, steps],
            next_states=self._ring["next_states"][indices, steps],
            episode_ends=episode_ends,
            terminated=episode_ends & self._ring["terminated"][indices, episode],
            tasks=self._tasks[indices],
        )

    def get(self, indices: np.ndarray, device: th.device | str = "cpu") -> MetaEpisodeBatch:
        """
        :param indices: which stored meta-episodes, ``(batch,)``
        :param device: device of the tensors
        :return: the batch
        """
        lengths = self._lengths[indices]
        longest = int(lengths.max())
        next_states = self._ring["next_states"][indices, :longest]
        ends = self._ring["episode_ends"][indices, :longest]
        mask = np.arange(longest) < lengths[:, None]
        states = self._states(indices, next_states, ends)
        rewards = self._ring["rewards"][indices, :longest]
        actions = self.layout.encode_actions(self._ring["actions"][indices, :longest])

        def time_major(array: np.ndarray) -> th.Tensor:
            return th.as_tensor(np.ascontiguousarray(array.swapaxes(0, 1)), device=device)

        return MetaEpisodeBatch(
            states=time_major(states),
            actions=time_major(actions),
            rewards=time_major(rewards),
            next_states=time_major(next_states),
            mask=time_major(mask.astype(np.float32)),
            observations=None
            if self.agent_view is None
            else time_major(self.agent_view(self._observations(indices, states, next_states, rewards, ends))),
            episode_ends=time_major(ends & mask),
            terminated=time_major(self._terminated(indices, ends & mask)),
            tasks=th.as_tensor(self._tasks[indices], dtype=th.float32, device=device),
        )

    def part(self, indices: np.ndarray) -> "MetaEpisodeBuffer":
        """
        :param indices: which stored meta-episodes, ``(n,)``
        :return: a full buffer of copies of them
        """
        part = MetaEpisodeBuffer(len(indices), self.layout, self.n_workers)
        part._ring = {name: array[indices] for name, array in self._ring.items()}
        part._lengths, part._tasks = self._lengths[indices], self._tasks[indices]
        part.full, part.n_seen = True, len(indices)
        return part

    def _terminated(self, indices: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Which of the steps that ended an episode were the task's own ends, ``(batch, T)``."""
        terminated = np.zeros_like(ends)
        rows, steps = np.nonzero(ends)
        terminated[rows, steps] = self._ring["terminated"][indices[rows], np.cumsum(ends, axis=1)[rows, steps] - 1]
        return terminated

    def _observations(
        self, indices: np.ndarray, states: np.ndarray, next_states: np.ndarray, rewards: np.ndarray, ends: np.ndarray
    ) -> np.ndarray:
        """All observations of meta-episodes, ``(batch, T + 1, obs_dim)``: a new episode's first state follows an end."""
        layout, longest = self.layout, states.shape[1]
        shown = next_states.copy()
        shown[:, :-1][ends[:, :-1]] = states[:, 1:][ends[:, :-1]]
        last = self._lengths[indices] - 1
        rows = np.arange(len(indices))
        shown[rows, last] = next_states[rows, last]
        actions = self._ring["actions"][indices, :longest]
        first = layout.first_observations(states[:, :1])
        return np.concatenate([first, layout.observations(shown, actions, rewards, ends)], axis=1)

    def _states(self, indices: np.ndarray, next_states: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Recover s_t: the state before it, or the reset state where an episode starts."""
        starts = np.ones_like(ends)
        starts[:, 1:] = ends[:, :-1]
        states = np.empty_like(next_states)
        states[:, 1:] = next_states[:, :-1]
        rows, steps = np.nonzero(starts)
        episode = np.minimum(np.cumsum(starts, axis=1)[rows, steps] - 1, self.layout.episodes_per_task - 1)
        states[rows, steps] = self._ring["reset_states"][indices[rows], episode]
        return states

    def save(self, file: io.BufferedIOBase) -> None:
        """
        Write the meta-episodes that are there, without those that run.

        :param file: open for writing and reading
        """
        arrays = {name: array[: len(self)] for name, array in self._ring.items()}
        numbers = {name: getattr(self, name) for name in _SAVED_NUMBERS}
        numbers |= {"layout": asdict(self.layout), "rng": self._rng.bit_generator.state}
        arrays |= {"lengths": self._lengths[: len(self)], "tasks": self._tasks[: len(self)]}
        write_arrays(file, arrays, numbers)

    @classmethod
    def load(cls, file: io.BufferedIOBase, path: Any) -> "MetaEpisodeBuffer":
        """
        :param file: of :meth:`save`, or a pickled buffer, open for reading
        :param path: its name, for messages
        :return: the buffer
        :raises ValueError: if the file is damaged or holds something else
        """
        read = read_arrays(file, path)
        if read is None:
            buffer = read_pickle(file, path)
            if not isinstance(buffer, cls):
                raise ValueError(f"{path} holds no buffer of meta-episodes, but {type(buffer).__name__}.")
            return buffer
        arrays, numbers = read
        layout = MetaEpisodeLayout(**numbers.pop("layout"))
        buffer = cls(numbers["capacity"], layout, numbers["n_workers"], numbers["keeps"])
        buffer._rng.bit_generator.state = numbers.pop("rng")
        vars(buffer).update(numbers)
        lengths = arrays.pop("lengths")
        buffer._lengths[: len(lengths)] = lengths
        tasks = arrays.pop("tasks", np.zeros((len(lengths), 0)))  # earlier files have none
        buffer._put_tasks(tasks)
        for name, array in arrays.items():
            buffer._ring[name][: len(array)] = array
        return buffer

    def _put_tasks(self, tasks: np.ndarray) -> None:
        """Tasks of the first meta-episodes ``(n, task_dim)``; those of all others are not known."""
        self._tasks = np.full((self.capacity, tasks.shape[1]), np.nan)
        self._tasks[: len(tasks)] = tasks

    def __getstate__(self) -> dict[str, Any]:
        """Pickle only the meta-episodes that are there, and those that run."""
        state = dict(self.__dict__)
        state["_ring"] = {name: array[: len(self)] for name, array in self._ring.items()}
        state["_tasks"] = self._tasks[: len(self)]
        state["agent_view"] = None  # of the environments, which may be others
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        stored = state.pop("_ring")
        tasks = state.pop("_tasks", np.zeros((0, 0)))
        # Buffers that were saved before had none of these.
        missing = {
            "agent_view": None,
            "keeps": "latest",
            "n_seen": state["capacity"] if state["full"] else state["position"],
            "newest": [],
            "_rng": np.random.default_rng(),
        }
        self.__dict__.update(missing | state)
        self._put_tasks(tasks)
        self._ring = self._allocate_ring()
        for name, array in stored.items():
            self._ring[name][: len(array)] = array
        if state.get("_running", {}).keys() != self._ring.keys():  # saved before
            self.set_workers(self.n_workers)
