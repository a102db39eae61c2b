"""What a task is, how tasks are sampled and split, and what an environment that hosts them must offer.

A *task* is one MDP of the family (paper section 2), described by a vector. A *task distribution* has disjoint
``train`` and ``test`` splits, an ``eval`` split (a fixed list, for learning curves) and ``all`` (for the oracle).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_ldm.checks import check_integer

#: A vector that describes one task, for instance the goal cell ``[x, y]``; ``(task_dim,)``.
Task: TypeAlias = np.ndarray

#: The splits that every task distribution has; a distribution may name more.
SPLITS = ("train", "test", "eval", "all")
#: The name of the return of an agent that does nothing, among reference returns.
DOING_NOTHING = "doing nothing"
#: The split of training tasks that were held out, where some were.
VALIDATION = "validation"

SelfTasks = TypeVar("SelfTasks", bound="TaskDistribution")
SelfFinite = TypeVar("SelfFinite", bound="FiniteTaskDistribution")


class InfiniteSplitError(ValueError):
    """A split has infinitely many tasks, so they cannot be listed."""


class TaskDistribution(ABC):
    """A family of tasks with named splits, sampled with the caller's generator."""

    @property
    @abstractmethod
    def task_dim(self) -> int:
        """Length of a task vector."""

    @property
    def task_dtype(self) -> np.dtype:
        """NumPy dtype of a task vector."""
        return np.dtype(np.float64)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that exist."""
        return SPLITS

    @abstractmethod
    def sample(self, split: str, rng: np.random.Generator) -> Task:
        """
        Draw one task.

        :param split: name of the split to draw from
        :param rng: the only source of randomness
        :return: a new task, ``(task_dim,)``
        :raises ValueError: if there is no such split
        """

    def tasks(self, split: str) -> np.ndarray:
        """
        List every task of a finite split.

        :param split: name of the split
        :return: the tasks, ``(n_tasks, task_dim)``
        :raises ValueError: if there is no such split
        :raises InfiniteSplitError: if it has infinitely many tasks
        """
        self.validate_split(split)
        raise InfiniteSplitError(
            f"split={split!r} of {type(self).__name__} is infinite and cannot be listed: use sample(split, rng)"
        )

    def is_finite(self, split: str) -> bool:
        """
        :param split: name of the split
        :return: whether its tasks can be listed
        :raises ValueError: if there is no such split
        """
        try:
            self.tasks(split)
        except InfiniteSplitError:
            return False
        return True

    def representatives(self, split: str, n_tasks: int, seed: int = 0) -> np.ndarray:
        """
        Tasks to evaluate a split on: all of a finite one, else some that are always the same.

        :param split: name of the split
        :param n_tasks: number of tasks of an infinite split
        :param seed: which they are
        :return: the tasks, ``(n, task_dim)``
        :raises ValueError: if there is no such split
        """
        if self.is_finite(split):
            return self.tasks(split)
        rng = np.random.default_rng(seed)
        return np.stack([self.sample(split, rng) for _ in range(n_tasks)])

    def hold_out(self: SelfTasks, n_tasks: int) -> SelfTasks:
        """
        Move training tasks to a split :data:`VALIDATION`, so that choices can be made without a look at the test tasks.

        :param n_tasks: number of tasks that the split is evaluated on; 0 for the distribution as it is
        :return: the distribution without them in ``train``
        :raises ValueError: if this family cannot do it
        """
        if n_tasks:
            raise ValueError(f"validation_tasks={n_tasks}: {type(self).__name__} does not say how to hold out training tasks.")
        return self

    def distances(self, tasks: np.ndarray, others: np.ndarray) -> np.ndarray:
        """
        :param tasks: some tasks, ``(..., task_dim)``
        :param others: others, ``(..., task_dim)``, broadcast against them
        :return: how far each is from the other, in the unit of the tasks, ``(...)``
        """
        return np.linalg.norm(np.asarray(tasks, dtype=np.float64) - others, axis=-1)

    def spread(self, n_tasks: int) -> np.ndarray:
        """
        :param n_tasks: about how many
        :return: tasks all over the family, seen, unseen and, if it can be said, between them, ``(n, task_dim)``
        """
        return self.representatives("all", n_tasks)

    def is_in(self, split: str, tasks: np.ndarray) -> np.ndarray:
        """
        :param split: ``"train"`` or ``"test"``
        :param tasks: any tasks, ``(n, task_dim)``
        :return: whether each is nearer to a task of this split than to any of the other's, ``(n,)``
        """
        nearest = {
            name: self.distances(tasks[:, None], self.representatives(name, 1000)[None]).min(1) for name in ("train", "test")
        }
        return nearest[split] < nearest["test" if split == "train" else "train"]

    def reference_returns(self, tasks: np.ndarray, horizon: int | None = None) -> dict[str, np.ndarray]:
        """
        What an agent's return in one episode may be compared with, for figures and tables.

        :param tasks: some tasks, ``(n, task_dim)``
        :param horizon: steps of an episode; None for those of the registered environment
        :return: a return for each of the tasks, ``(n,)``, by names for people, the highest first; none by default
        """
        return {}

    def validate_split(self, split: str) -> str:
        """
        :param split: name of a split
        :return: the same name
        :raises ValueError: if there is no such split, naming those that exist
        """
        if split not in self.splits:
            raise ValueError(f"split={split!r} does not exist in {type(self).__name__}, use one of {', '.join(self.splits)}")
        return split

    def validate_task(self, task: Any) -> Task:
        """
        Check a task that a user chose.

        :param task: anything array-like, ``(task_dim,)``
        :return: a copy with the distribution's dtype
        :raises ValueError: if the shape is wrong or a value cannot be represented
        """
        try:
            given = np.asarray(task)
        except ValueError:  # rows of several lengths
            given = np.empty(0)
        if given.shape != (self.task_dim,) or given.dtype.kind not in "uif":
            raise ValueError(
                f"task={task!r} is not a task, expected {self.task_dim} numbers in a vector (tasks with names are numbered)"
            )
        if not np.isfinite(given).all():
            raise ValueError(f"task={task!r} is not a task, expected finite numbers")
        with np.errstate(over="ignore", invalid="ignore"):
            converted = given.astype(self.task_dtype)
        if not np.isfinite(converted).all():
            raise ValueError(f"task={task!r} is not a task, expected numbers that {self.task_dtype} holds")
        if np.issubdtype(self.task_dtype, np.integer) and not np.array_equal(converted, given):
            raise ValueError(f"task={task!r} is not a task, expected whole numbers")
        return converted


class FiniteTaskDistribution(TaskDistribution):
    """
    Tasks given as lists, each split sampled uniformly.

    :param splits: the tasks of each split, ``(n_tasks, task_dim)``; ``train`` and ``test`` are required, ``eval``
        defaults to ``test``, ``all`` to ``train`` followed by ``test``; further names are kept as they are
    :raises ValueError: if a split is missing or empty, tasks are no finite numbers, shapes disagree, or ``train`` shares a
        task with ``test`` or ``validation``
    """

    def __init__(self, splits: Mapping[str, np.ndarray]) -> None:
        missing = [name for name in ("train", "test") if name not in splits]
        if missing:
            raise ValueError(f"splits={sorted(splits)} lacks {' and '.join(missing)}, give at least train and test")
        tasks = {name: _numbers(name, listed) for name, listed in splits.items()}
        dims = {listed.shape[1:] for listed in tasks.values()}
        if len(dims) != 1 or any(listed.ndim != 2 or len(listed) == 0 for listed in tasks.values()):
            shapes = {name: listed.shape for name, listed in tasks.items()}
            raise ValueError(f"splits have shapes {shapes}, expected (n_tasks > 0, task_dim) with one task_dim")
        dtype = np.result_type(*tasks.values())  # one that holds every split: no task may be rounded to another
        tasks = {name: listed.astype(dtype) for name, listed in tasks.items()}
        for name in {"test", VALIDATION} & tasks.keys():
            known = np.isclose(tasks[name][:, None], tasks["train"][None]).all(-1).any(1)
            if known.any():
                raise ValueError(
                    f"splits train and {name} share the tasks {tasks[name][known].tolist()}, they must be disjoint"
                )
        tasks.setdefault("eval", tasks["test"])
        tasks.setdefault("all", np.concatenate([tasks["train"], tasks["test"]]))
        self._tasks = tasks

    @property
    def task_dim(self) -> int:
        return self._tasks["train"].shape[1]

    @property
    def task_dtype(self) -> np.dtype:
        return self._tasks["train"].dtype

    @property
    def splits(self) -> tuple[str, ...]:
        return (*SPLITS, *(name for name in self._tasks if name not in SPLITS))

    def sample(self, split: str, rng: np.random.Generator) -> Task:
        tasks = self._tasks[self.validate_split(split)]
        return tasks[rng.integers(len(tasks))].copy()

    def tasks(self, split: str) -> np.ndarray:
        return self._tasks[self.validate_split(split)].copy()

    def hold_out(self: SelfFinite, n_tasks: int, seed: int = 0) -> SelfFinite:
        """
        Move training tasks to a split :data:`VALIDATION`, so that choices can be made without a look at the test tasks.

        :param n_tasks: number of tasks to hold out; 0 for the distribution as it is
        :param seed: which tasks they are
        :return: the distribution without them in ``train``
        :raises ValueError: if it is no whole number of at least 0, or no training task would be left
        """
        check_integer("validation_tasks", n_tasks, 0)
        # A task may be listed more than once, to be sampled more often.
        train = self._tasks["train"]
        _, first, which = np.unique(train, axis=0, return_index=True, return_inverse=True)
        if n_tasks >= len(first):
            raise ValueError(f"validation_tasks={n_tasks} of {len(first)} training tasks: use 0 to {len(first) - 1}.")
        if n_tasks == 0:
            return self
        chosen = np.sort(first)[np.random.default_rng(seed).permutation(len(first))[:n_tasks]]
        held_out = np.isin(first[which.reshape(-1)], chosen)
        smaller = copy(self)
        smaller._tasks = {**self._tasks, "train": train[~held_out], VALIDATION: train[held_out]}
        return smaller


def _numbers(split: str, tasks: Any) -> np.ndarray:
    """Tasks of a split as an array of finite numbers."""
    try:
        listed = np.array(tasks)
    except ValueError as error:  # rows of several lengths
        raise ValueError(f"split {split!r} has tasks that are no array of shape (n_tasks, task_dim): {error}") from None
    if listed.size > 0 and (listed.dtype.kind not in "buif" or not np.isfinite(listed).all()):
        raise ValueError(
            f"split {split!r} has tasks such as {listed.flat[0]!r} of type {listed.dtype}, expected finite numbers: number "
            "tasks that are names or objects, and look these up in the environment"
        )
    return listed


def unseen_split(distribution: TaskDistribution) -> str:
    """
    :param distribution: a task distribution
    :return: the split to generalise to while choices are being made: where training tasks are held out for validation these,
        so that nothing looks at the test tasks; else ``"test"``, or the fixed list ``"eval"`` where there is no end of those
    """
    if VALIDATION in distribution.splits:
        return VALIDATION
    return "test" if distribution.is_finite("test") else "eval"


@runtime_checkable
class TaskEnv(Protocol):
    """
    What the library needs of a gymnasium environment that hosts tasks.

    ``reset()`` samples a new task of ``task_split`` from the environment's own ``np_random``;
    ``reset(options={"task": task})`` uses that task instead. Either way ``task`` reads it back, and so does
    ``info["task"]``. :class:`TaskEnvMixin` implements all of it but the physics.
    """

    @property
    def task_distribution(self) -> TaskDistribution: ...

    @property
    def task_split(self) -> str: ...

    @property
    def task(self) -> Task | None: ...

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]: ...


class TaskEnvMixin:
    """
    The task half of a :class:`TaskEnv`, to put before ``gym.Env`` among a class's bases.

    Call :meth:`set_tasks` in ``__init__`` and :meth:`select_task` in ``reset``, after ``super().reset(seed=seed)``.
    """

    task_distribution: TaskDistribution
    np_random: np.random.Generator
    _task_split: str
    _task: Task | None = None

    @property
    def task_rng(self) -> np.random.Generator:
        """What tasks are sampled with; another one than the environment's where tasks are to have a stream of their own."""
        return self.np_random

    @property
    def task_split(self) -> str:
        """The split that ``reset()`` samples from."""
        return self._task_split

    @property
    def task(self) -> Task | None:
        """A copy of the current task, ``(task_dim,)``; None before the first reset."""
        return None if self._task is None else self._task.copy()

    def set_tasks(self, task_distribution: TaskDistribution, task_split: str) -> None:
        """
        :param task_distribution: where tasks come from
        :param task_split: the split that ``reset()`` samples from
        :raises ValueError: if there is no such split
        """
        self.task_distribution = task_distribution
        self.set_task_split(task_split)

    def set_task_split(self, task_split: str) -> None:
        """
        Sample from another split from the next reset on. A method, so that ``VecEnv.env_method`` reaches it.

        :param task_split: name of the split
        :raises ValueError: if there is no such split
        """
        self._task_split = self.task_distribution.validate_split(task_split)

    def select_task(self, options: Mapping[str, Any] | None) -> Task:
        """
        Set the current task as the options ask, or sample one.

        :param options: the options of ``reset``; the key ``task`` fixes the task
        :return: a copy of the task, ``(task_dim,)``
        :raises ValueError: if ``options["task"]`` is not a task of the family
        """
        wanted = None if options is None else options.get("task")
        if wanted is None:
            self._task = self.task_distribution.sample(self._task_split, self.task_rng)
        else:
            self._task = self.task_distribution.validate_task(wanted)
        return self._task.copy()


