"""``predict``: what it takes, and what it refuses by name."""

import numpy as np
import pytest
import torch as th
from helpers import Bandit, Drift, vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ldm import LDM, RL2, Mixreg, VariBAD
from sb3_ldm.envs.meta_episode import MetaEpisodeWrapper

ALGORITHMS = [RL2, Mixreg, LDM, VariBAD]
N_ENVS, HIDDEN = 4, 8


@pytest.fixture(scope="module", params=ALGORITHMS)
def model(request):
    return request.param("MlpLstmPolicy", vec_env(Bandit, N_ENVS), device="cpu", policy_kwargs={"lstm_hidden_size": HIDDEN})


def observations(model, n=N_ENVS):
    return np.tile(model.get_env().reset()[:1], (n, 1))


def memory(n, layers=1, hidden=HIDDEN, dtype=np.float32):
    return tuple(np.full((layers, n, hidden), 0.1, dtype=dtype) for _ in range(2))


@pytest.mark.parametrize(("n_observations", "n_memories"), [(4, 1), (1, 4), (2, 4), (4, 2), (3, 0)])
def test_a_memory_of_another_number_of_environments_is_refused_by_both_numbers(model, n_observations, n_memories):
    message = f"state is of {n_memories} environments, but observation of {n_observations}:"
    with pytest.raises(ValueError, match=message):
        model.predict(observations(model, n_observations), memory(n_memories))
    with pytest.raises(ValueError, match=message):
        model.policy.predict(observations(model, n_observations), memory(n_memories), np.zeros(n_observations))


def test_a_single_observation_has_a_memory_of_one(model):
    obs = observations(model)
    with pytest.raises(ValueError, match="state is of 4 environments, but observation of 1:"):
        model.predict(obs[0], memory(4))
    action, state = model.predict(obs[0], memory(1), episode_start=False, deterministic=True)
    assert action.shape == () and state[0].shape == (1, 1, HIDDEN)


@pytest.mark.parametrize(
    "state",
    [
        memory(N_ENVS, hidden=HIDDEN + 1),
        memory(N_ENVS, layers=2),
        memory(N_ENVS)[:1],
        memory(N_ENVS) * 2,
        memory(N_ENVS)[0],
        memory(N_ENVS, dtype=object),
        memory(N_ENVS, dtype="<U3"),
        (memory(N_ENVS), memory(N_ENVS)),
        (memory(N_ENVS)[0], memory(2)[0][:, 0]),
        (None, None),
        "state",
        0.0,
        {},
    ],
)
def test_a_memory_of_another_form_is_refused(model, state):
    with pytest.raises(ValueError, match=rf"(?s)state.* expected what predict returned.* \(1, {N_ENVS}, {HIDDEN}\)"):
        model.predict(observations(model), state)


@pytest.mark.parametrize("start", [np.ones(3), np.ones(1), True, np.ones((N_ENVS, 2)), ["yes"] * N_ENVS, [None] * N_ENVS])
def test_episode_starts_are_one_for_each_environment(model, start):
    with pytest.raises(ValueError, match=r"(?s)episode_start=.*observation of 4"):
        model.predict(observations(model), memory(N_ENVS), start)


def test_every_form_that_fits_gives_the_same(model):
    obs, state = observations(model), memory(N_ENVS)
    starts = [False, True, False, True]
    expected = model.predict(obs, state, np.array(starts), deterministic=True)
    assert not np.array_equal(expected[1][0][:, 0], expected[1][0][:, 1]), "one remembers, one begins"
    np.testing.assert_array_equal(expected[1][0][:, 0], expected[1][0][:, 2])
    forms = [
        (obs.tolist(), state, starts),
        (obs.astype(np.float64), [part.astype(np.float64) for part in state], np.array(starts, dtype=float)),
        (obs, tuple(th.as_tensor(part) for part in state), np.array(starts)[:, None]),
    ]
    for form in forms:
        actions, after = model.predict(*form, deterministic=True)
        np.testing.assert_array_equal(actions, expected[0])
        np.testing.assert_allclose(after, expected[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda obs: (obs[0], {}), r"tuple \(observation, info\).*obs, info = env.reset\(\)"),
        (lambda obs: {"obs": obs}, r"observation is a dict of \['obs'\], expected an array of observation_space="),
        (lambda obs: obs[:, :-1], r"shape \(4, 5\)"),
        (lambda obs: obs[None], r"shape \(1, 4, 6\)"),
        (lambda obs: obs[:0], "nothing to act on"),
        (lambda obs: None, "expected numbers"),
        (lambda obs: obs.astype(str), "expected numbers"),
        (lambda obs: 0.5, r"shape \(\)"),
    ],
)
def test_observations_of_another_form_are_refused(model, wrong, message):
    with pytest.raises(ValueError, match=message):
        model.predict(wrong(observations(model)))


def test_what_gymnasium_returns_is_named():
    env = MetaEpisodeWrapper(Drift(), 2, max_episode_steps=3)
    model = RL2("MlpLstmPolicy", DummyVecEnv([lambda: env]), device="cpu")
    with pytest.raises(ValueError, match=r"use obs, info = env\.reset\(\)"):
        model.predict(env.reset())
    obs, _ = env.reset()
    action, state = model.predict(obs)
    assert action.shape == (2,) and len(state) == 2
