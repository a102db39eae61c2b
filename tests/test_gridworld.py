"""The gridworld's rules, splits, observations and pictures."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from sb3_ldm.envs import (
    BatchedGridNavi,
    GridNavi,
    grid_navi_extrapolation_tasks,
    grid_navi_tasks,
)
from sb3_ldm.envs.gridworld import OBSERVATIONS, cell_index, cell_states, cells, move, reward

IDS = ("GridNavi-v0", "GridNaviExtrapolation-v0")
STAY, UP, RIGHT, DOWN, LEFT = range(5)


def walk_to(goal: np.ndarray, steps: int) -> list[int]:
    """Actions that go straight to the goal and stay there."""
    walk = [RIGHT] * int(goal[0]) + [UP] * int(goal[1])
    return walk + [STAY] * (steps - len(walk))


def as_set(tasks: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(task) for task in tasks.tolist()}


@pytest.mark.parametrize(
    "tasks, sizes",
    [
        (grid_navi_tasks(), {"train": 18, "test": 27, "eval": 27, "all": 45}),
        (grid_navi_extrapolation_tasks(), {"train": 16, "test": 29, "eval": 29, "all": 45, "test1": 16, "test2": 13}),
    ],
)
def test_splits(tasks, sizes):
    assert {split: len(tasks.tasks(split)) for split in tasks.splits} == sizes
    assert not as_set(tasks.tasks("train")) & as_set(tasks.tasks("test"))
    assert as_set(tasks.tasks("all")) <= as_set(cells()) - {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize("tasks", [grid_navi_tasks(), grid_navi_extrapolation_tasks()])
def test_goals_are_everywhere_but_near_the_start(tasks):
    assert as_set(cells()) - as_set(tasks.tasks("all")) == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_extrapolation_names_the_inner_and_the_outer_test_goals():
    tasks = grid_navi_extrapolation_tasks()
    inner, outer = as_set(tasks.tasks("test1")), as_set(tasks.tasks("test2"))
    assert inner | outer == as_set(tasks.tasks("test"))
    assert not inner & outer
    assert min(max(goal) for goal in outer) > tasks.tasks("train").max()


def test_moves_stop_at_the_borders():
    corner, centre = np.array([6, 6]), np.array([3, 3])
    assert move(centre, np.arange(5)).tolist() == [[3, 3], [3, 4], [4, 3], [3, 2], [2, 3]]
    assert move(corner, np.arange(5)).tolist() == [[6, 6], [6, 6], [6, 6], [6, 5], [5, 6]]
    assert move(np.array([0, 0]), np.arange(5)).tolist() == [[0, 0], [0, 1], [1, 0], [0, 0], [0, 0]]


def test_reward_is_one_on_the_goal_only():
    rewards = reward(cells(), np.array([2, 5]))
    assert rewards[cell_index(np.array([2, 5]))] == 1.0
    assert (rewards == 1.0).sum() == 1 and (rewards == -0.1).sum() == 48


def test_states_of_cells():
    assert cell_states(cells(), "xy").tolist() == cells().tolist()
    scaled = cell_states(np.array([[0, 0], [3, 6]]), "scaled")
    np.testing.assert_allclose(scaled, [[-1, -1], [0, 1]], atol=1e-6)
    one_hot = cell_states(cells(), "one_hot")
    np.testing.assert_array_equal(one_hot, np.eye(49))
    with pytest.raises(ValueError, match="observation='pixels' does not exist, use one of xy, scaled, one_hot"):
        cell_states(cells(), "pixels")


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_observations_lie_in_the_space(observation):
    env = GridNavi(observation=observation)
    state, _ = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(100):
        assert env.observation_space.contains(state)
        state, *_ = env.step(env.action_space.sample())


@pytest.mark.parametrize("split, best", [("train", 23.28), ("test", 24.50)])
def test_best_possible_return_of_an_episode(split, best):
    env = gym.make("GridNavi-v0", episodes_per_task=1)
    returns = []
    for goal in grid_navi_tasks().tasks(split):
        env.reset(options={"task": goal})
        for action in walk_to(goal, 30):
            *_, info = env.step(action)
        assert info["is_success"]
        returns.append(info["episode_returns"][0])
    assert np.mean(returns) == pytest.approx(best, abs=0.005)


def test_never_finding_the_goal():
    env = gym.make("GridNavi-v0")
    env.reset(seed=0)
    for _ in range(120):
        *_, info = env.step(STAY)
    np.testing.assert_allclose(info["episode_returns"], [-3.0] * 4)
    assert not info["episode_successes"].any()


def test_success_lasts_until_the_end_of_the_episode():
    env = GridNavi()
    env.reset(options={"task": [2, 0]})
    successes = [env.step(action)[4]["is_success"] for action in (RIGHT, RIGHT, LEFT, LEFT)]
    assert successes == [False, True, True, True]
    env.reset(options={"task": [2, 0]})
    assert env.step(STAY)[4]["is_success"] is False


def test_tasks_are_reproducible_from_the_seed_and_cover_the_split():
    def goals(seed):
        env = GridNavi(task_split="test")
        return [tuple(env.reset(seed=seed if i == 0 else None)[1]["task"]) for i in range(300)]

    assert goals(1) == goals(1) != goals(2)
    assert set(goals(1)) == as_set(grid_navi_tasks().tasks("test"))


@pytest.mark.parametrize("task", [[0, 0], [1, 1], [7, 0], [-1, 3], [2.5, 3], [2], "goal"])
def test_cells_that_cannot_be_goals_are_refused(task):
    with pytest.raises(ValueError, match="task="):
        GridNavi().reset(options={"task": task})


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="render_mode='human'"):
        GridNavi(render_mode="human")
    with pytest.raises(ValueError, match="split='trian'"):
        gym.make("GridNavi-v0", task_split="trian")
    with pytest.raises(ValueError, match="observation='pixels'"):
        GridNavi(observation="pixels")
    env = GridNavi()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(STAY)
    env.reset()
    for action in (-1, 5):
        with pytest.raises(ValueError, match="use 0 to 4"):
            env.step(action)
    for kwargs in ({"num_envs": 0}, {"num_envs": 1, "max_episode_steps": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            BatchedGridNavi(**kwargs)
    batched = BatchedGridNavi(2)
    batched.reset(np.arange(2), np.array([[2, 2], [3, 3]]))
    for actions in ([0, -1], [0, 5]):
        with pytest.raises(ValueError, match="outside 0 to 4"):
            batched.step(np.array(actions))


def test_batched_steps_equal_single_steps():
    goals = grid_navi_tasks().tasks("all")
    batched, singles = BatchedGridNavi(len(goals)), [GridNavi() for _ in goals]
    batched.reset(np.arange(len(goals)), goals)
    for env, goal in zip(singles, goals, strict=True):
        env.reset(options={"task": goal})
    rng = np.random.default_rng(0)
    for _ in range(100):
        actions = rng.integers(0, 5, len(goals))
        step = batched.step(actions)
        states, rewards, _, _, infos = zip(*(env.step(a) for env, a in zip(singles, actions, strict=True)), strict=True)
        np.testing.assert_array_equal(step.states, states)
        np.testing.assert_array_equal(step.rewards, rewards)
        np.testing.assert_array_equal(step.successes, [info["is_success"] for info in infos])


def test_pictures_show_where_the_agent_is_and_was():
    env = GridNavi(render_mode="rgb_array")
    env.reset(options={"task": [5, 5]})
    pictures = [env.render()]
    for action in (RIGHT, UP, DOWN, STAY):
        env.step(action)
        pictures.append(env.render())
    assert all(picture.shape == (224, 224, 3) and picture.dtype == np.uint8 for picture in pictures)
    start, right, up, down, stay = pictures
    assert not np.array_equal(start, right) and not np.array_equal(right, up)
    assert not np.array_equal(right, down)  # same cell, but a longer path
    np.testing.assert_array_equal(down, stay)


def test_pictures_have_y_upwards_and_mark_the_goal():
    env = GridNavi(render_mode="rgb_array")
    env.reset(options={"task": [6, 5]})
    top_left_of_cell = 2
    picture = env.render()
    goal = picture[32 * 1 + top_left_of_cell, 32 * 6 + top_left_of_cell]
    others = {
        tuple(picture[32 * row + 2, 32 * column + 2]) for row in range(7) for column in range(7) if (row, column) != (1, 6)
    }
    assert tuple(goal) not in others
    agent = picture[32 * 6 + 16, 16]
    env.step(UP)
    np.testing.assert_array_equal(env.render()[32 * 5 + 16, 16], agent)


def test_rendering_without_a_mode_warns_and_gives_nothing():
    env = GridNavi()
    env.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_checkers_of_gymnasium_and_sb3(env_id, observation):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Ids make wrapped environments, rewards are unbounded, and the bare class has no spec.
        warnings.filterwarnings("ignore", message=".*(different from the unwrapped version|infinity|not having a spec).*")
        gymnasium_check_env(GridNavi(observation=observation, render_mode="rgb_array"))
        env = gym.make(env_id, observation=observation, render_mode="rgb_array")
        gymnasium_check_env(env)
        sb3_check_env(env)


@pytest.mark.parametrize("env_id", IDS)
def test_specs_make_the_same_environment_again(env_id):
    env = gym.make(env_id, task_split="test", episodes_per_task=2, horizon=5, render_mode="rgb_array")
    again = gym.make(env.spec)
    assert again.spec == env.spec and str(again) == str(env)
    again.reset(seed=0)
    dones = [again.step(STAY)[2] for _ in range(10)]
    assert dones == [False] * 9 + [True]
    assert env.unwrapped.spec.id == env_id


def test_stock_recurrent_ppo_trains_on_it():
    small = {"lstm_hidden_size": 8, "net_arch": [8]}
    model = RecurrentPPO("MlpLstmPolicy", "GridNavi-v0", n_steps=128, n_epochs=1, policy_kwargs=small, seed=0, device="cpu")
    model.learn(128)
    assert model.ep_info_buffer[0]["l"] == 120
    assert len(model.ep_success_buffer) == 1