def check_task_env(env: gym.Env, *, with_reset: bool = False) -> None:
    """
    Check that an environment follows the :class:`TaskEnv` protocol, wherever in its chain of wrappers.

    :param env: the environment, wrapped or not
    :param with_reset: also reset it, twice, to check that tasks are set and read back
    :raises ValueError: if it does not, saying what to add
    """
    remedy = "derive it from sb3_ldm.envs.tasks.TaskEnvMixin or offer task_distribution, task_split and task yourself"
    values = {}
    for name in ("task_distribution", "task_split", "task"):
        try:
            values[name] = env.get_wrapper_attr(name)
        except AttributeError:
            raise ValueError(f"env={env} has no attribute {name!r}, so it does not host tasks: {remedy}") from None
    if not isinstance(values["task_distribution"], TaskDistribution):
        raise ValueError(f"env={env} has task_distribution={values['task_distribution']!r}, expected a TaskDistribution")
    values["task_distribution"].validate_split(values["task_split"])
    if with_reset:
        _check_task_is_read_back(env)


def _check_task_is_read_back(env: gym.Env) -> None:
    _, info = env.reset(seed=0)
    sampled = env.get_wrapper_attr("task")
    if "task" not in info or not np.array_equal(info["task"], sampled):
        raise ValueError(
            f"env={env} was reset to the task {sampled!r} but info['task'] is {info.get('task')!r}: return it there"
        )
    wanted = sampled
    for seed in range(1, 100):
        if not np.array_equal(wanted, sampled):
            break
        wanted = env.get_wrapper_attr("task_distribution").sample("all", np.random.default_rng(seed))
    env.reset(options={"task": wanted})
    if not np.array_equal(env.get_wrapper_attr("task"), wanted):
        raise ValueError(f"env={env} ignores options={{'task': {wanted!r}}}: call select_task(options) in reset")


