"""Looking at imagination: maps of what is imagined, logged by every run, without touching training."""

import csv

import numpy as np
import pytest
import torch as th
from helpers import PAPER, Bandit, differing, grid_vec_env, parameters, vec_env
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import configure

from benchmarks.imagination import task_right
from sb3_ldm import LDM
from sb3_ldm.algorithms.ldm.reward_maps import RewardMapCallback, belief_maps, imaginary_contrast, sample_reward_maps
from sb3_ldm.data.probes import get_probes, has_probes
from sb3_ldm.envs.gridworld import cells

NETWORK = {"reward_likelihood": "bernoulli", "bernoulli_rewards": (-0.1, 1.0), "vae_kwargs": {"encoder_hidden_size": 16}}
N_ENVS, STEPS = 8, 12  # 2 episodes of 6 steps


def make(**options) -> LDM:
    env = grid_vec_env(N_ENVS)
    return LDM("MlpLstmPolicy", env, **{"seed": 0, "device": "cpu", "mixture_ratio": 0.25, **PAPER, **NETWORK, **options})


@pytest.mark.parametrize("imagination_dropout", ["off", "step", "meta_episode"])
@pytest.mark.parametrize("mixture_weights", ["per_worker", "per_dimension"])
def test_maps_of_sampled_mixtures(imagination_dropout, mixture_weights):
    model = make(imagination_dropout=imagination_dropout, mixture_weights=mixture_weights)
    with pytest.raises(ValueError, match="meta-episode"):
        sample_reward_maps(model.mixture_env)
    model.learn(2 * N_ENVS * STEPS)
    maps = sample_reward_maps(model.mixture_env, n_maps=20, seed=3)
    assert maps.maps.shape == (20, 49) and maps.peaks().shape == (20, 2)
    assert (maps.maps >= -0.1 - 1e-6).all() and (maps.maps <= 1.0).all()
    np.testing.assert_allclose(maps.weights.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(maps.probed_tasks, cells())
    known = {tuple(task) for task in np.array(model.mixture_env.final_tasks)}
    assert {tuple(task) for task in maps.tasks} == known
    again = sample_reward_maps(model.mixture_env, n_maps=20, seed=3)
    np.testing.assert_array_equal(maps.maps, again.maps)
    other = sample_reward_maps(model.mixture_env, n_maps=20, seed=4)
    assert not np.array_equal(maps.weights, other.weights)


def test_a_mixture_of_one_partner_is_what_that_worker_believes():
    """With one partner the map is the decoder's on that worker's final belief, and on no other."""
    model = make(n_partners=1, imagination_dropout="off", dropout_rate=0.0, vae_updates=0)
    network = model.vae
    with th.no_grad():  # else all beliefs of a new network are about the same
        for layer in (network.encoder.mu, network.encoder.logvar, network.decoder.latent_layer, network.decoder.head[-1]):
            layer.weight.mul_(10.0)
    model.learn(2 * N_ENVS * STEPS)
    maps = sample_reward_maps(model.mixture_env, n_maps=30)
    batch = model.replay_buffer.get(np.arange(len(model.replay_buffer) - model.n_normal, len(model.replay_buffer)))
    prior, own = belief_maps(network, batch, get_probes(model.env), np.array([0, STEPS])).swapaxes(0, 1)
    distance = np.abs(maps.maps[:, None] - own[None]).max(-1)
    assert distance.min(1).max() < 1e-5
    assert set(distance.argmin(1)) == set(range(model.n_normal))
    between = np.abs(own[:, None] - own[None]).max(-1)[~np.eye(model.n_normal, dtype=bool)]
    assert min(between.min(), np.abs(own - prior).max(-1).min()) > 0.01


def test_what_the_decoder_knows_is_its_mean_over_the_dropout_of_training():
    """Without any it sees inputs that it was not trained on, with one mask it lacks what that mask drops."""
    model = make(imagination_dropout="meta_episode", dropout_rate=0.7, n_partners=1).learn(2 * N_ENVS * STEPS)
    network, imagination, probes = model.vae, model.mixture_env.imagination, get_probes(model.env)
    transitions = (probes.states, network.layout.encode_actions(probes.actions), probes.next_states)
    means = imagination.final_means

    def predict(seed, n_masks):
        return network.predict(means, transitions, th.Generator().manual_seed(seed), n_masks).numpy()

    assert np.abs(predict(0, 2000) - predict(1, 2000)).max() < 0.2 * np.abs(predict(0, 1) - predict(1, 1)).max()
    steps = [th.as_tensor(array) for array in transitions]
    with th.no_grad():
        for latent, predicted in zip(means[:2], predict(0, 2000), strict=False):
            masks = network.dropout_mask((2000, len(probes.states)), th.Generator().manual_seed(5))
            drawn = network.likelihood.mean(network.decoder(latent, network.decoder.encode_steps(*steps, masks)))
            np.testing.assert_allclose(predicted, drawn.mean(0).numpy(), atol=0.05)
    generator = th.Generator().manual_seed(0)
    right = [tuple(task) for task in probes.tasks[predict(0, 32).argmax(1)]]
    assert task_right(imagination, probes, [*right[:-1], (-1, -1)], generator) == (len(right) - 1) / len(right)


def test_every_run_logs_what_it_imagines(tmp_path):
    model = make()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(3 * N_ENVS * STEPS, callback=RewardMapCallback(freq=N_ENVS * STEPS, n_maps=50))
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    for row in rows[1:]:
        assert 0.0 <= float(row["imagination/share_unseen"]) <= 1.0
        assert 0 <= int(float(row["imagination/distinct_unseen"])) <= 27
        assert -0.1 <= float(row["imagination/peak_reward"]) <= 1.0
        assert float(row["imagination/return_1"]) <= 6.0


def test_a_mixture_of_one_partner_asks_for_as_much_as_a_true_task_and_a_flat_one_for_less():
    model = make(n_partners=1, imagination_dropout="off").learn(2 * N_ENVS * STEPS)
    env = model.mixture_env
    assert 0.5 < imaginary_contrast(env, n_mixtures=200) < 2.0
    assert imaginary_contrast(env, seed=1) == imaginary_contrast(env, seed=1) != imaginary_contrast(env, seed=2)
    asked = []

    def expected(latents, states, actions, next_states, generator):
        asked.append(latents)
        height = 0.5 if latents is env.imagination.final_means else 0.1
        return height * np.tile(np.linspace(-1, 1, len(states)), (len(latents), 1)) + 7.0

    env.imagination.expected_rewards = expected
    assert imaginary_contrast(env, n_mixtures=5) == pytest.approx(0.2)
    assert [len(latents) for latents in asked] == [5, model.n_normal]


def test_it_is_added_whether_or_not_tasks_can_be_probed(tmp_path):
    called = []
    callback = make()._init_callback(lambda _locals, _globals: called.append(1) or True)
    assert any(isinstance(one, RewardMapCallback) for one in callback.callbacks)
    callback = make()._init_callback(CallbackList([RewardMapCallback(freq=7)]))
    assert [one.freq for one in callback.callbacks] == [7], "whoever looks already is not doubled"
    bandit = LDM(
        "MlpLstmPolicy",
        vec_env(Bandit, 4),
        **{"reward_likelihood": "bernoulli", "mixture_ratio": 0.25, "device": "cpu", "vae_batch_size": 3, "seed": 0},
    )
    assert not has_probes(bandit.env)
    bandit.set_logger(configure(str(tmp_path), ["csv"]))
    bandit.learn(4 * 4 * 8, callback=RewardMapCallback(freq=1))
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["imagination/contrast"]) > 0 and "imagination/share_unseen" not in rows[-1]
    make().learn(N_ENVS * STEPS, callback=lambda _locals, _globals: called.append(1) or True)
    assert len(called) == STEPS


def test_looking_changes_nothing():
    steps = 3 * N_ENVS * STEPS
    quiet = make().learn(steps, callback=RewardMapCallback(freq=10**9))
    watched = make().learn(steps, callback=RewardMapCallback(freq=1, n_maps=16))
    assert differing(parameters(quiet), parameters(watched)) == []
    assert th.equal(quiet._imagination_generator.get_state(), watched._imagination_generator.get_state())
