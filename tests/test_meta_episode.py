"""Episodes of one task strung together: observations, ends, tasks and infos."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers import Drift
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor

from sb3_ldm.common.meta_episode import MetaEpisodeLayout, MetaEpisodeWrapper, MetaObservationSpace, observation_layout
from sb3_ldm.envs import GridNavi

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
    assert (reward, terminated, truncated, info) == (-0.1, False, False, {})

    observation, reward, terminated, truncated, info = env.step(RIGHT)  # the end of the first episode
    assert parts(env, observation) == ([0, 0], one_hot(RIGHT), 1.0, 1.0)
    assert (reward, terminated, truncated) == (1.0, False, False)
    assert set(info) == {"terminal_state", "is_success"}
    assert info["terminal_state"].tolist() == [2, 0] and info["is_success"] is True

    observation, reward, terminated, truncated, info = env.step(UP)  # the flag is up for one observation only
    assert parts(env, observation) == ([0, 1], one_hot(UP), -0.1, 0.0)
    assert (terminated, truncated, info) == (False, False, {})

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
