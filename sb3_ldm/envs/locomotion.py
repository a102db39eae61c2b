"""The MuJoCo domains: those of the LDM paper (section 5.2), whose tasks differ in rewards, and some whose bodies differ.

A *domain* says what its tasks are and computes the agent's state and the task's reward from what gymnasium's v5 environment
observes, as pure functions of batches. :class:`LocomotionEnv` (one environment) and
:class:`~sb3_ldm.envs.mujoco_backend.BatchedLocomotion` (many at once) step the same domain, so they cannot disagree on it.

The models, their physics and their start states are gymnasium's, with positions kept in the observation. What is different
from the code that the paper's authors released, which is made for an old MuJoCo, here in all domains:

* physics of today's MuJoCo, contact forces included, which the old one left at zero in most versions;
* actions are clipped to [-1, 1] by SB3 before they get here, so control costs are those of the clipped action;
* positions and velocities are those of the generalised coordinates (the released code reads the torso's frame, which lags them
  by one integration step).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.seeding import np_random

from sb3_ldm.checks import check_integer
from sb3_ldm.envs.tasks import DOING_NOTHING, SPLITS, VALIDATION, FiniteTaskDistribution, Task, TaskDistribution, TaskEnvMixin

HORIZON = 200  #: steps of one episode, H in the paper
TIMESTEP = 0.05  #: seconds of one environment step of the ant and the half-cheetah, five integration steps

#: Ways to integrate over a time step, as MuJoCo names them; an ant's step by ``rk4``, its own, takes three times as long.
INTEGRATORS = ("euler", "implicit", "implicitfast", "rk4")

#: Arguments of gymnasium's environments that would change what a domain says itself, besides weights, rewards and ranges.
_FIXED_OPTIONS = ("frame_skip", "include_cfrc_ext_in_observation", "use_contact_forces")
_ANT_COORDINATES = 29  # 15 positions and 14 velocities, before the contact forces
_ANT_VELOCITY = slice(13, 15)  # of the torso on the plane, in the state without x and y
_CHEETAH_X = 17  # of the torso, in the half-cheetah's state
_CHEETAH_TORSO_HEIGHT = 0.7  # of the model at its zero position


class DirectionTasks(FiniteTaskDistribution):
    """Directions of running as angles in radians, ``[theta]``: multiples of 90 degrees to train on, those between to test."""

    def __init__(self) -> None:
        train = np.deg2rad(90.0 * np.arange(4))[:, None]
        super().__init__({"train": train, "test": train + np.pi / 4})

    def distances(self, tasks: np.ndarray, others: np.ndarray) -> np.ndarray:
        """The angle between directions, at most pi."""
        turn = (np.asarray(tasks, dtype=np.float64) - others)[..., 0]
        return np.abs(np.angle(np.exp(1j * turn)))

    def spread(self, n_tasks: int) -> np.ndarray:
        return 2.0 * np.pi / n_tasks * np.arange(n_tasks)[:, None]

    def reference_returns(self, tasks: np.ndarray, horizon: int | None = None) -> dict[str, np.ndarray]:
        """That of an ant that stands still: it is rewarded for being healthy."""
        return {DOING_NOTHING: np.full(tasks.shape[:-1], float(HORIZON if horizon is None else horizon))}


SelfRange = TypeVar("SelfRange", bound="RangeTasks")


class RangeTasks(TaskDistribution):
    """
    Tasks told by one number, a target velocity or a distance, which comes from the ranges of a split.

    Of infinitely many training tasks a part can be held out: the fifth of each range that is nearest to the test tasks.
    """

    RANGES: ClassVar[Mapping[str, tuple[tuple[float, float], ...]]]  #: of ``train``, ``test`` and ``all``
    HELD_OUT: ClassVar[float] = 0.2  #: share of each training range that is held out

    def __init__(self) -> None:
        self.ranges = dict(self.RANGES)
        self.n_validation = 0

    @property
    def splits(self) -> tuple[str, ...]:
        return (*SPLITS, VALIDATION) if self.n_validation else SPLITS

    def hold_out(self: SelfRange, n_tasks: int) -> SelfRange:
        """
        Hold out the training tasks that are nearest to the test tasks, so that choices can be made without a look at these.

        :param n_tasks: how many of them stand for the split ``validation`` in evaluations; 0 for the distribution as it is
        :return: the distribution without them in ``train``
        :raises ValueError: if it is no whole number of at least 0
        """
        check_integer("validation_tasks", n_tasks, 0, "the tasks to evaluate on")
        if n_tasks == 0:
            return self
        test_low = self.RANGES["test"][0][0]
        kept, held_out = [], []
        for low, high in self.RANGES["train"]:
            width = self.HELD_OUT * (high - low)
            inner = (high - width, high) if high <= test_low else (low, low + width)
            held_out.append(inner)
            kept.append((low, inner[0]) if high <= test_low else (inner[1], high))
        smaller = copy(self)
        smaller.n_validation = n_tasks
        smaller.ranges = {**self.ranges, "train": tuple(kept), VALIDATION: tuple(held_out)}
        return smaller

    def is_in(self, split: str, tasks: np.ndarray) -> np.ndarray:
        numbers = np.linalg.norm(tasks, axis=-1)
        return np.any([(low <= numbers) & (numbers < high) for low, high in self.RANGES[self.validate_split(split)]], axis=0)

    def evenly_spread(self, split: str, n_tasks: int) -> np.ndarray:
        """
        :param split: a split that has ranges
        :param n_tasks: number of values
        :return: values evenly spread over the ranges laid end to end, ``(n_tasks,)``
        """
        lengths = np.array([high - low for low, high in self.ranges[split]])
        places = (np.arange(n_tasks) + 0.5) / n_tasks * lengths.sum()
        which = np.searchsorted(np.cumsum(lengths), places, side="right")
        offsets = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
        lows = np.array([low for low, _ in self.ranges[split]])
        return lows[which] + places - offsets[which]


class GoalTasks(RangeTasks):
    """
    Goal positions in metres, ``[x, y]``: training goals near the start or far from it, unseen goals at distances between.

    Goals of a split are uniform over its area: ``train`` is the disc of radius 1 and the ring from 2.5 to 3, ``test`` the ring
    between them, ``all`` the disc of radius 3. ``eval`` is at distance 1.75 in four directions.
    """

    RANGES: ClassVar[Mapping[str, tuple[tuple[float, float], ...]]] = MappingProxyType(
        {"train": ((0.0, 1.0), (2.5, 3.0)), "test": ((1.0, 2.5),), "all": ((0.0, 3.0),)}
    )
    EVAL_RADIUS: ClassVar[float] = 1.75

    @property
    def task_dim(self) -> int:
        return 2

    def sample(self, split: str, rng: np.random.Generator) -> Task:
        if self.validate_split(split) == "eval":
            return self.tasks(split)[rng.integers(4)]
        low, high = _choose_range([(low**2, high**2) for low, high in self.ranges[split]], rng)
        radius, angle = np.sqrt(rng.uniform(low, high)), rng.uniform(0.0, 2.0 * np.pi)
        return radius * np.array([np.cos(angle), np.sin(angle)])

    def tasks(self, split: str) -> np.ndarray:
        self.validate_split(split)
        if split == "eval":
            return self.EVAL_RADIUS * _around(0.5 * np.pi * np.arange(4))
        if split == VALIDATION:
            # A turn by the golden angle, so that neighbouring distances lie in different directions.
            angles = np.pi * (3.0 - np.sqrt(5.0)) * np.arange(self.n_validation)
            return self.evenly_spread(split, self.n_validation)[:, None] * _around(angles)
        return super().tasks(split)

    def reference_returns(self, tasks: np.ndarray, horizon: int | None = None) -> dict[str, np.ndarray]:
        """That of an ant that stands still at the start."""
        return {DOING_NOTHING: -(HORIZON if horizon is None else horizon) * np.abs(tasks).sum(-1)}


def _around(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


class NumberTasks(RangeTasks):
    """Tasks told by one number that is uniform over the ranges of a split, with a list of them to evaluate on."""

    EVAL: ClassVar[tuple[float, ...]] = (0.75, 1.25, 1.75, 2.25, 2.75)  #: of ``test``

    @property
    def task_dim(self) -> int:
        return 1

    def sample(self, split: str, rng: np.random.Generator) -> Task:
        if self.validate_split(split) == "eval":
            return self.tasks(split)[rng.integers(len(self.EVAL))]
        return np.array([rng.uniform(*_choose_range(self.ranges[split], rng))])

    def tasks(self, split: str) -> np.ndarray:
        self.validate_split(split)
        if split == "eval":
            return np.array(self.EVAL)[:, None]
        return self.evenly_spread(split, self.n_validation)[:, None] if split == VALIDATION else super().tasks(split)

    def representatives(self, split: str, n_tasks: int, seed: int = 0) -> np.ndarray:
        """Numbers that are evenly spread, so that a few stand for all."""
        return self.tasks(split) if self.is_finite(split) else self.evenly_spread(split, n_tasks)[:, None]


class VelocityTasks(NumberTasks):
    """
    Target velocities in metres a second, ``[v]``: slow and fast ones to train on, each half of the time, unseen ones between.

    ``train`` is [0, 0.5) and [3, 3.5), ``test`` [0.5, 3), ``all`` [0, 3.5), each uniform; ``eval`` is five of ``test``.
    """

    RANGES: ClassVar[Mapping[str, tuple[tuple[float, float], ...]]] = MappingProxyType(
        {"train": ((0.0, 0.5), (3.0, 3.5)), "test": ((0.5, 3.0),), "all": ((0.0, 3.5),)}
    )

    def reference_returns(self, tasks: np.ndarray, horizon: int | None = None) -> dict[str, np.ndarray]:
        """That of a half-cheetah that stands still."""
        return {DOING_NOTHING: -(HORIZON if horizon is None else horizon) * np.abs(tasks[..., 0])}


class MassTasks(NumberTasks):
    """
    Factors of all masses of a body, ``[factor]``: light and heavy ones to train on, unseen ones between.

    ``train`` is [0.25, 0.5) and [3, 3.5), ``test`` [0.5, 3), ``all`` [0.25, 3.5), each uniform; ``eval`` is five of ``test``.
    """

    RANGES: ClassVar[Mapping[str, tuple[tuple[float, float], ...]]] = MappingProxyType(
        {"train": ((0.25, 0.5), (3.0, 3.5)), "test": ((0.5, 3.0),), "all": ((0.25, 3.5),)}
    )

    def validate_task(self, task: Any) -> Task:
        return _positive(super().validate_task(task), "a factor of all masses")


class MassDampingTasks(FiniteTaskDistribution):
    """
    Factors of all masses and of all joints' damping, ``[mass, damping]``, with the ranges of DOMINO (NeurIPS 2022).

    ``train`` has all 25 pairs of 0.75, 0.85, 1, 1.15 and 1.25; in ``test`` each factor is in [0.4, 0.5) or [1.5, 1.6),
    ``eval`` has the middles of these four squares, ``all`` is the square [0.4, 1.6) that contains everything.
    """

    FACTORS: ClassVar[tuple[float, ...]] = (0.75, 0.85, 1.0, 1.15, 1.25)
    UNSEEN: ClassVar[tuple[tuple[float, float], ...]] = ((0.4, 0.5), (1.5, 1.6))

    def __init__(self) -> None:
        middles = [(low + high) / 2 for low, high in self.UNSEEN]
        corners = _pairs(middles)
        super().__init__({"train": _pairs(self.FACTORS), "test": corners, "eval": corners})

    def sample(self, split: str, rng: np.random.Generator) -> Task:
        if self.validate_split(split) == "test":
            return np.array([rng.uniform(*self.UNSEEN[rng.integers(2)]) for _ in range(2)])
        return rng.uniform(self.UNSEEN[0][0], self.UNSEEN[1][1], 2) if split == "all" else super().sample(split, rng)

    def tasks(self, split: str) -> np.ndarray:
        return TaskDistribution.tasks(self, split) if split in ("test", "all") else super().tasks(split)

    def validate_task(self, task: Any) -> Task:
        return _positive(super().validate_task(task), "factors of masses and of damping")


class CrippledTasks(FiniteTaskDistribution):
    """Legs of the ant whose motors are dead, ``[leg]``: 0, 1 and 2 to train on, 3 to test, as DOMINO has it."""

    def __init__(self) -> None:
        super().__init__({"train": np.arange(3)[:, None], "test": np.array([[3]])})

    def validate_task(self, task: Any) -> Task:
        leg = super().validate_task(task)
        if not 0 <= leg[0] < 4:
            raise ValueError(f"task={leg.tolist()} is not a task, expected one of the ant's legs: [0], [1], [2] or [3]")
        return leg


def _pairs(numbers: Sequence[float]) -> np.ndarray:
    """All pairs of some numbers, ``(n^2, 2)``."""
    return np.stack(np.meshgrid(numbers, numbers, indexing="ij"), axis=-1).reshape(-1, 2)


def _positive(task: Task, expected: str) -> Task:
    if (task <= 0.0).any():
        raise ValueError(f"task={task.tolist()} is not a task, expected {expected} greater than 0")
    return task


def _choose_range(ranges: Any, rng: np.random.Generator) -> tuple[float, float]:
    """One of some ranges, with probabilities proportional to their lengths."""
    lengths = np.array([high - low for low, high in ranges])
    return ranges[rng.choice(len(ranges), p=lengths / lengths.sum())]


class Domain(ABC):
    """
    A locomotion domain: its tasks, the agent's state and the reward.

    *Raw* observations are those of the gymnasium environment ``base_id`` with positions: generalised coordinates, velocities
    and, for the ant, contact forces clipped to [-1, 1].
    """

    base_id: ClassVar[str]  #: of the gymnasium environment whose physics it is
    state_dim: ClassVar[int]
    action_dim: ClassVar[int]
    position_dim: ClassVar[int] = 2  #: coordinates that place the robot in the world
    terminates: ClassVar[bool] = False  #: whether the episode ends when the robot is not healthy
    timestep: ClassVar[float] = TIMESTEP  #: seconds of one step
    tells_health: ClassVar[bool] = True  #: whether gymnasium says whether the robot is healthy
    healthy_reward: ClassVar[float] = 0.0  #: of each step that leaves the robot healthy, besides :meth:`rewards`
    has_contact_forces: ClassVar[bool] = False  #: whether gymnasium observes them
    max_velocity: ClassVar[float] = np.inf  #: to which gymnasium clips the velocities that it observes
    changes_model: ClassVar[bool] = False  #: whether tasks differ in their bodies, see :meth:`change_model`
    has_target: ClassVar[bool] = True  #: whether a task is a place, a direction or a velocity, for figures

    @abstractmethod
    def make_tasks(self) -> TaskDistribution:
        """:return: the tasks of the domain"""

    @abstractmethod
    def states(self, raw: np.ndarray) -> np.ndarray:
        """
        :param raw: raw observations, ``(..., raw_dim)``
        :return: what the agent observes, ``(..., state_dim)``
        """

    @abstractmethod
    def rewards(self, before: np.ndarray, actions: np.ndarray, after: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        """
        :param before: raw observations before the step, ``(..., raw_dim)``
        :param actions: ``(..., action_dim)``
        :param after: raw observations after the step, ``(..., raw_dim)``
        :param tasks: ``(..., task_dim)``
        :return: the tasks' rewards, ``(...)``
        """

    def told_apart(self, states: np.ndarray, next_states: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        """
        The part of the rewards in which tasks differ, as far as states tell it: to see which task a reward function is of.

        :param states: of the agent before each step, ``(n, state_dim)``
        :param next_states: and after it, ``(n, state_dim)``
        :param tasks: some tasks, ``(n_tasks, task_dim)``
        :return: ``(n_tasks, n)``
        :raises ValueError: if tasks of the domain do not differ in rewards
        """
        raise ValueError(f"Tasks of {type(self).__name__} differ in bodies: rewards do not tell them apart.")

    def healthy(self, coordinates: np.ndarray, env: Any) -> np.ndarray:
        """
        :param coordinates: positions and velocities, ``(..., nq + nv)``
        :param env: gymnasium's environment, which has the ranges of what is healthy
        :return: whether the robots are, as gymnasium says, ``(...)``, bool
        """
        return np.ones(coordinates.shape[:-1], dtype=bool)

    def change_model(self, model: Any, original: Any, task: Task) -> None:  # noqa: B027, most change nothing
        """
        Give a robot the body of a task. What MuJoCo derives from masses is computed afterwards.

        :param model: the ``mujoco.MjModel`` to change, which may have the body of another task
        :param original: gymnasium's
        :param task: ``(task_dim,)``
        """

    def positions(self, raw: np.ndarray) -> np.ndarray:
        """
        :param raw: raw observations, ``(..., raw_dim)``
        :return: where the robot is on the plane or the line, in metres, ``(..., 2)`` or ``(..., 1)``
        """
        return raw[..., : self.position_dim]


def control_cost(actions: np.ndarray) -> np.ndarray:
    """
    :param actions: ``(..., action_dim)``
    :return: the squared norm of each, ``(...)``
    """
    return np.square(actions).sum(-1)


def contact_cost(raw: np.ndarray) -> np.ndarray:
    """
    :param raw: raw observations of the ant, ``(..., 107)``
    :return: 5e-4 times the sum of squared, clipped contact forces, ``(...)``
    """
    return 5e-4 * np.square(raw[..., _ANT_COORDINATES:]).sum(-1)


class Ant(Domain):
    """All of the ant's domains."""

    base_id = "Ant-v5"
    action_dim = 8
    has_contact_forces = True

    def healthy(self, coordinates: np.ndarray, env: Any) -> np.ndarray:
        low, high = env._healthy_z_range
        height = coordinates[..., 2]
        return np.isfinite(coordinates).all(-1) & (low <= height) & (height <= high)


