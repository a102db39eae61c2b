"""Episodes of one task strung together: observations, ends, tasks and infos."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers import Bandit, Drift
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

from sb3_ldm import RL2
from sb3_ldm.envs import GridNavi
from sb3_ldm.envs.meta_episode import MetaEpisodeLayout, MetaEpisodeWrapper, MetaObservationSpace, observation_layout

STAY, UP, RIGHT, DOWN, LEFT = range(5)
N, H = 3, 5


def grid(episodes=N, horizon=H, **kwargs):
    return MetaEpisodeWrapper(GridNavi(**kwargs), episodes, max_episode_steps=horizon)


def parts(env, observation):
    layout = env.layout
    return (
        observation[layout.state].tolist(),
        observation[layout.action].tolist(),
        pytest.approx(float(observation[layout.reward_index])),
        float(observation[layout.done_index]),
    )


def one_hot(action):
    return np.eye(5)[action].tolist()


def test_layout_positions():
    layout = MetaEpisodeLayout(state_dim=3, action_dim=2, discrete=False, episodes_per_task=4, max_episode_steps=30)
    observation = np.arange(layout.dim)
    assert layout.dim == 7 and layout.meta_episode_steps == 120
    assert observation[layout.state].tolist() == [0, 1, 2]
    assert observation[layout.action].tolist() == [3, 4]
    assert observation[layout.reward].tolist() == [layout.reward_index] == [5]
    assert observation[layout.done].tolist() == [layout.done_index] == [6]


@pytest.mark.parametrize("discrete", [False, True])
def test_layout_assembles_one_or_many(discrete):
    layout = MetaEpisodeLayout(state_dim=3, action_dim=2, discrete=discrete, episodes_per_task=4, max_episode_steps=30)
    rng = np.random.default_rng(0)
    states, rewards, dones = rng.normal(size=(8, 3)), rng.normal(size=8), rng.random(8) < 0.5
    actions = rng.integers(0, 2, 8) if discrete else rng.normal(size=(8, 2))
    many = layout.observations(states, actions, rewards, dones)
    assert many.shape == (8, 7) and many.dtype == np.float32
    np.testing.assert_array_equal(
        many, [layout.observations(*step) for step in zip(states, actions, rewards, dones, strict=True)]
    )
    np.testing.assert_array_equal(many[:, layout.state], states.astype(np.float32))
    expected = np.eye(2)[actions] if discrete else actions.astype(np.float32)
    np.testing.assert_array_equal(many[:, layout.action], expected)
    first = layout.first_observations(states)
    np.testing.assert_array_equal(first[:, layout.state], many[:, layout.state])
    assert not first[:, 3:].any()


@pytest.mark.parametrize("name", ["state_dim", "action_dim", "episodes_per_task", "max_episode_steps"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
def test_layout_refuses_what_is_not_positive(name, value):
    numbers = {"state_dim": 1, "action_dim": 1, "episodes_per_task": 1, "max_episode_steps": 1}
    with pytest.raises(ValueError, match=f"{name}={value}"):
        MetaEpisodeLayout(**{**numbers, name: value}, discrete=False)


def test_space_bounds_hold_the_state_the_action_the_reward_and_the_flag():
    space = grid().observation_space
    assert space.shape == (2 + 5 + 2,) and space.dtype == np.float32
    np.testing.assert_array_equal(space.low, [0] * 7 + [-np.inf, 0])
    np.testing.assert_array_equal(space.high, [6] * 2 + [1] * 5 + [np.inf, 1])
    box = MetaEpisodeWrapper(Drift(), N, H).observation_space
    # No action precedes the first observation: its place is 0 there, so 0 lies within the bounds.
    np.testing.assert_array_equal(box.low[2:4], [0, 0])
    np.testing.assert_array_equal(box.high[2:4], [1, 1])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda space: pickle.loads(pickle.dumps(space))])
def test_the_layout_survives_copies_and_pickles(duplicate):
    space = grid().observation_space
    again = duplicate(space)
    assert again == space and isinstance(again, MetaObservationSpace)
    assert observation_layout(again) == observation_layout(space) == grid().layout


def test_space_equals_a_box_with_the_same_bounds():
    space = grid().observation_space
    box = spaces.Box(space.low, space.high, dtype=np.float32)
    assert space == box and box == space
    assert space == grid(episodes=N + 1).observation_space


def test_layout_of_another_space_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match="MetaEpisodeWrapper"):
        observation_layout(spaces.Box(-1, 1, (4,)))


def test_each_kind_of_step():
    env = grid(episodes=2, horizon=2)
    observation, info = env.reset(options={"task": [2, 0]})
    assert parts(env, observation) == ([0, 0], [0] * 5, 0.0, 0.0)
    assert info["task"].tolist() == [2, 0]

    observation, reward, terminated, truncated, info = env.step(RIGHT)  # an ordinary step
    assert parts(env, observation) == ([1, 0], one_hot(RIGHT), -0.1, 0.0)
    assert (reward, terminated, truncated) == (-0.1, False, False)
    assert set(info) == {"task"} and info["task"].tolist() == [2, 0]

    observation, reward, terminated, truncated, info = env.step(RIGHT)  # the end of the first episode
    assert parts(env, observation) == ([0, 0], one_hot(RIGHT), 1.0, 1.0)
    assert (reward, terminated, truncated) == (1.0, False, False)
    assert set(info) == {"task", "terminal_state", "terminated", "truncated", "is_success"}
    assert (info["terminated"], info["truncated"]) == (False, True)
    assert info["terminal_state"].tolist() == [2, 0] and info["is_success"] is True

    observation, reward, terminated, truncated, info = env.step(UP)  # the flag is up for one observation only
    assert parts(env, observation) == ([0, 1], one_hot(UP), -0.1, 0.0)
    assert (terminated, truncated) == (False, False) and set(info) == {"task"}

    observation, reward, terminated, truncated, info = env.step(STAY)  # the end of the meta-episode
    assert parts(env, observation) == ([0, 1], one_hot(STAY), -0.1, 1.0)
    assert (terminated, truncated) == (True, False)
    assert info["terminal_state"].tolist() == [0, 1] and info["is_success"] is False
    np.testing.assert_allclose(info["episode_returns"], [0.9, -0.2])
    assert info["episode_lengths"].tolist() == [2, 2]
    assert info["episode_successes"].tolist() == [True, False]
    assert info["task"].tolist() == [2, 0]


def test_a_new_meta_episode_has_a_new_task_and_an_old_one_keeps_its_own():
    env = grid(episodes=2, horizon=2)
    tasks = []
    for index in range(40):
        _, info = env.reset(seed=0 if index == 0 else None)
        tasks.append(tuple(info["task"]))
        for _ in range(4):
            assert tuple(env.get_wrapper_attr("task")) == tasks[-1]
            *_, info = env.step(STAY)
        assert tuple(info["task"]) == tasks[-1]
    assert len(set(tasks)) > 10


def test_step_outside_a_meta_episode_is_refused():
    env = grid(episodes=1, horizon=1)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(STAY)
    env.reset()
    env.step(STAY)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(STAY)
    env.reset()
    env.step(STAY)


def test_reset_in_the_middle_starts_anew():
    env = grid(episodes=2, horizon=2)
    env.reset(seed=0)
    for _ in range(3):
        env.step(STAY)
    observation, _ = env.reset(options={"task": [3, 3]})
    assert not observation.any()
    infos = [env.step(STAY)[4] for _ in range(4)]
    assert infos[-1]["episode_lengths"].tolist() == [2, 2]
    assert infos[-1]["task"].tolist() == [3, 3]


def test_episodes_that_end_early_make_a_shorter_meta_episode():
    inner = Drift()
    env = MetaEpisodeWrapper(inner, N, H)
    env.action_space.seed(0)
    lengths_seen = set()
    for index in range(30):
        inner.resets.clear()
        observation, info = env.reset(seed=7 if index == 0 else None, options={"colour": "red"})
        task = info["task"]
        rewards, ends, terminated = [], [], False
        while not terminated:
            action = env.action_space.sample()
            observation, reward, terminated, truncated, info = env.step(action)
            rewards.append(reward)
            assert not truncated and "height" in info and "is_success" not in info
            np.testing.assert_array_equal(observation[env.layout.action], action)
            assert observation[env.layout.reward_index] == np.float32(reward)
            if observation[env.layout.done_index]:
                ends.append(len(rewards))
                assert info["terminal_state"].dtype == np.float32
                assert info["terminal_state"].sum() == pytest.approx(reward, rel=1e-4, abs=1e-5)
                if not terminated:
                    np.testing.assert_array_equal(observation[env.layout.state], inner.position.astype(np.float32))
            else:
                assert "terminal_state" not in info
        assert len(ends) == N
        # The observation of the end shows the terminal state, not the next meta-episode's start.
        np.testing.assert_array_equal(observation[env.layout.state], info["terminal_state"])
        lengths = np.diff([0, *ends])
        assert info["episode_lengths"].tolist() == lengths.tolist() and lengths.max() <= H
        np.testing.assert_allclose(info["episode_returns"], [sum(part) for part in np.split(rewards, ends[:-1])])
        assert "episode_successes" not in info
        np.testing.assert_array_equal(info["task"], task)
        assert [reset["options"]["task"].tolist() for reset in inner.resets[1:]] == [task.tolist()] * (N - 1)
        assert all(reset["options"]["colour"] == "red" for reset in inner.resets)
        assert all(reset["seed"] is None for reset in inner.resets[1:])
        lengths_seen.update(lengths.tolist())
    assert lengths_seen == set(range(1, H + 1))


def test_a_chosen_task_lasts_one_meta_episode():
    env = grid(episodes=1, horizon=1)
    chosen = np.array([3, 4])  # not among the training goals
    assert env.reset(options={"task": chosen})[1]["task"].tolist() == [3, 4]
    env.step(STAY)
    assert env.reset()[1]["task"].tolist() in env.get_wrapper_attr("task_distribution").tasks("train").tolist()


def test_infos_do_not_share_memory_with_the_environment():
    env = grid(episodes=2, horizon=1)
    _, info = env.reset(options={"task": [3, 3]})
    info["task"][:] = 0
    *_, info = env.step(UP)
    assert env.get_wrapper_attr("task").tolist() == [3, 3]
    *_, info = env.step(UP)
    assert info["task"].tolist() == [3, 3]


@given(actions=st.lists(st.integers(0, 4), min_size=4 * H, max_size=4 * H), goal=st.sampled_from([(2, 0), (1, 2), (0, 3)]))
@settings(max_examples=50, deadline=None)
def test_a_meta_episode_is_its_episodes_played_one_after_the_other(actions, goal):
    env, plain = grid(episodes=4), gym.wrappers.TimeLimit(GridNavi(), H)
    observation, _ = env.reset(options={"task": goal})
    returns = []
    for episode in range(4):
        plain.reset(options={"task": goal})
        returns.append(0.0)
        for step in range(H):
            action = actions[episode * H + step]
            before = observation
            observation, reward, terminated, _, info = env.step(action)
            state, expected, _, ended, _ = plain.step(action)
            returns[-1] += expected
            assert reward == expected
            assert env.observation_space.contains(observation)
            assert terminated == (episode == 3 and step == H - 1)
            assert bool(observation[env.layout.done_index]) == ended == ("terminal_state" in info)
            shown = info["terminal_state"] if ended else observation[env.layout.state]
            np.testing.assert_array_equal(shown, state)
            assert before is not observation
    np.testing.assert_allclose(info["episode_returns"], returns)


def test_discrete_actions_that_do_not_start_at_zero_are_refused_with_a_remedy():
    class Shifted(GridNavi):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Discrete(5, start=10)

        def step(self, action):
            return super().step(action - 10)

    with pytest.raises(ValueError, match=r"action_space=Discrete\(5, start=10\) must start at 0.*TransformAction"):
        MetaEpisodeWrapper(Shifted(), N, H)
    env = MetaEpisodeWrapper(gym.wrappers.TransformAction(Shifted(), lambda action: action + 10, spaces.Discrete(5)), N, H)
    env.reset(options={"task": [2, 2]})
    observation, *_ = env.step(np.int64(RIGHT))
    assert parts(env, observation) == ([1, 0], one_hot(RIGHT), -0.1, 0.0)


def test_the_time_limit_is_found_or_given():
    limited = gym.wrappers.TimeLimit(GridNavi(), 7)
    assert MetaEpisodeWrapper(limited, 2).layout.max_episode_steps == 7
    assert MetaEpisodeWrapper(gym.wrappers.OrderEnforcing(limited), 2).layout.max_episode_steps == 7
    assert MetaEpisodeWrapper(limited, 2, max_episode_steps=4).layout.max_episode_steps == 4
    assert MetaEpisodeWrapper(limited, 2, max_episode_steps=40).layout.max_episode_steps == 7
    with pytest.raises(ValueError, match=r"max_episode_steps=None.*TimeLimit"):
        MetaEpisodeWrapper(GridNavi(), 2)


def test_unfit_environments_are_refused_with_a_remedy():
    for number in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"episodes_per_task={number}"):
            grid(episodes=number)
    with pytest.raises(ValueError, match="max_episode_steps=0"):
        grid(horizon=0)
    with pytest.raises(ValueError, match="does not host tasks"):
        MetaEpisodeWrapper(gym.make("CartPole-v1"), 2)
    with pytest.raises(ValueError, match="meta-episodes already"):
        MetaEpisodeWrapper(grid(), 2)
    image = Drift()
    image.observation_space = spaces.Box(0, 1, (4, 4))
    with pytest.raises(ValueError, match="FlattenObservation"):
        MetaEpisodeWrapper(image, 2, 3)
    many = Drift()
    many.action_space = spaces.MultiDiscrete([2, 2])
    with pytest.raises(ValueError, match="action_space=MultiDiscrete"):
        MetaEpisodeWrapper(many, 2, 3)


@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf])
def test_rewards_that_are_no_numbers_are_refused(reward):
    env = MetaEpisodeWrapper(Drift(0.0, reward=1.0), N, H)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.unwrapped.reward = reward
    with pytest.raises(ValueError, match=f"reward={reward} at step 2"):
        env.step(env.action_space.sample())


def test_monitor_sees_the_whole_meta_episode():
    env = Monitor(grid())
    env.reset(seed=0)
    for _ in range(N * H):
        *_, info = env.step(STAY)
    assert info["episode"]["l"] == N * H
    assert info["episode"]["r"] == pytest.approx(info["episode_returns"].sum())


def test_sb3_accepts_continuous_actions_and_early_ends():
    check_env(MetaEpisodeWrapper(Drift(), N, H), warn=False)


class Cost(Bandit):
    """Costs 1 at each step, and says what it is told to say."""

    def __init__(self, says=None):
        super().__init__()
        self.says = says

    def step(self, action):
        state, *_ = super().step(action)
        return state, -1.0, False, False, {} if self.says is None else self.says


class Stand:
    def predict(self, observations, state=None, episode_start=None, deterministic=True):
        return np.zeros(len(observations), dtype=int), state


MONITORS = {
    "Monitor": Monitor,
    "below": lambda env: gym.wrappers.OrderEnforcing(Monitor(env)),
    "statistics": gym.wrappers.RecordEpisodeStatistics,
    "autoreset": lambda env: gym.wrappers.Autoreset(Monitor(env)),
}
OUTSIDE = {
    "one": lambda make: make(),
    "Monitor": lambda make: Monitor(make()),
    "autoreset": lambda make: gym.wrappers.Autoreset(make()),
    "dummy": lambda make: DummyVecEnv([make] * 3),
    "VecMonitor": lambda make: VecMonitor(DummyVecEnv([make] * 2)),
    "subproc": lambda make: SubprocVecEnv([make]),
    "normalised": lambda make: VecNormalize(DummyVecEnv([make] * 2)),
}


@pytest.mark.filterwarnings("ignore:The environment is already wrapped")
@pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped")
@pytest.mark.parametrize(
    ("inside", "outside"),
    [(inside, outside) for inside in MONITORS for outside in OUTSIDE if outside != "subproc" or inside == "Monitor"],
)
def test_logged_and_evaluated_returns_are_of_the_whole_meta_episode(inside, outside):
    def make():
        return MetaEpisodeWrapper(MONITORS[inside](gym.wrappers.TimeLimit(Cost(), H)), N)

    env = OUTSIDE[outside](make)
    model = RL2("MlpLstmPolicy", env, device="cpu", policy_kwargs={"lstm_hidden_size": 8})
    model.learn(2 * model.n_envs * N * H)
    assert [(info["r"], info["l"]) for info in model.ep_info_buffer] == [(-N * H, N * H)] * 2 * model.n_envs
    if (inside, outside) != ("statistics", "normalised"):  # without a Monitor, SB3 evaluates normalised rewards
        assert evaluate_policy(Stand(), model.get_env(), 2, return_episode_rewards=True) == ([-N * H] * 2, [N * H] * 2)
    model.get_env().close()


def test_what_ends_an_inner_episode_says_nothing_of_the_meta_episode():
    says = dict.fromkeys(("episode", "TimeLimit.truncated", "terminal_observation", "final_observation", "final_obs"), 7)
    says |= dict.fromkeys(("final_info", "_final_info", "episode_returns", "terminal_state"), 7) | {"height": 1}
    env = MetaEpisodeWrapper(Cost(says), 2, max_episode_steps=2)
    env.reset(seed=0)
    before = dict(says)
    infos = [env.step(0)[-1] for _ in range(4)]
    assert all(info["height"] == 1 and set(info) == {"height", "task"} for info in infos[::2])
    assert set(infos[1]) == {"height", "task", "terminal_state", "terminated", "truncated"} and infos[1][
        "terminal_state"
    ].tolist() == [1.0]
    assert infos[3]["episode_returns"].tolist() == [-2.0, -2.0]
    assert (infos[3]["episode"]["r"], infos[3]["episode"]["l"]) == (-4.0, 4)
    assert says == before, "the environment's own dictionary stays as it is"


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ([{"success": 0.0}, {"success": 1.0}, {"success": 0.0}] + [{"success": 0.0}] * 3, [True, False]),
        ([{"success": True}] + [{}] * 5, [True, False]),
        ([{"is_success": True}, {"is_success": True}, {"is_success": False}] * 2, [False, False]),
        ([{"is_success": False, "success": 1.0}] * 6, [False, False]),
        ([{}] * 6, None),
    ],
)
def test_success_counts_at_any_step_and_is_success_at_the_last_one(told, wanted):
    cost = Cost()
    env = MetaEpisodeWrapper(cost, 2, max_episode_steps=3)
    for _ in range(2):
        env.reset(seed=0)
        for cost.says in told:
            info = env.step(0)[-1]
        successes = info.get("episode_successes")
        assert (None if successes is None else successes.tolist()) == wanted
        assert info.get("is_success") == (wanted[-1] if wanted and told[-1] else None)


class Script(Bandit):
    """Returns given observations and rewards, one after the other."""

    def __init__(self, observations, reward=0.0):
        super().__init__()
        self.observations, self.reward = iter(observations), reward

    def reset(self, *, seed=None, options=None):
        _, info = super().reset(seed=seed, options=options)
        return next(self.observations), info

    def step(self, action):
        return next(self.observations), self.reward, False, False, {}


def test_observations_are_converted_wherever_they_come_from():
    env = MetaEpisodeWrapper(Script([[0.5], [1], np.array([1], dtype=np.uint8), [True]]), 2, max_episode_steps=1)
    shown = [env.reset()[0], *(env.step(0)[0] for _ in range(2))]
    assert all(observation.dtype == np.float32 for observation in shown)
    assert [float(observation[0]) for observation in shown] == [0.5, 1.0, 1.0]


BAD = {
    "nan": ([np.nan], r"observation=.*nan.* NaN or infinity"),
    "too large": ([1e300], r"observation=.*1e\+300.* NaN or infinity"),
    "a number": (np.float32(0.5), r"observation of shape \(\), but says observation_space=Box"),
    "a row": ([[0.5]], r"observation of shape \(1, 1\)"),
    "two": ([0.5, 0.5], r"observation of shape \(2,\)"),
    "ragged": ([[0.5], [0.5, 0.5]], "observation=.* is no array"),
    "a word": (["0.5"], "expected numbers"),
    "none": (None, r"observation of shape \(\)"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("place", "when"), [(0, "at step 0"), (1, "at step 1"), (2, "at the reset after step 1"), (3, "at step 2")]
)
def test_observations_are_checked_wherever_they_come_from(bad, place, when):
    given, message = BAD[bad]
    observations = [[0.5]] * 4
    observations[place] = given
    env = MetaEpisodeWrapper(Script(observations), 2, max_episode_steps=1)
    with pytest.raises(ValueError, match=message) as caught:
        env.reset()
        env.step(0)
        env.step(0)
    assert when in str(caught.value) and "Script" in str(caught.value)


@pytest.mark.parametrize("reward", [np.zeros(1), [0.0], 1e300, -1e39, 10**400, "1.0", None, 1j, np.float32("inf")])
def test_rewards_are_single_numbers_that_float32_holds(reward):
    env = MetaEpisodeWrapper(Script([[0.5]] * 2, reward), 2, max_episode_steps=1)
    env.reset()
    with pytest.raises(ValueError, match=r"(?s)reward=.*step 1.*") as caught:
        env.step(0)
    assert "Script" in str(caught.value)


@pytest.mark.parametrize("reward", [1, True, np.float32(1), np.array(1.0), np.int64(1)])
def test_numbers_of_every_kind_are_rewards(reward):
    env = MetaEpisodeWrapper(Script([[0.5]] * 2, reward), 1, max_episode_steps=1)
    env.reset()
    observation, shown, *_ = env.step(0)
    assert type(shown) is float and shown == 1.0 == observation[env.layout.reward_index]


@pytest.mark.parametrize("action", [-1, 3, 1.0, [1], np.array([[1]]), "1"])
def test_discrete_actions_that_do_not_exist_are_not_shown_as_others(action):
    env = MetaEpisodeWrapper(Bandit(), 2, max_episode_steps=2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions="):
        env.step(action)


@pytest.mark.parametrize("action", [0.5, [0.5], [[0.5, 0.5]], [0.5] * 3, ["a", "b"]])
def test_vector_actions_are_not_broadcast(action):
    env = MetaEpisodeWrapper(Drift(), 2, max_episode_steps=2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions="):
        env.step(action)


@pytest.mark.parametrize("task", [None, "reach", np.zeros(2), np.array(["reach"])])
def test_a_task_is_a_vector_of_numbers(task):
    class Wrong(Bandit):
        def select_task(self, options):
            self._task = None if task is None else np.array(task)
            return self._task

        @property
        def task(self):
            return self._task

    with pytest.raises(ValueError, match=r"has the task .* expected a vector of 1 numbers"):
        MetaEpisodeWrapper(Wrong(), 2, max_episode_steps=2).reset()
