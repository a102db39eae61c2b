"""The corridor of doors: rules, splits, pictures."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from sb3_ldm.envs import BatchedDoors, Doors, DoorsTasks, make_meta_vec_env
from sb3_ldm.envs.doors import opens, walk

LEFT, RIGHT, OPEN = range(3)


def test_splits():
    tasks = DoorsTasks()
    listed = {split: tasks.tasks(split)[:, 0].tolist() for split in tasks.splits}
    assert listed == {
        "train": [1, 2, 3, 7, 8, 9],
        "test": [4, 5, 6],
        "eval": [4, 5, 6],
        "all": [1, 2, 3, 7, 8, 9, 4, 5, 6],
    }


def test_walks_stop_at_the_ends_and_opening_does_not_walk():
    assert walk(np.array([0, 0, 9, 9, 4]), np.array([LEFT, RIGHT, LEFT, RIGHT, OPEN])).tolist() == [0, 1, 8, 9, 4]


def test_a_door_is_opened_where_it_is():
    actions, positions = np.array([OPEN, OPEN, RIGHT, LEFT]), np.array([4, 5, 4, 4])
    assert opens(positions, actions, np.array(4)).tolist() == [True, False, False, False]


def test_passing_by_the_prize_gives_nothing():
    env = Doors()
    env.reset(options={"task": [2]})
    walked = [env.step(action) for action in (RIGHT, RIGHT, RIGHT, LEFT, OPEN, OPEN, LEFT, OPEN)]
    assert [step[0].tolist() for step in walked] == [[1], [2], [3], [2], [2], [2], [1], [1]]
    assert [step[1] for step in walked] == [-0.1] * 4 + [1.0] * 2 + [-0.1] * 2
    assert [step[4]["is_success"] for step in walked] == [False] * 4 + [True] * 4


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_best_possible_return_is_that_of_going_straight_there(split):
    env, tasks = gym.make("Doors-v0"), DoorsTasks()
    best, never = tasks.reference_returns(tasks.tasks(split)).values()
    for task, expected in zip(tasks.tasks(split), best, strict=True):
        env.reset(options={"task": task})
        for _ in range(3):
            for step in range(20):
                *_, info = env.step(RIGHT if step < task[0] else OPEN)
        np.testing.assert_allclose(info["episode_returns"], [expected] * 3)
    np.testing.assert_allclose(never, -2.0)


def test_batched_steps_equal_single_steps():
    tasks = DoorsTasks().tasks("all")
    batched, singles = BatchedDoors(len(tasks)), [Doors() for _ in tasks]
    batched.reset(np.arange(len(tasks)), tasks)
    for env, task in zip(singles, tasks, strict=True):
        env.reset(options={"task": task})
    rng = np.random.default_rng(0)
    opened = 0
    for _ in range(200):
        actions = rng.choice(3, len(tasks), p=[0.2, 0.4, 0.4])
        step = batched.step(actions)
        states, rewards, _, _, infos = zip(*(env.step(a) for env, a in zip(singles, actions, strict=True)), strict=True)
        np.testing.assert_array_equal(step.states, states)
        np.testing.assert_array_equal(step.rewards, rewards)
        np.testing.assert_array_equal(step.successes, [info["is_success"] for info in infos])
        opened += int((step.rewards > 0).sum())
    assert opened > 0


def test_it_is_an_environment_as_others_are():
    gymnasium_check_env(gym.make("Doors-v0").unwrapped)
    sb3_check_env(gym.make("Doors-v0"))


def test_it_goes_on_where_it_was():
    env, other = BatchedDoors(2), BatchedDoors(2)
    env.reset(np.arange(2), np.array([[1], [7]]))
    env.step(np.array([RIGHT, RIGHT]))
    other.set_state(env.get_state())
    for _ in range(3):
        for one, two in zip(env.step(np.array([OPEN, RIGHT])), other.step(np.array([OPEN, RIGHT])), strict=True):
            np.testing.assert_array_equal(one, two)


def test_pictures_show_the_door_and_the_agent():
    env = Doors(render_mode="rgb_array")
    env.reset(options={"task": [5]})
    before = env.render()
    assert before.shape == (32, 320, 3) and before.dtype == np.uint8
    env.step(RIGHT)
    assert not np.array_equal(before, env.render())
    env.reset(options={"task": [6]})
    assert not np.array_equal(before, env.render())
    batched = make_meta_vec_env("Doors-v0", 1, env_kwargs={"render_mode": "rgb_array"})
    batched.set_options({"task": np.array([5])})
    batched.reset()
    np.testing.assert_array_equal(batched.render(), before)


@pytest.mark.parametrize("task", [[0], [10], [2.5], [2, 3], "door"])
def test_what_is_no_door_is_refused(task):
    with pytest.raises(ValueError, match="task="):
        Doors().reset(options={"task": task})


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="render_mode='human'"):
        Doors(render_mode="human")
    with pytest.raises(ValueError, match="split='trian'"):
        gym.make("Doors-v0", task_split="trian")
    env = Doors()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(OPEN)
    with pytest.raises(gym.error.ResetNeeded):
        Doors(render_mode="rgb_array").render()
    env.reset()
    for action in (-1, 3):
        with pytest.raises(ValueError, match="use 0 to 2"):
            env.step(action)
    for kwargs in ({"num_envs": 0}, {"num_envs": 1, "max_episode_steps": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            BatchedDoors(**kwargs)
    batched = BatchedDoors(2)
    batched.reset(np.arange(2), np.array([[2], [3]]))
    for actions in ([0, -1], [0, 3]):
        with pytest.raises(ValueError, match="outside 0 to 2"):
            batched.step(np.array(actions))