class AntDirection(Ant):
    """
    The ant runs in a direction: velocity along it - 0.5 |a|^2 - contact cost + 1, until its torso leaves heights of [0.2, 1].

    The state is the coordinates without x and y and the velocities (27 numbers). As in the released code the reward of being
    healthy is given in every step, the one that ends the episode included.
    """

    state_dim = 27
    terminates = True

    def make_tasks(self) -> TaskDistribution:
        return DirectionTasks()

    def states(self, raw: np.ndarray) -> np.ndarray:
        return raw[..., 2:_ANT_COORDINATES]

    def told_apart(self, states: np.ndarray, next_states: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        # Of where the ant is, the state tells but its velocity; on average over a step about that of both ends.
        velocity = 0.5 * (states + next_states)[:, _ANT_VELOCITY]
        return np.concatenate([np.cos(tasks), np.sin(tasks)], axis=-1) @ velocity.T

    def rewards(self, before: np.ndarray, actions: np.ndarray, after: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        velocity = (after[..., :2] - before[..., :2]) / TIMESTEP
        angle = tasks[..., 0]
        forward = velocity[..., 0] * np.cos(angle) + velocity[..., 1] * np.sin(angle)
        return forward - 0.5 * control_cost(actions) - contact_cost(after) + 1.0


class AntGoal(Ant):
    """
    The ant goes to a position: -L1 distance - 0.1 |a|^2 - contact cost, never ending early.

    The state is all coordinates, velocities and contact forces (15 + 14 + 78 = 107 numbers; the released code has six more,
    the contact forces on the world's own body, which are always zero).
    """

    state_dim = 107

    def make_tasks(self) -> TaskDistribution:
        return GoalTasks()

    def states(self, raw: np.ndarray) -> np.ndarray:
        return raw

    def told_apart(self, states: np.ndarray, next_states: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        return -np.abs(next_states[None, :, :2] - tasks[:, None]).sum(-1)

    def rewards(self, before: np.ndarray, actions: np.ndarray, after: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        distance = np.abs(after[..., :2] - tasks).sum(-1)
        return -distance - 0.1 * control_cost(actions) - contact_cost(after)


class HalfCheetah(Domain):
    """All of the half-cheetah's domains."""

    base_id = "HalfCheetah-v5"
    action_dim = 6
    position_dim = 1
    tells_health = False


class HalfCheetahVelocity(HalfCheetah):
    """
    The half-cheetah runs at a velocity: -|v - v*| - 0.05 |a|^2, never ending early.

    The state is the coordinates without x, the velocities and the torso's position x, y, z (8 + 9 + 3 = 20 numbers).
    """

    state_dim = 20

    def make_tasks(self) -> TaskDistribution:
        return VelocityTasks()

    def states(self, raw: np.ndarray) -> np.ndarray:
        x, z = raw[..., 0], raw[..., 1] + _CHEETAH_TORSO_HEIGHT
        return np.concatenate([raw[..., 1:], np.stack([x, np.zeros_like(x), z], axis=-1)], axis=-1)

    def told_apart(self, states: np.ndarray, next_states: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        velocity = (next_states - states)[:, _CHEETAH_X] / TIMESTEP
        return -np.abs(velocity - tasks)

    def rewards(self, before: np.ndarray, actions: np.ndarray, after: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        velocity = (after[..., 0] - before[..., 0]) / TIMESTEP
        return -np.abs(velocity - tasks[..., 0]) - 0.05 * control_cost(actions)


class Forward(Domain):
    """
    Domains whose tasks differ in their bodies: gymnasium's reward for running forward, and its state without the place.

    Velocities are those of the generalised coordinates, as in all domains.
    """

    control_weight: ClassVar[float]  #: of the cost of actions
    changes_model = True
    has_target = False

    def states(self, raw: np.ndarray) -> np.ndarray:
        return raw[..., self.position_dim : self.position_dim + self.state_dim]

    def rewards(self, before: np.ndarray, actions: np.ndarray, after: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        return (after[..., 0] - before[..., 0]) / self.timestep - self.control_weight * control_cost(actions)


class MassTimesFactor(Forward):
    """All masses, and with them inertias, are multiplied by the task's factor."""

    terminates = True
    healthy_reward = 1.0
    control_weight = 1e-3
    position_dim = 1
    timestep = 0.008  # four integration steps
    max_velocity = 10.0

    def make_tasks(self) -> TaskDistribution:
        return MassTasks()

    def healthy(self, coordinates: np.ndarray, env: Any) -> np.ndarray:
        (low, high), (least, most) = env._healthy_z_range, env._healthy_angle_range
        height, angle = coordinates[..., 1], coordinates[..., 2]
        return (low < height) & (height < high) & (least < angle) & (angle < most)

    def change_model(self, model: Any, original: Any, task: Task) -> None:
        scale_masses(model, original, task[0])


class HopperMass(MassTimesFactor):
    """The hopper runs: velocity - 0.001 |a|^2 + 1 as long as it is healthy; its masses differ."""

    base_id = "Hopper-v5"
    state_dim = 11
    action_dim = 3

    def healthy(self, coordinates: np.ndarray, env: Any) -> np.ndarray:
        low, high = env._healthy_state_range
        rest = coordinates[..., 2:]
        return super().healthy(coordinates, env) & ((low < rest) & (rest < high)).all(-1)


class WalkerMass(MassTimesFactor):
    """The walker with two legs runs: velocity - 0.001 |a|^2 + 1 as long as it is healthy; its masses differ."""

    base_id = "Walker2d-v5"
    state_dim = 17
    action_dim = 6


class MassAndDamping(Forward):
    """All masses are multiplied by the first factor of the task, the damping of all joints by the second."""

    def make_tasks(self) -> TaskDistribution:
        return MassDampingTasks()

    def change_model(self, model: Any, original: Any, task: Task) -> None:
        scale_masses(model, original, task[0])
        model.dof_damping[:] = original.dof_damping * task[1]


class HalfCheetahMassDamping(MassAndDamping, HalfCheetah):
    """The half-cheetah runs: velocity - 0.1 |a|^2, never ending early; its masses and its joints' damping differ."""

    state_dim = 17
    control_weight = 0.1


class ForwardAnt(Ant, Forward):
    """The ant runs along x: velocity - 0.5 |a|^2 - contact cost + 1 as long as it is healthy. The state is Ant-direction's."""

    state_dim = 27
    terminates = True
    healthy_reward = 1.0
    control_weight = 0.5

    def rewards(self, before: np.ndarray, actions: np.ndarray, after: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        return super().rewards(before, actions, after, tasks) - contact_cost(after)


class AntMassDamping(MassAndDamping, ForwardAnt):
    """The ant that runs along x; its masses and its joints' damping differ."""


class AntCrippled(ForwardAnt):
    """The ant that runs along x; the motors of both joints of one of its legs are dead."""

    def make_tasks(self) -> TaskDistribution:
        return CrippledTasks()

    def change_model(self, model: Any, original: Any, task: Task) -> None:
        dead = [original.joint(f"{name}_{task[0] + 1}").id for name in ("hip", "ankle")]
        model.actuator_gear[:] = original.actuator_gear
        model.actuator_gear[np.isin(original.actuator_trnid[:, 0], dead)] = 0.0


def scale_masses(model: Any, original: Any, factor: float) -> None:
    """
    :param model: the model to change
    :param original: gymnasium's
    :param factor: of all masses and inertias, as if all geometries had another density
    """
    model.body_mass[:] = original.body_mass * factor
    model.body_inertia[:] = original.body_inertia * factor


#: The domains by the names of their registered environments.
DOMAINS: Mapping[str, Domain] = MappingProxyType(
    {
        "AntDirection-v0": AntDirection(),
        "AntGoal-v0": AntGoal(),
        "HalfCheetahVelocity-v0": HalfCheetahVelocity(),
        "HopperMass-v0": HopperMass(),
        "WalkerMass-v0": WalkerMass(),
        "HalfCheetahMassDamping-v0": HalfCheetahMassDamping(),
        "AntMassDamping-v0": AntMassDamping(),
        "AntCrippled-v0": AntCrippled(),
    }
)


def domain_of(env_id: str) -> Domain:
    """
    :param env_id: id of a registered environment
    :return: its domain
    :raises ValueError: if it is none of the locomotion environments
    """
    if env_id not in DOMAINS:
        raise ValueError(f"env_id={env_id!r} is no locomotion environment: use one of {', '.join(DOMAINS)}")
    return DOMAINS[env_id]


def state_space(domain: Domain) -> spaces.Box:
    """
    :param domain: a domain
    :return: the space of the agent's states
    """
    return spaces.Box(-np.inf, np.inf, (domain.state_dim,), dtype=np.float32)


def start_seed(seed: int) -> int:
    """
    :param seed: of an environment
    :return: seed of its start states: of the same numbers as tasks are drawn, the first start state would tell the task
    """
    return int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])


def keep_no_log_file() -> None:
    """Keep MuJoCo from writing ``MUJOCO_LOG.TXT`` to the working directory, unless somebody has chosen another file."""
    import mujoco

    config = mujoco.MjLogConfig.get() if hasattr(mujoco, "MjLogConfig") else None  # earlier MuJoCo has no choice
    if config is not None and config.logfile == "MUJOCO_LOG.TXT":
        config.logto_file = False
        mujoco.MjLogConfig.set(config)


def give_body(domain: Domain, model: Any, data: Any, original: Any, task: Task) -> None:
    """
    :param domain: a domain whose tasks differ in their bodies
    :param model: the ``mujoco.MjModel`` that gets the task's
    :param data: a ``mujoco.MjData`` to work with, which is to be reset afterwards
    :param original: gymnasium's model
    :param task: ``(task_dim,)``
    """
    import mujoco

    domain.change_model(model, original, task)
    mujoco.mj_setConst(model, data)


#: What MuJoCo counts where a simulation is no physics any more; it goes on from the model's zero position.
_UNSTABLE = ("INERTIA", "BADQPOS", "BADQVEL", "BADQACC", "BADCTRL")


def instabilities(warnings: np.ndarray) -> np.ndarray:
    """
    :param warnings: MuJoCo's counts by kind, ``(..., kinds)``
    :return: those of an unstable simulation, ``(..., 5)``
    """
    import mujoco

    return warnings[..., [int(getattr(mujoco.mjtWarning, f"mjWARN_{name}")) for name in _UNSTABLE]]


def unstable(domain: Domain, task: Task, where: str, step: int, counts: np.ndarray) -> ValueError:
    """
    :param domain: a domain
    :param task: the task, ``(task_dim,)``
    :param where: the environment, for people
    :param step: of the episode, from 1 on
    :param counts: from :func:`instabilities`, ``(5,)``
    :return: the error that says so
    """
    names = ", ".join(f"mjWARN_{_UNSTABLE[kind]}" for kind in np.flatnonzero(counts))
    return ValueError(
        f"The simulation of {where} became unstable in step {step} of its episode with task={task.tolist()} of "
        f"{type(domain).__name__} ({names}): expected a body that its actions can move in steps of this length."
    )


class LocomotionEnv(TaskEnvMixin, gym.Wrapper):
    """
    One environment of a domain, without a time limit; the registered ids add it and string episodes into meta-episodes.

    :param domain: the domain
    :param task_split: the split that ``reset()`` samples tasks from
    :param render_mode: None or one of gymnasium's
    :param validation_tasks: training tasks to hold out as the split ``validation``
    :param integrator: one of :data:`INTEGRATORS`, for other physics, which may be cheaper; None for the model's own
    :param kwargs: of the gymnasium environment, for instance the size of pictures
    :raises ValueError: if there is no such split or integrator, or ``kwargs`` has what the domain itself says
    """

    def __init__(
        self,
        domain: Domain,
        task_split: str = "train",
        render_mode: str | None = None,
        validation_tasks: int = 0,
        integrator: str | None = None,
        **kwargs: Any,
    ) -> None:
        if integrator is not None and integrator not in INTEGRATORS:
            raise ValueError(f"integrator={integrator!r}: use one of {', '.join(INTEGRATORS)}, or None for the model's own.")
        own = {"exclude_current_positions_from_observation": False}
        if domain.tells_health:
            own["terminate_when_unhealthy"] = domain.terminates
        for name in own.keys() & kwargs:
            raise ValueError(f"{name}={kwargs[name]}: the domain says so itself ({own[name]}).")
        for name in kwargs:
            if name.endswith(("_weight", "_reward", "_range")) or name in _FIXED_OPTIONS:
                raise ValueError(f"{name}={kwargs[name]}: rewards, states and time steps are the domain's own, leave it out.")
        options = {**own, **kwargs}
        keep_no_log_file()
        # Both checks cost time in every step.
        base = gym.make(domain.base_id, max_episode_steps=-1, disable_env_checker=True, render_mode=render_mode, **options)
        super().__init__(base.unwrapped)
        base.unwrapped.spec = None  # gymnasium sets that of the registered id
        self.domain = domain
        self.set_tasks(domain.make_tasks().hold_out(validation_tasks), task_split)
        self.observation_space = state_space(domain)
        self._raw: np.ndarray | None = None
        self._steps = 0
        self._task_rng, _ = np_random()
        self._integrator = integrator
        self._prepare_model()

    def _prepare_model(self) -> None:
        """Change gymnasium's model for all tasks, and keep it for those that change it."""
        import mujoco

        model = self.unwrapped.model  # type: ignore[attr-defined]
        if self._integrator is not None:
            model.opt.integrator = getattr(mujoco.mjtIntegrator, f"mjINT_{self._integrator.upper()}")
        self._original = copy(model) if self.domain.changes_model else None

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy has a robot that gymnasium made anew.
        vars(self).update(state)
        self._prepare_model()

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]
        """That of the registered id, which makes this wrapper too."""
        return self.env.spec

    @property
    def task_rng(self) -> np.random.Generator:
        """The tasks' own random stream, so that they do not depend on the start states drawn before."""
        return self._task_rng

    @property
    def position(self) -> np.ndarray | None:
        """Where the robot is, ``(position_dim,)``; None before the first reset."""
        return None if self._raw is None else self.domain.positions(self._raw)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self._task_rng, _ = np_random(seed)
        task = self.select_task(options)
        if self._original is not None:
            base: Any = self.unwrapped
            give_body(self.domain, base.model, base.data, self._original, task)
        self._raw, _ = self.env.reset(seed=None if seed is None else start_seed(seed))
        self._steps = 0
        return self.domain.states(self._raw).astype(np.float32), {"task": task}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._raw is None:
            raise gym.error.ResetNeeded("Cannot call step() before reset()")
        assert self._task is not None
        before = self._raw
        self._raw, _, terminated, _, _ = self.env.step(action)
        self._steps += 1
        counts = instabilities(self.unwrapped.data.warning.number)  # type: ignore[attr-defined]
        if counts.any():
            raise unstable(self.domain, self._task, "an environment", self._steps, counts)
        reward = self.domain.rewards(before, action, self._raw, self._task)
        if self.domain.healthy_reward:
            reward = reward + self.domain.healthy_reward * self.unwrapped.is_healthy  # type: ignore[attr-defined]
        return self.domain.states(self._raw).astype(np.float32), float(reward), terminated, False, {}
