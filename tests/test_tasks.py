"""Tasks, their distributions and splits, and the protocol of environments that host them."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_ldm import make_meta_vec_env
from sb3_ldm.envs import SPLITS, FiniteTaskDistribution, GridNavi, TaskDistribution, TaskEnv, TaskEnvMixin, check_task_env
from sb3_ldm.envs.tasks import VALIDATION

TRAIN = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
TEST = np.array([[6.0, 7.0], [8.0, 9.0]])


class UniformTasks(TaskDistribution):
    """A continuum of tasks."""

    task_dim = 1

    def sample(self, split, rng):
        low = {"train": 0.0, "test": 1.0}.get(self.validate_split(split), 0.0)
        return rng.uniform(low, low + 1, size=1)


class PlainEnv(TaskEnvMixin, gym.Env):
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.set_tasks(FiniteTaskDistribution({"train": TRAIN, "test": TEST}), "train")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, dtype=np.float32), {"task": self.select_task(options)}

    def step(self, action):
        return np.zeros(2, dtype=np.float32), 0.0, False, False, {}


class DeafEnv(PlainEnv):
    """Ignores the task it is asked for."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


class SilentEnv(PlainEnv):
    """Does not report its task."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)[0], {}


@pytest.fixture
def distribution() -> FiniteTaskDistribution:
    return FiniteTaskDistribution({"train": TRAIN, "test": TEST, "near": TRAIN[:1]})


def test_finite_splits_and_their_defaults(distribution):
    assert distribution.splits == (*SPLITS, "near")
    assert distribution.task_dim == 2
    np.testing.assert_array_equal(distribution.tasks("train"), TRAIN)
    np.testing.assert_array_equal(distribution.tasks("eval"), TEST)
    np.testing.assert_array_equal(distribution.tasks("all"), np.concatenate([TRAIN, TEST]))
    np.testing.assert_array_equal(distribution.tasks("near"), TRAIN[:1])


@pytest.mark.parametrize("split", [*SPLITS, "near"])
def test_sampling_covers_the_split_and_nothing_else(distribution, split):
    rng = np.random.default_rng(0)
    sampled = {tuple(distribution.sample(split, rng)) for _ in range(200)}
    assert sampled == {tuple(task) for task in distribution.tasks(split)}


def test_sampling_depends_on_the_generator_alone(distribution):
    draws = [[distribution.sample("all", rng).tolist() for _ in range(20)] for rng in map(np.random.default_rng, (1, 1, 2))]
    assert draws[0] == draws[1] != draws[2]


def test_the_lists_cannot_be_changed_from_outside(distribution):
    distribution.tasks("train")[:] = -1
    distribution.sample("train", np.random.default_rng(0))[:] = -1
    np.testing.assert_array_equal(distribution.tasks("train"), TRAIN)


@pytest.mark.parametrize(
    "splits, message",
    [
        ({"train": TRAIN}, "lacks test"),
        ({"test": TEST}, "lacks train"),
        ({"train": TRAIN, "test": TRAIN[:1]}, "must be disjoint"),
        ({"train": TRAIN, "test": TEST[:0]}, "n_tasks > 0"),
        ({"train": TRAIN, "test": TEST[:, :1]}, "one task_dim"),
        ({"train": TRAIN[0], "test": TEST[0]}, "shapes"),
    ],
)
def test_unfit_splits_are_refused(splits, message):
    with pytest.raises(ValueError, match=message):
        FiniteTaskDistribution(splits)


def test_unknown_split_names_those_that_exist(distribution):
    for use in (distribution.tasks, distribution.validate_split, lambda split: distribution.sample(split, None)):
        with pytest.raises(ValueError, match=r"split='trian' does not exist .* train, test, eval, all, near"):
            use("trian")


def test_infinite_split_cannot_be_listed():
    distribution = UniformTasks()
    assert 1 <= distribution.sample("test", np.random.default_rng(0)).item() < 2
    with pytest.raises(ValueError, match="split='train' of UniformTasks is infinite"):
        distribution.tasks("train")
    with pytest.raises(ValueError, match="does not exist"):
        distribution.tasks("trian")


@pytest.mark.parametrize("task", [[1.0], 3, "goal", None, [[1.0, 2.0]], [1.0, np.nan], [np.inf, 0.0]])
def test_tasks_of_the_wrong_form_are_refused(distribution, task):
    with pytest.raises(ValueError, match=r"task=.* is not a task"):
        distribution.validate_task(task)


def test_no_task_is_rounded_to_another():
    between = {"train": np.array([[0], [3]]), "test": np.array([[1], [2]]), "eval": [[0.75]], "validation": np.array([[0.5]])}
    distribution = FiniteTaskDistribution(between)
    assert distribution.tasks("eval").tolist() == [[0.75]] and distribution.tasks("validation").tolist() == [[0.5]]
    assert distribution.sample("validation", np.random.default_rng(0)).tolist() == [0.5]
    assert {distribution.tasks(split).dtype for split in distribution.splits} == {distribution.task_dtype}


def test_integer_tasks_refuse_fractions():
    distribution = FiniteTaskDistribution({"train": np.array([[1, 2]]), "test": np.array([[3, 4]])})
    assert distribution.validate_task([5.0, 6.0]).dtype == distribution.task_dtype == np.int64
    with pytest.raises(ValueError, match="whole numbers"):
        distribution.validate_task([5.5, 6.0])


def test_environments_follow_the_protocol_through_wrappers():
    for env in (PlainEnv(), GridNavi(), gym.wrappers.TimeLimit(GridNavi(), 3), gym.wrappers.OrderEnforcing(PlainEnv())):
        check_task_env(env, with_reset=True)
    assert isinstance(PlainEnv(), TaskEnv)
    assert not isinstance(gym.make("CartPole-v1").unwrapped, TaskEnv)


@pytest.mark.parametrize(
    "env, message",
    [
        (lambda: gym.make("CartPole-v1"), "no attribute 'task_distribution'.*TaskEnvMixin"),
        (DeafEnv, "ignores options"),
        (SilentEnv, r"info\['task'\]"),
    ],
)
def test_environments_that_do_not_follow_it_are_told_what_to_do(env, message):
    with pytest.raises(ValueError, match=message):
        check_task_env(env(), with_reset=True)


def test_check_refuses_a_distribution_of_another_kind():
    env = PlainEnv()
    env.task_distribution = [1, 2]
    with pytest.raises(ValueError, match="expected a TaskDistribution"):
        check_task_env(env)


def test_a_task_can_be_chosen_sampled_and_read_back():
    env = PlainEnv()
    assert env.task is None
    _, info = env.reset(options={"task": TEST[1].tolist()})
    np.testing.assert_array_equal(info["task"], TEST[1])
    np.testing.assert_array_equal(env.task, TEST[1])
    env.task[:] = -1
    np.testing.assert_array_equal(env.task, TEST[1])
    env.reset()
    assert env.task.tolist() in TRAIN.tolist()


def test_choosing_a_task_leaves_the_random_stream_alone():
    sampled, interrupted = PlainEnv(), PlainEnv()
    first = [sampled.reset(seed=5)[1]["task"].tolist(), *(sampled.reset()[1]["task"].tolist() for _ in range(10))]
    second = [interrupted.reset(seed=5)[1]["task"].tolist()]
    for _ in range(10):
        interrupted.reset(options={"task": TEST[0]})
        second.append(interrupted.reset()[1]["task"].tolist())
    assert first == second


def test_the_split_can_be_changed():
    env = PlainEnv()
    env.set_task_split("test")
    assert env.task_split == "test"
    assert env.reset(seed=0)[1]["task"].tolist() in TEST.tolist()
    with pytest.raises(ValueError, match="split='trian'"):
        env.set_task_split("trian")


def test_training_tasks_are_held_out_for_validation(distribution):
    held = distribution.hold_out(1, seed=3)
    assert VALIDATION in held.splits and VALIDATION not in distribution.splits
    together = np.concatenate([held.tasks("train"), held.tasks(VALIDATION)])
    np.testing.assert_array_equal(np.unique(together, axis=0), np.unique(distribution.tasks("train"), axis=0))
    assert len(held.tasks(VALIDATION)) == 1 and len(together) == len(distribution.tasks("train"))
    np.testing.assert_array_equal(held.tasks("test"), distribution.tasks("test"))
    np.testing.assert_array_equal(distribution.hold_out(1, seed=3).tasks("train"), held.tasks("train"))
    with pytest.raises(ValueError, match="validation_tasks=99"):
        distribution.hold_out(99)


@pytest.mark.parametrize("backend", ["batched", "dummy"])
def test_held_out_goals_never_come_up_in_training(backend):
    env = make_meta_vec_env("GridNavi-v0", 4, seed=0, backend=backend, env_kwargs={"validation_tasks": 17, "horizon": 1})
    only = env.get_attr("task_distribution", 0)[0].tasks("train")
    assert only.shape == (1, 2)
    env.reset()
    for _ in range(20):
        env.step(np.zeros(4, dtype=int))
        assert all((task == only[0]).all() for task in env.get_attr("task"))


def test_any_training_task_may_be_held_out():
    distribution = FiniteTaskDistribution({"train": np.arange(6)[:, None], "test": np.array([[9]])})
    held_out = {int(distribution.hold_out(1, seed=seed).tasks(VALIDATION)[0, 0]) for seed in range(100)}
    assert held_out == set(range(6))


def test_tasks_that_are_listed_twice_are_held_out_together():
    listed = {"train": np.array([[1], [1], [2], [2], [3]]), "test": np.array([[9]])}
    held = FiniteTaskDistribution(listed).hold_out(2)
    train, validation = (set(held.tasks(split).flatten().tolist()) for split in ("train", "validation"))
    assert len(validation) == 2 and train | validation == {1, 2, 3} and not train & validation
    with pytest.raises(ValueError, match="validation_tasks=3 of 3"):
        FiniteTaskDistribution(listed).hold_out(3)
    for name in ("test", "validation"):
        shared = {"train": np.array([[0.3]]), "test": np.array([[0.5]]), name: np.array([[0.1 + 0.2]])}
        with pytest.raises(ValueError, match=f"splits train and {name} share the tasks"):
            FiniteTaskDistribution(shared)


@pytest.mark.parametrize(
    "train", [[["reach"], ["push"]], [[None], [None]], [[1.0], [np.nan]], [[1.0], [np.inf]], [[object()], [object()]]]
)
def test_tasks_that_are_no_numbers_are_to_be_numbered(train):
    with pytest.raises(ValueError, match=r"split 'train' has tasks such as .* expected finite numbers: number tasks"):
        FiniteTaskDistribution({"train": train, "test": [[5.0]]})
    with pytest.raises(ValueError, match=r"split 'test' has tasks such as .* expected finite numbers: number tasks"):
        FiniteTaskDistribution({"train": [[5.0]], "test": train})


def test_tasks_of_several_lengths_and_tasks_that_their_type_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="split 'train' has tasks that are no array"):
        FiniteTaskDistribution({"train": [[1.0], [1.0, 2.0]], "test": [[5.0]]})
    small = FiniteTaskDistribution({"train": np.array([[1]], dtype=np.float32), "test": np.array([[2]], dtype=np.float32)})
    for task in ([1e300], ["1"], [[1.0]], 1.0, [1.0, 2.0], [[1.0], [1.0, 2.0]]):
        with pytest.raises(ValueError, match="is not a task"):
            small.validate_task(task)
    assert small.validate_task([1.5]).dtype == np.float32
