"""The batched vectorised environment is the same thing as a DummyVecEnv of wrapped environments, only faster."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.atari_wrappers import NoopResetEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from sb3_ldm.envs import (
    BACKENDS,
    BatchedGridNavi,
    BatchedMetaVecEnv,
    BatchedStep,
    FiniteTaskDistribution,
    TaskEnvMixin,
    backend_of,
    factory,
    make_meta_vec_env,
    register_batched_backend,
)
from sb3_ldm.envs.meta_episode import MetaEpisodeWrapper
from sb3_ldm.envs.registration import register_envs

N_ENVS, EPISODES, HORIZON = 5, 3, 6
SMALL = {"episodes_per_task": EPISODES, "horizon": HORIZON}
META = EPISODES * HORIZON
IDS = ("GridNavi-v0", "GridNaviExtrapolation-v0")


# A point that walks by the action plus the task, until it is out of sight; no notion of success.
WALKS = FiniteTaskDistribution({"train": np.array([[0.1], [0.2], [0.3]]), "test": np.array([[-0.1], [-0.2]])})
POSITIONS = spaces.Box(-np.inf, np.inf, (2,), dtype=np.float32)
PUSHES = spaces.Box(-1, 1, (2,), dtype=np.float32)


def walk(positions: np.ndarray, actions: np.ndarray, tasks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, rewards and ends that the actions lead to; works on one walk or on many."""
    positions = (positions + actions + tasks).astype(np.float32)
    distances = np.abs(positions).sum(axis=-1, dtype=np.float64)
    return positions, -distances, distances > 3


class SingleWalk(TaskEnvMixin, gym.Env):
    observation_space = POSITIONS
    action_space = PUSHES

    def __init__(self):
        self.set_tasks(WALKS, "train")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        task = self.select_task(options)
        self.position = np.zeros(2, dtype=np.float32)
        return self.position, {"task": task}

    def step(self, action):
        self.position, reward, terminated = walk(self.position, action, self.task)
        return self.position, float(reward), bool(terminated), False, {}


class BatchedWalk:
    observation_space = POSITIONS
    action_space = PUSHES
    max_episode_steps = HORIZON
    task_distribution = WALKS

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.positions = np.zeros((num_envs, 2), dtype=np.float32)
        self.current = np.zeros((num_envs, 1))
        self.elapsed = np.zeros(num_envs, dtype=int)

    def seed(self, seeds):
        """Nothing but the tasks is random."""

    def reset(self, indices, tasks):
        self.positions[indices], self.current[indices], self.elapsed[indices] = 0, tasks, 0
        return self.positions[indices]

    def step(self, actions):
        self.positions, rewards, terminated = walk(self.positions, actions, self.current)
        self.elapsed += 1
        return BatchedStep(self.positions.copy(), rewards, terminated, self.elapsed >= HORIZON, None)


