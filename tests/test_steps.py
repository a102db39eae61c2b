"""True steps of vectorised meta-episodes, whatever wrappers make of them, and the clock that they are read by."""

import numpy as np
import pytest
from helpers import Drift, grid_vec_env, vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ldm.envs.clock import MetaEpisodeClock
from sb3_ldm.envs.meta_episode import MetaEpisodeLayout
from sb3_ldm.envs.steps import StepReader

LAYOUT = MetaEpisodeLayout(state_dim=2, action_dim=5, discrete=True, episodes_per_task=2, max_episode_steps=4)


def _run(env, n_steps, seed=0):
    """Steps of random actions, with what the environments returned at each."""
    env.seed(seed)
    env.action_space.seed(seed)
    reader = StepReader(env.observation_space.layout, env.num_envs)
    reader.start(env, env.reset())
    for _ in range(n_steps):
        actions = np.array([env.action_space.sample() for _ in range(env.num_envs)])
        before = env.get_attr("task")
        returned = env.step(actions)
        yield before, returned, reader.read(env, actions, *returned)


WRAPPED = {
    "once": lambda env: VecNormalize(env),
    "rewards alone": lambda env: VecNormalize(env, norm_obs=False),
    "twice": lambda env: VecNormalize(VecNormalize(env, norm_reward=False), norm_obs=False),
    "twice, the other way round": lambda env: VecNormalize(VecNormalize(env, norm_obs=False), norm_reward=False),
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_true_steps_are_the_same_whatever_is_normalised(wrap):
    plain, wrapped = _run(vec_env(Drift, 3), 20), _run(WRAPPED[wrap](vec_env(Drift, 3)), 20)
    for (_, _, one), (_, returned, two) in zip(plain, wrapped, strict=True):
        for name, ours, theirs in zip(one._fields[:-1], one, two, strict=False):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
        assert not np.allclose(returned[1], two.rewards)


@pytest.mark.parametrize("backend", ["batched", "dummy", "subproc"])
def test_every_backend_tells_the_task_at_every_step(backend):
    env = grid_vec_env(2, backend=backend)
    for before, (_, _, _, infos), step in _run(env, 30):
        np.testing.assert_array_equal(step.tasks, before)
        np.testing.assert_array_equal([info["task"] for info in infos], before)
        assert all(info["truncated"] and not info["terminated"] for info in infos if "terminal_state" in info)
    env.close()


def test_ends_of_the_task_itself_are_told_from_time_limits():
    """Meta-episodes of two episodes of at most four steps, which end at random."""
    met = set()
    for _, (_, _, dones, infos), step in _run(vec_env(Drift, 4), 60):
        for i, info in enumerate(infos):
            assert ("terminal_state" in info) == step.episode_ends[i] == ("terminated" in info) == ("truncated" in info)
            if step.episode_ends[i]:
                assert info["terminated"] == step.terminated[i] != info["truncated"]
                assert step.terminated[i] or step.at.episode_step[i] == 3
                met.add((bool(step.terminated[i]), bool(dones[i])))
            else:
                assert not step.terminated[i]
    assert len(met) == 4


def test_the_clock_is_that_of_the_environments():
    for _, (_, _, dones, infos), step in _run(vec_env(Drift, 4), 60):
        for i in np.flatnonzero(dones):
            lengths = infos[i]["episode_lengths"]
            assert (step.at.step[i] + 1, step.at.episode[i] + 1, step.at.episode_step[i] + 1) == (sum(lengths), 2, lengths[-1])
            assert step.at.whole[i]


def test_who_steps_meta_episodes_besides_makes_them_no_whole_ones():
    env = vec_env(lambda: Drift(end_probability=0.0), 2)
    reader = StepReader(env.observation_space.layout, 2)
    reader.start(env, env.reset())
    actions = np.ones((2, 2), dtype=np.float32)
    env.step(actions)
    steps = [reader.read(env, actions, *env.step(actions)) for _ in range(15)]
    assert steps[6].dones.all() and not steps[6].at.whole.any()
    assert steps[14].dones.all() and steps[14].at.whole.all()


def test_longer_than_a_meta_episode_can_be_is_no_whole_one():
    clock, running = MetaEpisodeClock(LAYOUT, 1), np.zeros(1, dtype=bool)
    for _ in range(7):
        clock.advance(running, running)
        assert clock.now.whole.all()
    clock.advance(running, running)
    assert not clock.now.whole.any() and clock.now.step == 0
    clock.advance(~running, ~running)
    assert clock.now.whole.all() and clock.now.step == clock.now.episode == clock.now.episode_step == 0


def test_the_clock_goes_on_where_it_was():
    one, two = MetaEpisodeClock(LAYOUT, 2), MetaEpisodeClock(LAYOUT, 2)
    one.start(np.array([True, False]))
    one.advance(np.array([True, False]), np.zeros(2, dtype=bool))
    two.set_state(one.get_state())
    for clock in (one, two):
        clock.advance(np.zeros(2, dtype=bool), np.zeros(2, dtype=bool))
    for ours, theirs, expected in zip(one.now, two.now, ([2, 2], [1, 0], [1, 2], [True, False]), strict=True):
        assert ours.tolist() == theirs.tolist() == expected
