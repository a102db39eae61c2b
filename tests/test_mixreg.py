"""Mixreg: RL2 on convex combinations of two workers' sequences."""

import numpy as np
import pytest
import torch as th
from helpers import Bandit, Drift, differing, parameters, vec_env
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.utils import LinearSchedule, set_random_seed

from sb3_ldm import RL2, Mixreg
from sb3_ldm.algorithms.mixreg.mixture import MIXED_FIELDS, draw_partners, mix
from sb3_ldm.evaluation import evaluate_meta

STEPS = 8  # of a meta-episode, 2 episodes of 4 steps
N_ENVS = 4
ROLLOUT = N_ENVS * STEPS


def make(env=None, **options):
    return Mixreg("MlpLstmPolicy", env or vec_env(Bandit, N_ENVS), **{"seed": 0, "device": "cpu", **options})


@given(n=st.integers(1, 20), alpha=st.floats(0.05, 5.0), seed=st.integers(0, 10_000))
def test_partners_are_others_and_weights_are_the_larger_ones(n, alpha, seed):
    partners, weights = draw_partners(n, alpha, np.random.default_rng(seed))
    assert partners.shape == weights.shape == (n,)
    assert ((partners >= 0) & (partners < n)).all()
    assert n == 1 or (partners != np.arange(n)).all()
    assert ((weights >= 0.5) & (weights <= 1.0)).all()


def test_every_other_sequence_may_be_the_partner():
    drawn = np.stack([draw_partners(4, 0.2, np.random.default_rng(seed))[0] for seed in range(200)])
    for i in range(4):
        counts = np.bincount(drawn[:, i], minlength=4)
        assert counts[i] == 0 and (np.delete(counts, i) > 40).all()


def test_a_mixture_is_the_weighted_sum_step_by_step():
    own = th.arange(12.0).view(2, 3, 2)
    mixed = mix(own, th.tensor([1, 0]), th.tensor([0.75, 1.0]))
    th.testing.assert_close(mixed[0], 0.75 * own[0] + 0.25 * own[1])
    assert th.equal(mixed[1], own[1])


def test_the_buffer_mixes_anew_in_every_epoch_and_keeps_what_was_collected(monkeypatch):
    drawn = []

    def recorded(*arguments):
        drawn.append(draw_partners(*arguments))
        return drawn[-1]

    model = make(n_epochs=1)
    model.learn(ROLLOUT)
    buffer = model.rollout_buffer
    collected = {name: buffer._by_sequence(name).clone() for name in buffer.tensors}
    monkeypatch.setattr("sb3_ldm.algorithms.mixreg.mixture.draw_partners", recorded)
    epochs = []
    for _ in range(2):
        for sequences in buffer.minibatches(2 * STEPS):
            assert th.equal(buffer.tensors["actions"], collected["actions"])
            assert th.equal(buffer.tensors["episode_starts"], collected["episode_starts"])
            assert len(sequences) == 2
            mixed = dict(buffer.tensors)
        epochs.append(mixed)
    for name in MIXED_FIELDS:
        assert not th.equal(epochs[0][name], epochs[1][name]), name
        for mixed, (partners, weights) in zip(epochs, drawn, strict=True):
            expected = mix(collected[name], th.as_tensor(partners), th.as_tensor(weights, dtype=th.float32))
            assert th.equal(mixed[name], expected) and not th.equal(mixed[name], collected[name]), name
    list(buffer.minibatches())
    assert all(th.equal(buffer._by_sequence(name), tensor) for name, tensor in collected.items())


@pytest.mark.parametrize("make_env", [lambda: vec_env(Bandit, 4), lambda: vec_env(Drift, 4)], ids=["discrete", "box"])
def test_with_weights_of_one_it_is_rl2_bit_for_bit(make_env, monkeypatch):
    monkeypatch.setattr(
        "sb3_ldm.algorithms.mixreg.mixture.draw_partners", lambda n, alpha, rng: (np.roll(np.arange(n), 1), np.ones(n))
    )
    mixreg = make(make_env(), learning_rate=1e-3).learn(3 * ROLLOUT)
    rl2 = RL2("MlpLstmPolicy", make_env(), learning_rate=1e-3, target_kl=None, seed=0, device="cpu").learn(3 * ROLLOUT)
    assert differing(parameters(mixreg), parameters(rl2)) == []


def test_mixing_changes_the_policy_and_the_same_seed_gives_the_same_agent():
    one, two, other = (make(mixreg_alpha=alpha).learn(2 * ROLLOUT) for alpha in (0.5, 0.5, 5.0))
    assert differing(parameters(one), parameters(two)) == []
    assert differing(parameters(one), parameters(other))


def test_a_model_that_is_loaded_with_another_seed_draws_other_partners(tmp_path):
    make().learn(ROLLOUT).save(tmp_path / "model")
    same, again, other = (
        Mixreg.load(tmp_path / "model", env=vec_env(Bandit, N_ENVS), device="cpu", **options)._mixreg_rng.random()
        for options in ({}, {"seed": 0}, {"seed": 5})
    )
    assert same == again != other


def test_training_goes_on_after_loading(tmp_path):
    results = []
    for interrupted in (False, True):
        model = make().learn(2 * ROLLOUT)
        if interrupted:
            model.save(tmp_path / "model")
            model = Mixreg.load(tmp_path / "model", env=vec_env(Bandit, N_ENVS), device="cpu")
        else:
            model.set_env(vec_env(Bandit, N_ENVS))
        model.env.seed(7)
        set_random_seed(7)  # not the model's own streams, which go on
        results.append(model.learn(2 * ROLLOUT, reset_num_timesteps=False))
    assert differing(parameters(results[0]), parameters(results[1])) == []


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_bad_input_is_refused(alpha):
    with pytest.raises(ValueError, match=f"mixreg_alpha={alpha}"):
        make(mixreg_alpha=alpha)


def test_it_learns_which_arm_pays():
    model = make(vec_env(Bandit, 16), learning_rate=LinearSchedule(3e-3, 0.0, 1.0), batch_size=8 * STEPS)
    model.learn(240 * 16 * STEPS)
    result = evaluate_meta(model, vec_env(Bandit, 2), "train", n_repeats=8, deterministic=True)
    assert result.mean_returns[1] > 3.9


def test_set_random_seed_decides_over_partners_too():
    one, two = make(seed=0), make(seed=1)
    two.set_parameters(one.get_parameters())
    for model in (one, two):
        model.set_random_seed(7)
        model.learn(3 * ROLLOUT)
    assert differing(parameters(one), parameters(two)) == []