class TaskProbes(NamedTuple):
    """
    For each of some tasks a transition that is rewarded most in that task: to see which task a reward function is of.

    An environment that has them offers them as its attribute ``task_probes``.
    """

    tasks: np.ndarray  #: ``(n, task_dim)``
    states: np.ndarray  #: ``(n, state_dim)``, float32
    actions: np.ndarray  #: indices ``(n,)`` or vectors ``(n, action_dim)``
    next_states: np.ndarray  #: ``(n, state_dim)``, float32


class BatchedStep(NamedTuple):
    """What one step of ``n`` sub-environments returns."""

    states: np.ndarray  #: states that the step led to, ``(n, state_dim)``, float32
    rewards: np.ndarray  #: ``(n,)``
    terminated: np.ndarray  #: the task's own end, ``(n,)``, bool
    truncated: np.ndarray  #: the time limit, ``(n,)``, bool
    successes: np.ndarray | None  #: solved so far in this episode, ``(n,)``, bool; None if the family has no such notion


class BatchedTaskEnv(Protocol):
    """
    A task family that steps ``num_envs`` sub-environments at once.

    It is not auto-resetting: the caller resets the sub-environments whose episode ended, before the next step.
    The arrays that ``reset`` and ``step`` return belong to the caller.
    """

    num_envs: int
    observation_space: spaces.Box  #: of one sub-environment
    action_space: spaces.Space  #: of one sub-environment
    max_episode_steps: int

    @property
    def task_distribution(self) -> TaskDistribution: ...

    def seed(self, seeds: Sequence[int | None]) -> None:
        """
        Seed what else than the tasks is random, for the next reset of all sub-environments.

        :param seeds: one for each sub-environment; None for any
        """
        ...

    def reset(self, indices: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        """
        :param indices: sub-environments to reset, ``(m,)``
        :param tasks: their tasks, ``(m, task_dim)``
        :return: their first states, ``(m, state_dim)``, float32
        """
        ...

    def step(self, actions: np.ndarray) -> BatchedStep:
        """
        :param actions: one action per sub-environment, ``(n,)`` (discrete) or ``(n, action_dim)``
        :return: what each step led to
        """
        ...