def assert_same(batched: Any, dummy: Any, where: str = "") -> None:
    """Bit for bit the same values of the same types, but for the wall-clock time of an episode."""
    assert type(batched) is type(dummy), where
    if isinstance(dummy, dict):
        assert set(batched) == set(dummy), where
        for key in set(dummy) - {"t"}:
            assert_same(batched[key], dummy[key], f"{where}/{key}")
    elif isinstance(dummy, list):
        assert len(batched) == len(dummy), where
        for index, pair in enumerate(zip(batched, dummy, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    elif isinstance(dummy, np.ndarray):
        assert batched.dtype == dummy.dtype, where
        np.testing.assert_array_equal(batched, dummy, err_msg=where)
    else:
        assert batched == dummy, where


def assert_same_steps(batched: VecEnv, dummy: VecEnv, steps: int, seed: int = 0) -> int:
    """Take random actions in both; return the meta-episodes that ended."""
    batched.action_space.seed(seed)
    ended = 0
    for step in range(steps):
        actions = np.array([batched.action_space.sample() for _ in range(batched.num_envs)])
        pair = batched.step(actions), dummy.step(actions)
        for name, ours, theirs in zip(("observations", "rewards", "dones", "infos"), *pair, strict=True):
            assert_same(ours, theirs, f"step {step}: {name}")
        assert_same(batched.reset_infos, dummy.reset_infos, f"step {step}: reset_infos")
        assert_same(batched.get_attr("task"), dummy.get_attr("task"))
        ended += int(pair[0][2].sum())
    return ended


def make_pair(env_id: str = "GridNavi-v0", seed: int | None = 0, **env_kwargs: Any) -> tuple[VecEnv, VecEnv]:
    kwargs = {**SMALL, **env_kwargs}
    batched, dummy = (make_meta_vec_env(env_id, N_ENVS, seed, backend, kwargs) for backend in ("batched", "dummy"))
    assert isinstance(batched, BatchedMetaVecEnv) and isinstance(dummy, DummyVecEnv)
    return batched, dummy


@pytest.fixture
def batched() -> VecEnv:
    return make_meta_vec_env("GridNavi-v0", N_ENVS, seed=0, env_kwargs=SMALL)


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("observation", ["xy", "scaled", "one_hot"])
@pytest.mark.parametrize("task_split", ["train", "test", "all"])
def test_same_as_dummy(env_id, observation, task_split):
    batched, dummy = make_pair(env_id, seed=11, observation=observation, task_split=task_split)
    assert batched.observation_space == dummy.observation_space and batched.action_space == dummy.action_space
    assert_same(batched.reset(), dummy.reset())
    assert_same(batched.reset_infos, dummy.reset_infos)
    assert assert_same_steps(batched, dummy, 4 * META) == 4 * N_ENVS


@pytest.mark.parametrize("task_split", ["train", "test", "all"])
def test_doors_are_the_same_as_dummy(task_split):
    batched, dummy = make_pair("Doors-v0", seed=11, task_split=task_split)
    assert batched.observation_space == dummy.observation_space and batched.action_space == dummy.action_space
    assert_same(batched.reset(), dummy.reset())
    assert assert_same_steps(batched, dummy, 4 * META) == 4 * N_ENVS


def test_same_as_dummy_at_full_size():
    batched, dummy = (make_meta_vec_env("GridNavi-v0", 3, 5, backend) for backend in ("batched", "dummy"))
    assert_same(batched.reset(), dummy.reset())
    assert assert_same_steps(batched, dummy, 3 * 120) == 9


def test_same_as_dummy_with_vector_actions_early_ends_and_no_successes():
    batched = BatchedMetaVecEnv(BatchedWalk(N_ENVS), EPISODES)
    dummy = DummyVecEnv([lambda: Monitor(MetaEpisodeWrapper(SingleWalk(), EPISODES, HORIZON))] * N_ENVS)
    for venv in (batched, dummy):
        venv.seed(3)
    assert_same(batched.reset(), dummy.reset())
    assert assert_same_steps(batched, dummy, 6 * META) > 6 * N_ENVS


def test_same_as_dummy_after_a_reset_in_the_middle():
    batched, dummy = make_pair()
    for steps in (HORIZON + 1, META - 1, META + 2):
        assert_same(batched.reset(), dummy.reset())  # without a new seed: the streams go on
        assert_same_steps(batched, dummy, steps)
    for venv in (batched, dummy):
        venv.seed(99)
    assert_same(batched.reset(), dummy.reset())
    assert_same_steps(batched, dummy, META)


def test_chosen_tasks_last_one_meta_episode():
    batched, dummy = make_pair()
    options = [{"task": np.array([index + 2, 3])} for index in range(N_ENVS - 1)] + [{}]
    for venv in (batched, dummy):
        venv.set_options(options)
    assert_same(batched.reset(), dummy.reset())
    assert [task.tolist() for task in batched.get_attr("task", range(N_ENVS - 1))] == [[2, 3], [3, 3], [4, 3], [5, 3]]
    assert_same_steps(batched, dummy, 2 * META + 1)
    assert_same(batched.reset(), dummy.reset())
    assert_same_steps(batched, dummy, 1)
    for venv in (batched, dummy):
        venv.set_options({"task": [0, 1]})
        with pytest.raises(ValueError, match="cannot be a goal"):
            venv.reset()


def test_the_split_can_be_changed_in_both():
    batched, dummy = make_pair()
    for venv in (batched, dummy):
        venv.env_method("set_task_split", "test", indices=[0, 2])
        assert venv.get_attr("task_split") == ["test", "train", "test", "train", "train"]
    assert_same(batched.reset(), dummy.reset())
    assert_same_steps(batched, dummy, 3 * META)


def test_unseeded_environments_differ():
    venv = make_meta_vec_env("GridNavi-v0", 64, env_kwargs=SMALL)
    venv.reset()
    assert len({tuple(task) for task in venv.get_attr("task")}) > 5
    unseeded = BatchedMetaVecEnv(BatchedGridNavi(64), EPISODES)
    unseeded.reset()
    assert len({tuple(task) for task in unseeded.get_attr("task")}) > 5


def test_arrays_belong_to_the_caller(batched):
    first = batched.reset()
    kept = [first, *batched.step(np.full(N_ENVS, 2))[:3]]
    copies = [array.copy() for array in kept]
    for _ in range(2 * META):
        batched.step(np.full(N_ENVS, 1))
    for array, copied in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copied)
    kept[0][:] = 77
    assert not (batched.reset() == 77).any()


def test_infos_belong_to_the_caller(batched):
    batched.reset()
    for _ in range(META):
        *_, infos = batched.step(np.ones(N_ENVS, dtype=int))
    tasks = [task.tolist() for task in batched.get_attr("task")]
    for info, reset_info in zip(infos, batched.reset_infos, strict=True):
        for value in (info["task"], info["episode_returns"], info["episode_lengths"], reset_info["task"]):
            value[:] = -5
    assert [task.tolist() for task in batched.get_attr("task")] == tasks
    for _ in range(META):
        *_, infos = batched.step(np.ones(N_ENVS, dtype=int))
    assert all((info["episode_lengths"] == HORIZON).all() for info in infos)


def test_attributes_and_methods_as_of_wrapped_environments():
    batched, dummy = make_pair()
    batched.reset(), dummy.reset()
    for name in ("task", "task_split", "render_mode", "layout", "episodes_per_task"):
        assert_same(batched.get_attr(name), dummy.get_attr(name))
        assert_same(batched.get_attr(name, 2), dummy.get_attr(name, 2))
        assert_same(batched.env_method("get_wrapper_attr", name), dummy.env_method("get_wrapper_attr", name))
        assert batched.has_attr(name)
    assert batched.get_attr("spec")[0].id == dummy.get_attr("spec")[0].id == "GridNavi-v0"
    assert_same(batched.get_attr("task_distribution")[0].tasks("all"), dummy.get_attr("task_distribution")[0].tasks("all"))
    for wrapper in (Monitor, MetaEpisodeWrapper, gym.Wrapper, NoopResetEnv):
        assert batched.env_is_wrapped(wrapper) == dummy.env_is_wrapped(wrapper)
    assert not batched.has_attr("colour")
    assert batched.env_method("has_wrapper_attr", "colour") == [False] * N_ENVS


def test_misuse_is_refused(batched):
    with pytest.raises(gym.error.ResetNeeded):
        batched.step(np.zeros(N_ENVS, dtype=int))
    batched.reset()
    with pytest.raises(ValueError, match="actions has 2 rows"):
        batched.step(np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match="split='trian'"):
        batched.env_method("set_task_split", "trian")
    with pytest.raises(AttributeError, match=r"env_method\('set_task_split', split\)"):
        batched.set_attr("task_split", "all")
    with pytest.raises(AttributeError, match="use one of get_wrapper_attr"):
        batched.env_method("fly")
    with pytest.raises(ValueError, match="episodes_per_task=0"):
        BatchedMetaVecEnv(BatchedGridNavi(2), 0)
    with pytest.raises(ValueError, match="render_mode='human'"):
        BatchedMetaVecEnv(BatchedGridNavi(2), 1, render_mode="human")


def test_rewards_that_are_no_numbers_are_refused():
    venv = BatchedMetaVecEnv(BatchedWalk(2), EPISODES)
    venv.reset()
    with pytest.raises(ValueError, match=r"at step 1 .* NaN or infinite"):
        venv.step(np.full((2, 2), np.nan))


class ScriptedWalk(BatchedWalk):
    """A walk of which one thing is as it is told to be, from some call on."""

    def __init__(self, num_envs, name, value, resets=0):
        super().__init__(num_envs)
        self.name, self.value, self.resets = name, value, resets

    def reset(self, indices, tasks):
        states = super().reset(indices, tasks)
        self.resets -= 1
        return np.broadcast_to(self.value, states.shape) if self.name == "reset" and self.resets < 0 else states

    def step(self, actions):
        step = super().step(actions)
        return step if self.name == "reset" else step._replace(**{self.name: self.value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("states", np.zeros(2, dtype=np.float32), r"observation of shape \(2,\)"),
        ("states", np.zeros((3, 1), dtype=np.float32), r"observation of shape \(3, 1\)"),
        ("states", np.full((3, 2), 1e300), "observation=.*at step 1 after the reset has NaN or infinity"),
        ("rewards", np.zeros((3, 1)), r"rewards .* at step 1 .* have shape \(3, 1\)"),
        ("rewards", 0.0, r"rewards .* have shape \(\)"),
        ("rewards", np.full(3, 1e300), "reward=.*at step 1"),
        ("terminated", False, r"terminated .* has shape \(\)"),
        ("truncated", np.zeros((3, 1), dtype=bool), r"truncated .* has shape \(3, 1\)"),
        ("truncated", np.zeros(3, dtype=int), r"truncated .* type int64"),
        ("reset", np.float32(np.nan), "observation=.*at the reset after step 0 has NaN or infinity"),
    ],
)
def test_what_a_backend_returns_is_checked(name, value, message):
    venv = BatchedMetaVecEnv(ScriptedWalk(3, name, value), EPISODES)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        venv.reset()
        venv.step(np.zeros((3, 2)))


def test_resets_between_episodes_are_checked_too():
    venv = BatchedMetaVecEnv(ScriptedWalk(3, "reset", 1e300, resets=1), EPISODES)
    venv.reset()
    for _ in range(HORIZON - 1):
        venv.step(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=f"(?s)observation=.*at the reset after step {HORIZON} has NaN or infinity"):
        venv.step(np.zeros((3, 2)))


@pytest.mark.parametrize(
    "actions", [np.zeros(2), np.zeros((2, 1)), np.zeros((2, 2, 1)), np.float32(0.0), np.full((2, 2), "a")]
)
def test_actions_are_not_broadcast(actions):
    venv = BatchedMetaVecEnv(BatchedWalk(2), EPISODES)
    venv.reset()
    with pytest.raises(ValueError, match="actions="):
        venv.step(actions)


@pytest.mark.parametrize("action", [-1, 5, 1.0])
def test_discrete_actions_that_do_not_exist_are_named(batched, action):
    batched.reset()
    with pytest.raises(ValueError, match=r"actions=.*use whole numbers 0 to 4"):
        batched.step(np.full(N_ENVS, action))


def test_pictures(batched):
    batched.reset()
    picture = batched.render()
    assert picture.dtype == np.uint8 and picture.shape == (3 * 224, 2 * 224, 3)
    batched.step(np.full(N_ENVS, 1))
    assert not np.array_equal(batched.render(), picture)
    undrawable = BatchedMetaVecEnv(BatchedWalk(1), 1, render_mode="rgb_array")
    undrawable.reset()
    with pytest.raises(NotImplementedError, match="backend='dummy'"):
        undrawable.render()


def test_it_works_below_vec_normalize_and_in_evaluate_policy(batched):
    class Stand:
        def predict(self, observations, state=None, episode_start=None, deterministic=True):
            return np.zeros(len(observations), dtype=int), state

    normalised = VecNormalize(batched, training=False)
    returns, lengths = evaluate_policy(Stand(), normalised, n_eval_episodes=7, return_episode_rewards=True)
    assert lengths == [META] * 7
    np.testing.assert_allclose(returns, -0.1 * META)


def test_auto_takes_the_batched_backend_where_there_is_one_and_says_so(capsys, monkeypatch):
    assert isinstance(make_meta_vec_env("GridNavi-v0", 2, verbose=1), BatchedMetaVecEnv)
    assert isinstance(make_meta_vec_env("CartPole-v1", 2, verbose=1), DummyVecEnv)
    assert (
        capsys.readouterr().out
        == "GridNavi-v0: 2 environments, backend 'batched'\nCartPole-v1: 2 environments, backend 'dummy'\n"
    )
    assert isinstance(make_meta_vec_env("GridNavi-v0", 2, vec_env_kwargs={}), BatchedMetaVecEnv)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(factory, "_batched", dict(factory._batched))
    factory.register_batched_backend("CartPole-v1", lambda n_envs, **kwargs: None, lambda: False, needs="a horse")
    make_meta_vec_env("CartPole-v1", 2, verbose=1)
    assert capsys.readouterr().out.endswith("backend 'dummy' ('batched' would be faster; it needs a horse)\n")


def test_backends_are_told_through_wrappers():
    assert backend_of(VecNormalize(make_meta_vec_env("GridNavi-v0", 2))) == "batched"
    assert backend_of(make_meta_vec_env("GridNavi-v0", 2, backend="dummy")) == "dummy"


def test_auto_leaves_options_that_a_batched_backend_lacks_to_gymnasium(monkeypatch):
    monkeypatch.setattr(factory, "_batched", dict(factory._batched))
    factory.register_batched_backend("CartPole-v1", lambda n_envs, **kwargs: None, options=["speed"])
    assert isinstance(make_meta_vec_env("CartPole-v1", 2, env_kwargs={"sutton_barto_reward": True}), DummyVecEnv)
    assert isinstance(make_meta_vec_env("GridNavi-v0", 2, env_kwargs={"horizon": 5}), BatchedMetaVecEnv)


def test_a_batched_backend_can_be_registered(monkeypatch):
    monkeypatch.setattr("sb3_ldm.envs.factory._batched", {})
    with pytest.raises(ValueError, match="backend='batched' is not offered for env_id='GridNavi-v0'"):
        make_meta_vec_env("GridNavi-v0", 2, backend="batched")
    register_envs()
    calls = []

    def construct(n_envs, **kwargs):
        calls.append((n_envs, kwargs))
        return BatchedMetaVecEnv(BatchedWalk(n_envs), EPISODES)

    register_batched_backend("Walk-v0", construct)
    assert isinstance(make_meta_vec_env("Walk-v0", 3, env_kwargs={"speed": 2}, backend="batched"), BatchedMetaVecEnv)
    assert calls == [(3, {"render_mode": "rgb_array", "speed": 2})]


def test_factory_refuses_what_it_cannot_make():
    with pytest.raises(ValueError, match="backend='warp' does not exist, use one of auto, batched, dummy, subproc"):
        make_meta_vec_env("GridNavi-v0", backend="warp")
    with pytest.raises(ValueError, match="n_envs=0"):
        make_meta_vec_env("GridNavi-v0", 0)
    with pytest.raises(ValueError, match=r"vec_env_kwargs=.* has no use"):
        make_meta_vec_env("GridNavi-v0", backend="batched", vec_env_kwargs={"start_method": "spawn"})
    assert BACKENDS == ("auto", "batched", "dummy", "subproc")


def test_same_as_processes():
    dummy = make_meta_vec_env("GridNavi-v0", 2, 4, "dummy", SMALL)
    subproc = make_meta_vec_env("GridNavi-v0", 2, 4, "subproc", SMALL)
    try:
        assert isinstance(subproc, SubprocVecEnv)
        assert subproc.observation_space.layout == dummy.observation_space.layout
        np.testing.assert_array_equal(subproc.reset(), dummy.reset())
        for _ in range(META + 3):
            actions = np.array([1, 2])
            for ours, theirs in zip(subproc.step(actions)[:3], dummy.step(actions)[:3], strict=True):
                np.testing.assert_array_equal(ours.astype(theirs.dtype), theirs)  # its rewards are float64
        assert_same(subproc.get_attr("task"), dummy.get_attr("task"))
    finally:
        subproc.close()


@pytest.mark.parametrize("backend", ["batched", "dummy"])
def test_positions_that_were_handed_out_stay_as_they_were(backend):
    env = make_meta_vec_env("AntGoal-v0", 2, seed=0, backend=backend)
    env.reset()
    for _ in range(3):
        env.step(np.ones((2, 8), dtype=np.float32))
    positions = env.get_attr("position")
    before = np.array(positions)
    env.reset()
    np.testing.assert_array_equal(positions, before)
    assert not np.array_equal(env.get_attr("position"), before)
