"""The VAE, the latent dynamics network: its objective, its networks and its buffer of meta-episodes."""

import io
import os
import pickle
import re
import sys
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch as th
from helpers import Drift, grid_vec_env, user_warnings
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Normal, kl_divergence

from sb3_ldm import memory
from sb3_ldm.data import MetaEpisodeBatch, MetaEpisodeBuffer
from sb3_ldm.data.array_file import read_arrays, write_arrays
from sb3_ldm.envs.clock import MetaEpisodeClock
from sb3_ldm.envs.meta_episode import MetaEpisodeLayout, MetaEpisodeWrapper
from sb3_ldm.envs.steps import Step, StepReader
from sb3_ldm.inference import Bernoulli as TwoRewards
from sb3_ldm.inference import RewardDecoder, RewardVAE, elbo, kl_to_previous
from sb3_ldm.inference.elbo import bernoulli_log_likelihood, gaussian_log_likelihood
from sb3_ldm.inference.networks import Standardize, dropout_mask

LAYOUT = MetaEpisodeLayout(state_dim=2, action_dim=3, discrete=True, episodes_per_task=2, max_episode_steps=4)
LATENT = 4


def generator(seed=0):
    return th.Generator().manual_seed(seed)


def network(layout=LAYOUT, seed=0, **options):
    options = {"latent_dim": LATENT, "encoder_hidden_size": 8, "decoder_layers": (8,), **options}
    with th.random.fork_rng():
        th.manual_seed(seed)
        return RewardVAE(layout, **options)


def without_noise(model, logvar=-20.0):
    """Beliefs that are sure of well separated latents, so that an ELBO has no sampling noise to speak of."""
    with th.no_grad():
        model.encoder.logvar.weight.zero_()
        model.encoder.logvar.bias.fill_(logvar)
        model.encoder.mu.weight.mul_(20.0)
    return model


def random_batch(lengths, seed=0, layout=LAYOUT, two_rewards=False):
    rng = np.random.default_rng(seed)
    shape = (max(lengths), len(lengths))
    rewards = rng.integers(0, 2, shape) if two_rewards else 3 * rng.normal(size=shape)
    return MetaEpisodeBatch(
        states=th.as_tensor(rng.normal(size=(*shape, layout.state_dim)), dtype=th.float32),
        actions=th.as_tensor(np.eye(layout.action_dim)[rng.integers(0, layout.action_dim, shape)], dtype=th.float32),
        rewards=th.as_tensor(rewards, dtype=th.float32),
        next_states=th.as_tensor(rng.normal(size=(*shape, layout.state_dim)), dtype=th.float32),
        mask=th.as_tensor(np.arange(max(lengths))[:, None] < np.array(lengths), dtype=th.float32),
    )


# The objective


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_kl_is_that_of_the_distributions(seed):
    rng = generator(seed)
    mu, logvar = th.randn(5, 3, LATENT, generator=rng), 2 * th.randn(5, 3, LATENT, generator=rng)
    beliefs = Normal(mu, th.exp(0.5 * logvar))
    prior = Normal(th.zeros(1, 3, LATENT), 1.0)
    previous = Normal(th.cat([prior.mean, mu[:-1]]), th.cat([prior.stddev, beliefs.stddev[:-1]]))
    th.testing.assert_close(kl_to_previous(mu, logvar), kl_divergence(beliefs, previous).sum(-1), rtol=1e-4, atol=1e-4)


def test_likelihoods_are_those_of_the_distributions():
    outputs = th.linspace(-6, 6, 13).view(1, 13).expand(4, 13)
    rewards = th.tensor([-0.1, 1.0, 1.0, -0.1]).view(4, 1)
    expected = Bernoulli(logits=outputs).log_prob(th.tensor([0.0, 1.0, 1.0, 0.0]).view(4, 1).expand(4, 13))
    th.testing.assert_close(bernoulli_log_likelihood(outputs, rewards, -0.1, 1.0), expected)
    constant = Normal(0.0, 1.0).log_prob(th.tensor(0.0))
    th.testing.assert_close(gaussian_log_likelihood(outputs, rewards), Normal(outputs, 1.0).log_prob(rewards) - constant)


def test_elbo_by_hand():
    log_likelihood = th.tensor([[[-1.0, -2.0], [-3.0, -5.0]], [[-0.5, -7.0], [-0.25, -11.0]]])  # (term, step, meta-episode)
    kl = th.tensor([[2.0, 1.0], [4.0, 13.0]])
    term_mask, step_mask = th.tensor([[1.0, 1.0], [1.0, 0.0]]), th.tensor([[1.0, 1.0], [1.0, 0.0]])
    # first meta-episode: -1 - 3 - 0.5 - 0.25 and 2 + 4; second one, with one step and one term: -2 and 1
    bound, reconstruction, divergence = elbo(log_likelihood, kl, term_mask, step_mask, kl_weight=0.5)
    assert reconstruction.item() == pytest.approx((-4.75 - 2.0) / 2)
    assert divergence.item() == pytest.approx((6.0 + 1.0) / 2)
    assert bound.item() == pytest.approx(-3.375 - 0.5 * 3.5)


def elbo_in_loops(model, batch, lengths):
    """The ELBO as the paper writes it: for each t, the likelihood of every reward under m_t, less a KL; no dropout."""
    mu, logvar = model.beliefs(batch)
    totals = []
    for b, length in enumerate(lengths):
        total, previous = 0.0, Normal(th.zeros(LATENT), th.ones(LATENT))
        for t in range(length + 1):
            belief = Normal(mu[t, b], th.exp(0.5 * logvar[t, b]))
            for i in range(length):
                steps = model.decoder.encode_steps(batch.states[i, b], batch.actions[i, b], batch.next_states[i, b])
                output = model.decoder(belief.mean, steps)
                if isinstance(model.likelihood, TwoRewards):
                    total += Bernoulli(logits=output).log_prob(batch.rewards[i, b])
                else:
                    total += -0.5 * (output - batch.rewards[i, b]) ** 2
            total -= model.kl_weight * kl_divergence(belief, previous).sum()
            previous = belief
        totals.append(total)
    return sum(totals) / len(totals)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("lengths", [[5, 5], [6, 2, 4]])
def test_the_elbo_of_meta_episodes_is_the_sum_of_the_paper(likelihood, lengths):
    model = without_noise(network(reward_likelihood=likelihood, dropout_rate=0.0, kl_weight=0.01))
    with th.no_grad():
        model.encoder.mu.weight.mul_(1e-4)  # the KL must not drown the rest
    batch = random_batch(lengths, two_rewards=likelihood == "bernoulli")
    parts = model.elbo(batch, generator())
    th.testing.assert_close(parts["elbo"], elbo_in_loops(model, batch, lengths), rtol=1e-4, atol=1e-3)


def distinct(values, gap):
    """Values that lie closer together than the gap count once."""
    values = sorted(values)
    groups = [[values[0]]]
    for before, value in pairwise(values):
        if value - before > gap:
            groups.append([])
        groups[-1].append(value)
    return np.array([np.mean(group) for group in groups])


@pytest.mark.parametrize("lengths", [[3, 3], [3, 1]])
def test_the_mean_over_all_random_subsets_is_the_whole_elbo(lengths):
    batch = random_batch(lengths, seed=3)
    full = without_noise(network(dropout_rate=0.0)).elbo(batch, generator())
    model = without_noise(network(dropout_rate=0.0, n_elbo_terms=2, n_decoded_steps=1))
    parts = [model.elbo(batch, generator(seed)) for seed in range(400)]
    reconstructions = distinct([p["reconstruction"].item() for p in parts], gap=2e-3)
    assert len(reconstructions) == 6 * 3  # 2 of 4 terms, 1 of 3 steps
    assert reconstructions.mean() == pytest.approx(full["reconstruction"].item(), rel=1e-4)
    divergences = distinct([p["kl"].item() for p in parts], gap=1e-4 * full["kl"].item())
    assert len(divergences) == 6
    assert divergences.mean() == pytest.approx(full["kl"].item(), rel=1e-4)


@pytest.mark.parametrize(("n_terms", "n_steps"), [(8, 128), (3, 7)])
def test_memory_does_not_grow_with_the_square_of_the_length_unless_asked_to(n_terms, n_steps):
    layout = MetaEpisodeLayout(state_dim=2, action_dim=3, discrete=True, episodes_per_task=4, max_episode_steps=1000)
    options = {} if n_terms == 8 else {"n_elbo_terms": n_terms, "n_decoded_steps": n_steps}
    T, model = layout.meta_episode_steps, network(layout, **options)
    arrays = [th.zeros(T, 1, size) for size in (2, 3)]
    batch = MetaEpisodeBatch(arrays[0], arrays[1], th.zeros(T, 1), arrays[0], th.ones(T, 1))
    draws = model.draw(batch, generator())
    assert (len(draws.terms), len(draws.steps)) == (n_terms, n_steps)
    assert draws.term_scale == (T + 1) / n_terms and draws.step_scale == T / n_steps


def test_more_terms_and_steps_than_there_are_means_all():
    batch = random_batch([5, 3])
    few, all_ = network(n_elbo_terms=99, n_decoded_steps=99), network()
    assert few.elbo(batch, generator())["elbo"].item() == all_.elbo(batch, generator())["elbo"].item()


@pytest.mark.parametrize("subset", [None, 3])
def test_padding_has_no_influence(subset):
    model = network(n_elbo_terms=subset, n_decoded_steps=subset)
    batch = random_batch([6, 2, 4])
    padding = batch.mask == 0
    results = []
    for garbage in (0.0, 1e3):
        for tensor in (batch.states, batch.actions, batch.rewards, batch.next_states):
            tensor[padding] = garbage
        parts = model.elbo(batch, generator())
        model.zero_grad()
        parts["elbo"].backward()
        results.append([*(p.detach() for p in parts.values()), *(p.grad.clone() for p in model.parameters())])
    for one, two in zip(*results, strict=True):
        th.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_a_padded_meta_episode_counts_like_one_of_its_own_length():
    model = without_noise(network(dropout_rate=0.0))
    long, short = random_batch([6], seed=1), random_batch([2], seed=2)
    padded = random_batch([6, 2], seed=9)
    for name in ("states", "actions", "rewards", "next_states"):
        getattr(padded, name)[:, 0] = getattr(long, name)[:, 0]
        getattr(padded, name)[:2, 1] = getattr(short, name)[:, 0]
    apart = [model.elbo(batch, generator()) for batch in (long, short)]
    together = model.elbo(padded, generator())
    for name in ("elbo", "reconstruction", "kl", "final_kl"):
        mean = (apart[0][name] + apart[1][name]) / 2
        th.testing.assert_close(together[name], mean, rtol=1e-4, atol=1e-3)


# The networks


def test_the_encoder_never_sees_the_future():
    model = network()
    batch = random_batch([7, 7])
    before = model.beliefs(batch)
    assert before[0].shape == (8, 2, LATENT)
    for change in range(7):
        changed = random_batch([7, 7])
        changed.rewards[change] += 1.0
        changed.next_states[change] -= 1.0
        changed.actions[change] = changed.actions[change].roll(1, dims=-1)
        for one, two in zip(before, model.beliefs(changed), strict=True):
            assert th.equal(one[: change + 1], two[: change + 1])
            assert (one[change + 1 :] != two[change + 1 :]).any(-1).all()


def test_the_first_belief_is_the_same_for_every_task():
    model = network()
    mu, logvar = model.beliefs(random_batch([3, 3]))
    zeros = th.zeros(model.encoder.lstm.hidden_size)
    for value, expected in zip((mu[0], logvar[0]), model.encoder.belief(zeros), strict=True):
        th.testing.assert_close(value, expected.expand(2, -1))


@pytest.mark.parametrize("inputs", [("state", "action", "next_state"), ("next_state",), ("action", "state")])
def test_the_split_first_layer_is_a_concatenated_one(inputs):
    decoder = RewardDecoder(LAYOUT, LATENT, inputs, hidden_sizes=(8, 6))
    batch, latents = random_batch([5, 5]), th.randn(3, 2, LATENT)
    outputs = decoder(latents.unsqueeze(1), decoder.encode_steps(batch.states, batch.actions, batch.next_states))
    assert outputs.shape == (3, 5, 2)
    first = th.nn.Linear(LATENT + decoder.embedding.output_dim, 8)
    with th.no_grad():
        first.weight.copy_(th.cat([decoder.latent_layer.weight, decoder.step_layer.weight], dim=1))
        first.bias.copy_(decoder.latent_layer.bias)
    # in the fixed order state, action, next state, whatever order they were asked for in
    every = {"state": batch.states, "action": batch.actions, "next_state": batch.next_states}
    embedded = decoder.embedding(*(value for name, value in every.items() if name in inputs))
    rows = th.cat([latents.unsqueeze(1).expand(3, 5, 2, -1), embedded.expand(3, 5, 2, -1)], dim=-1)
    th.testing.assert_close(outputs, decoder.head(first(rows)).squeeze(-1))


@pytest.mark.parametrize("layers", [(8, 6), (5,)])
def test_a_linear_decoder_has_for_a_mixture_of_latent_models_the_mixture_of_their_rewards(layers):
    batch, latents, weights = random_batch([5, 5]), th.randn(4, LATENT), th.tensor([0.7, 0.9, -0.4, -0.2])
    differences = []
    for is_linear in (True, False):
        decoder = RewardDecoder(LAYOUT, LATENT, hidden_sizes=layers, is_linear=is_linear)
        steps = decoder.encode_steps(batch.states, batch.actions, batch.next_states)
        each = decoder(latents[:, None, None], steps)
        assert each.shape == (4, 5, 2) and each[0].std() > 0.0
        assert not th.allclose(each[0], each[1])
        differences.append((decoder(weights @ latents, steps) - (weights[:, None, None] * each).sum(0)).abs().max().item())
    assert differences[0] < 1e-5 < differences[1]


def test_a_network_with_a_linear_decoder_is_trained_as_any_other():
    model = network(linear_decoder=True)
    before = [parameter.clone() for parameter in model.decoder.parameters()]
    model.elbo(random_batch([5, 3]))["elbo"].backward()
    model.optimizer.step()
    assert all(not th.equal(old, new) for old, new in zip(before, model.decoder.parameters(), strict=True))
    with pytest.raises(ValueError, match="linear_decoder=1"):
        network(linear_decoder=1)


@pytest.mark.parametrize("inputs", [("state", "action", "next_state"), ("next_state",)])
def test_the_decoder_sees_only_the_inputs_it_is_told_to(inputs):
    decoder = RewardDecoder(LAYOUT, LATENT, inputs)
    tensors = {"state": th.randn(2), "action": th.randn(3), "next_state": th.randn(2)}
    for tensor in tensors.values():
        tensor.requires_grad_()
    decoder(th.zeros(LATENT), decoder.encode_steps(*tensors.values())).backward()
    assert [name for name, tensor in tensors.items() if tensor.grad is not None] == list(inputs)


@pytest.mark.parametrize("place", ["embeddings", "inputs"])
def test_dropping_everything_leaves_the_latent_model_alone(place):
    decoder = RewardDecoder(LAYOUT, LATENT, dropout_place=place)
    nothing = th.zeros(decoder.dropout_dim)
    batch = random_batch([5])
    outputs = decoder(th.ones(LATENT), decoder.encode_steps(batch.states, batch.actions, batch.next_states, nothing))
    th.testing.assert_close(outputs, outputs[:1].expand_as(outputs))
    everything = decoder.encode_steps(batch.states, batch.actions, batch.next_states, th.ones(decoder.dropout_dim))
    assert th.equal(everything, decoder.encode_steps(batch.states, batch.actions, batch.next_states))


@pytest.mark.parametrize("rate", [0.3, 0.7])
def test_the_dropout_mask_has_its_rate_and_mean_1(rate):
    mask = dropout_mask((400, 500), rate, generator(), "cpu")
    assert mask.unique().tolist() == pytest.approx([0.0, 1.0 / (1.0 - rate)])
    assert (mask == 0).float().mean().item() == pytest.approx(rate, abs=0.005)
    assert mask.mean().item() == pytest.approx(1.0, abs=0.01)


def test_dropout_changes_the_elbo_and_none_does_not():
    batch = random_batch([5])
    model = without_noise(network(dropout_rate=0.0))
    assert model.dropout_mask((3,)) is None
    values = [model.elbo(batch, generator(seed))["reconstruction"].item() for seed in range(5)]
    assert values == pytest.approx([values[0]] * 5, abs=1e-3)
    model.dropout_rate = 0.5
    values = [model.elbo(batch, generator(seed))["reconstruction"].item() for seed in range(5)]
    assert np.ptp(values) > 0.1


def test_the_global_random_stream_is_left_alone():
    model, batch = network(n_elbo_terms=2, n_decoded_steps=2), random_batch([5, 5])
    before = th.random.get_rng_state()
    model.elbo(batch, generator())
    assert th.equal(th.random.get_rng_state(), before)


def test_the_bernoulli_likelihood_expects_a_reward_between_the_two():
    model = network(reward_likelihood="bernoulli", bernoulli_rewards=(-0.1, 1.0))
    logits = th.tensor([-100.0, 0.0, np.log(3.0), 100.0])
    assert model.likelihood.mean(logits).tolist() == pytest.approx([-0.1, 0.45, 1.1 * 0.75 - 0.1, 1.0])
    assert network().likelihood.mean(logits) is logits  # Gaussian: the output is the mean


def test_rewards_that_the_likelihood_cannot_make_are_refused():
    grid = network(reward_likelihood="bernoulli", bernoulli_rewards=(-0.1, 1.0))
    grid.check_rewards(np.array([-0.1, 1.0, -0.1], dtype=np.float32))
    with pytest.raises(ValueError, match=r"bernoulli_rewards=\(-0\.1, 1\.0\) met the reward 0\.5.*'gaussian'"):
        grid.check_rewards(np.array([1.0, 0.5]))
    network().check_rewards(np.array([1.0, 0.5]))
    for number in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            network().check_rewards(np.array([0.0, number]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout_rate": 1.0}, r"dropout_rate=1\.0"),
        ({"dropout_rate": -0.1}, r"dropout_rate=-0\.1"),
        ({"kl_weight": -1.0}, r"kl_weight=-1\.0"),
        ({"latent_dim": 0}, "latent_dim=0"),
        ({"n_elbo_terms": 0}, "n_elbo_terms=0"),
        ({"n_decoded_steps": 0}, "n_decoded_steps=0"),
        ({"reward_likelihood": "cauchy"}, r"reward_likelihood='cauchy'.*'bernoulli'"),
        ({"bernoulli_rewards": (1.0, -0.1)}, "bernoulli_rewards"),
        ({"decoder_inputs": ("reward",)}, r"decoder_inputs=\('reward',\)"),
        ({"decoder_inputs": ()}, "decoder_inputs"),
        ({"decoder_layers": ()}, "decoder_layers"),
        ({"decoder_embeddings": (0, 8), "decoder_inputs": ["next_state"]}, "decoder_embeddings"),
        ({"dropout_place": "latent"}, "dropout_place='latent'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)


# Training

PATH = (2, 2, 0, 0, 4, 4)  # right, right, stay, stay, left, left: on the goal (2, 0) or not
GOAL, ELSEWHERE = [2, 0], [6, 6]


def scripted_meta_episodes(n_envs=16, rounds=4):
    """Gridworld meta-episodes that look whether the goal is at (2, 0), which it is for every second worker."""
    env = grid_vec_env(n_envs, episodes=2, horizon=len(PATH))
    buffer = MetaEpisodeBuffer(n_envs * rounds, env.observation_space.layout, n_envs)
    reader = StepReader(buffer.layout, n_envs)
    for _ in range(rounds):
        env.set_options([{"task": GOAL if i % 2 else ELSEWHERE} for i in range(n_envs)])
        reader.start(env, env.reset())
        for action in PATH * 2:
            actions = np.full(n_envs, action)
            buffer.add(reader.read(env, actions, *env.step(actions)))
    return buffer


def test_training_learns_to_tell_tasks_apart():
    buffer = scripted_meta_episodes()
    model = network(
        buffer.layout,
        seed=1,
        reward_likelihood="bernoulli",
        bernoulli_rewards=(-0.1, 1.0),
        dropout_rate=0.1,
        encoder_hidden_size=32,
        decoder_layers=(32, 32),
        kl_weight=0.1,
        learning_rate=5e-3,
    )
    rng, noise = np.random.default_rng(0), generator()
    before = model.update(buffer, 25, 1, rng, noise)
    model.update(buffer, 25, 400, rng, noise)
    after = model.update(buffer, 25, 5, rng, noise)
    assert set(before) == {"elbo", "reconstruction", "kl", "accuracy", "final_kl"}
    assert after["elbo"] > before["elbo"] + 4.0 and after["elbo"] > -1.2
    assert after["accuracy"] > 0.93 > before["accuracy"]  # 0.75 without a belief
    mu, _ = model.beliefs(buffer.get(np.array([0, 1])))  # the goal is elsewhere, and at (2, 0)
    cell = th.tensor([2.0, 0.0])
    promised = model.likelihood.mean(model.decoder(mu, model.decoder.encode_steps(cell, th.eye(5)[0], cell)))
    assert promised[0, 0].item() == promised[0, 1].item()  # before the first transition nothing is known
    assert bool((promised[2:, 0] < 0.2).all()) and bool((promised[2:, 1] > 0.8).all())  # two steps later it is


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_an_update_descends_the_gradient_of_the_batch_in_however_many_shards(n_threads):
    """Adam does not see the gradient's scale, so it is the gradient that must be right."""
    buffer, batch_size = scripted_meta_episodes(8, 2), 7  # shards of unequal sizes
    model = network(buffer.layout, n_elbo_terms=5, dropout_rate=0.5)
    rng, noise = np.random.default_rng(0), generator()
    batch = buffer.sample(batch_size, rng, "cpu")
    parts = model.elbo(batch, noise)
    (-parts["elbo"] / (len(batch.rewards) + 1)).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    told = model.update(buffer, batch_size, 1, np.random.default_rng(0), generator(), n_threads)
    th.testing.assert_close([parameter.grad for parameter in model.parameters()], expected, rtol=1e-3, atol=1e-6)
    assert told["final_kl"] == pytest.approx(parts["final_kl"].item(), rel=1e-4)
    assert told["elbo"] == pytest.approx(parts["elbo"].item() / (len(batch.rewards) + 1), rel=1e-4)


def test_an_empty_buffer_and_no_updates_change_nothing():
    model = network()
    before = [p.clone() for p in model.parameters()]
    empty = MetaEpisodeBuffer(3, LAYOUT, 2)
    assert model.update(empty, 5, 2, np.random.default_rng(0)) == {}
    filled = scripted_buffer()
    assert model.update(filled, 5, 0, np.random.default_rng(0)) == {}
    assert all(th.equal(one, two) for one, two in zip(before, model.parameters(), strict=True))
    assert "accuracy" not in model.update(filled, 5, 1, np.random.default_rng(0))  # of squared errors there is none


# Standardised states


def test_running_statistics_are_those_of_all_states():
    standardize = Standardize(3)
    states = 5.0 * th.randn(70, 3, generator=generator()) + th.tensor([100.0, 0.0, -3.0])
    for part in states.split([1, 9, 60]):
        standardize.update(part)
    assert th.allclose(standardize.mean, states.mean(0), atol=1e-4)
    assert th.allclose(standardize.var, states.var(0, correction=0), rtol=1e-4)
    standardised = standardize(states)
    assert th.allclose(standardised.mean(0), th.zeros(3), atol=1e-4)
    assert th.allclose(standardised.var(0, correction=0), th.ones(3), atol=1e-4)
    assert standardize(th.full((1, 3), 1e9)).tolist() == [[10.0, 10.0, 10.0]]


def test_only_updates_change_the_statistics_and_both_networks_use_them():
    model = network(standardize_states=True)
    batch = random_batch([8, 8])
    buffer = scripted_buffer()
    mean = model.standardize.mean.clone()
    model.elbo(batch, generator())
    model.beliefs(batch)
    assert th.equal(model.standardize.mean, mean)
    model.update(buffer, 5, 1, np.random.default_rng(0))
    assert not th.equal(model.standardize.mean, mean)
    with th.no_grad():
        steps = (batch.states, batch.actions, batch.next_states)
        beliefs, encoded = model.beliefs(batch)[0], model.decoder.encode_steps(*steps)
        model.standardize.mean += 100.0
        assert not th.allclose(model.beliefs(batch)[0], beliefs)
        assert not th.allclose(model.decoder.encode_steps(*steps), encoded)


def test_the_statistics_are_loaded_with_the_weights():
    model, again = network(standardize_states=True), network(seed=1, standardize_states=True)
    model.update(scripted_buffer(), 5, 2, np.random.default_rng(0))
    again.load_state_dict(model.state_dict())
    batch = random_batch([8, 8])
    assert th.equal(again.beliefs(batch)[0], model.beliefs(batch)[0])


# The buffer


def clock_of(buffer):
    """The clock that the scripted steps are made by, which goes along with copies of the buffer."""
    if not hasattr(buffer, "clock"):
        buffer.clock = MetaEpisodeClock(buffer.layout, buffer.n_workers)
    return buffer.clock


def add_steps(buffer, first, n_steps, done_after=None):
    """
    Steps of all workers, whose rewards count up from ``first``: the tasks are the hundreds, and the first of two episodes ends
    by the task itself.
    """
    clock = clock_of(buffer)
    workers = np.arange(buffer.n_workers)
    for step in range(n_steps):
        done = np.full(buffer.n_workers, done_after is not None and step == done_after - 1)
        numbers = first + step + 100.0 * workers
        states = np.stack([numbers, -numbers], axis=1)
        ends = done | (step == 3)  # of the first of two episodes
        tasks = np.stack([workers, first + workers], axis=1)
        buffer.add(Step(states, workers % 3, numbers, states + 0.5, ends, ends & ~done, done, tasks, clock.now))
        clock.advance(ends, done)


def scripted_buffer(capacity=10, n_workers=2, n_meta_episodes=3):
    buffer = MetaEpisodeBuffer(capacity, LAYOUT, n_workers)
    for index in range(n_meta_episodes):
        add_steps(buffer, 10.0 * index, 8, done_after=8)
    return buffer


def through_a_file(buffer):
    file = io.BytesIO()
    buffer.save(file)
    file.seek(0)
    return MetaEpisodeBuffer.load(file, "buffer.pkl")


def through_an_old_file(buffer):
    return MetaEpisodeBuffer.load(io.BytesIO(pickle.dumps(buffer)), "buffer.pkl")


def first_rewards(buffer):
    return buffer.get(np.arange(len(buffer))).rewards[0].tolist()


def test_the_ring_overwrites_the_oldest():
    buffer = MetaEpisodeBuffer(4, LAYOUT, 1)
    lengths = []
    for index in range(7):
        add_steps(buffer, 10.0 * index, 8, done_after=8)
        lengths.append(len(buffer))
    assert lengths == [1, 2, 3, 4, 4, 4, 4]
    assert sorted(first_rewards(buffer)) == [30.0, 40.0, 50.0, 60.0]


def test_a_uniform_sample_keeps_early_and_late_meta_episodes_alike():
    kept = np.zeros(12)
    for seed in range(300):
        buffer = MetaEpisodeBuffer(3, LAYOUT, 1, keeps="uniform", seed=seed)
        for index in range(12):
            add_steps(buffer, float(index), 8, done_after=8)
        assert len(buffer) == 3 and len(set(first_rewards(buffer))) == 3
        kept[np.array(first_rewards(buffer), dtype=int)] += 1
    assert kept.sum() == 900 and kept.min() > 45 and kept.max() < 105  # 75 each, with a deviation of 7.5


def test_a_copy_goes_on_with_what_runs():
    buffer = scripted_buffer(n_workers=2, n_meta_episodes=1)
    add_steps(buffer, 50.0, 3)
    again = pickle.loads(pickle.dumps(buffer))
    for one in (buffer, again):
        add_steps(one, 53.0, 5, done_after=5)
    assert first_rewards(again) == first_rewards(buffer) == [0.0, 100.0, 50.0, 150.0]


def test_a_damaged_file_is_named_whatever_is_wrong_with_it():
    for written in (scripted_buffer().save, lambda file: file.write(pickle.dumps(scripted_buffer())[:-200])):
        file = io.BytesIO()
        written(file)
        whole = file.getvalue()
        rng = np.random.default_rng(0)
        if whole.startswith(b"PK"):
            damaged = [whole[:n] for n in (0, 1, 70, len(whole) // 2, len(whole) - 1)] + [whole + b"0"]
            for place in rng.integers(len(whole), size=60):
                flipped = bytearray(whole)
                flipped[place] ^= 1 << rng.integers(8)
                damaged.append(bytes(flipped))
        else:  # a pickle, as buffers were saved before, has no checksum
            damaged = [whole]
        for one in damaged:
            with pytest.raises(ValueError, match=r"runs/buffer\.pkl is damaged.*load the buffer of an earlier checkpoint"):
                MetaEpisodeBuffer.load(io.BytesIO(one), "runs/buffer.pkl")


def test_reading_a_file_runs_nothing(monkeypatch):
    file = io.BytesIO()
    scripted_buffer().save(file)
    monkeypatch.setattr(pickle, "load", lambda file: pytest.fail("unpickled"))
    file.seek(0)
    assert len(MetaEpisodeBuffer.load(file, "buffer.pkl")) == 6


def test_a_file_of_something_else_is_named():
    with pytest.raises(ValueError, match=r"buffer\.pkl holds no buffer of meta-episodes, but dict"):
        MetaEpisodeBuffer.load(io.BytesIO(pickle.dumps({})), "buffer.pkl")


@pytest.mark.parametrize("way", [through_a_file, lambda buffer: pickle.loads(pickle.dumps(buffer))])
def test_a_uniform_sample_goes_on_after_saving(way):
    buffer = MetaEpisodeBuffer(3, LAYOUT, 1, keeps="uniform", seed=0)
    for index in range(6):
        add_steps(buffer, float(index), 8, done_after=8)
    again = way(buffer)
    for one in (buffer, again):
        clock_of(one).start()
        for index in range(6, 20):
            add_steps(one, float(index), 8, done_after=8)
    assert first_rewards(again) == first_rewards(buffer)


def test_unfinished_meta_episodes_are_never_stored():
    buffer = scripted_buffer(n_workers=2, n_meta_episodes=1)
    add_steps(buffer, 50.0, 7)
    assert len(buffer) == 2
    clock_of(buffer).start()
    add_steps(buffer, 70.0, 8, done_after=8)
    assert first_rewards(buffer) == [0.0, 100.0, 70.0, 170.0]
    batch = buffer.get(np.array([2, 3]))
    assert batch.rewards.shape == (8, 2) and bool(batch.mask.all())


def test_the_rest_of_a_meta_episode_is_no_whole_one():
    buffer = MetaEpisodeBuffer(10, LAYOUT, 2)
    clock_of(buffer).start(at_start=np.array([False, True]))
    add_steps(buffer, 0.0, 5, done_after=5)  # worker 0 is in the midst of one
    assert first_rewards(buffer) == [100.0]
    add_steps(buffer, 10.0, 8, done_after=8)
    assert first_rewards(buffer) == [100.0, 10.0, 110.0]


def test_meta_episodes_that_somebody_else_stepped_in_are_not_stored():
    buffer = MetaEpisodeBuffer(10, LAYOUT, 2)
    add_steps(buffer, 0.0, 3)
    add_steps(buffer, 10.0, 8, done_after=8)
    assert len(buffer) == 0
    add_steps(buffer, 30.0, 8, done_after=8)
    assert first_rewards(buffer) == [30.0, 130.0]


def record(env, n_meta_episodes, rng):
    """Meta-episodes as the environment itself tells them: (s_t, a_t, r_{t+1}, s_{t+1}, ends, task) of every step."""
    layout, recorded = env.layout, []
    for _ in range(n_meta_episodes):
        steps, (obs, _), done = [], env.reset(), False
        while not done:
            action = env.action_space.sample() if rng is None else rng.uniform(0.5, 1.0, 2).astype(np.float32)
            next_obs, reward, done, _, info = env.step(action)
            ended = "terminal_state" in info
            next_state = info["terminal_state"] if ended else next_obs[layout.state]
            terminated = ended and info["terminated"]
            steps.append((obs[layout.state], action, reward, next_state, ended, terminated, done, info["task"]))
            obs = next_obs
        recorded.append(steps)
    return recorded


def test_meta_episodes_with_early_ends_come_back_exactly():
    env = MetaEpisodeWrapper(Drift(end_probability=0.3), 3, max_episode_steps=5)
    env.reset(seed=0)
    recorded = record(env, 12, np.random.default_rng(0))
    lengths = [len(steps) for steps in recorded]
    assert len(set(lengths)) > 4
    buffer = MetaEpisodeBuffer(20, env.layout, 1)
    for steps in recorded:
        for one in steps:
            step = Step(*(np.array(part)[None] for part in one), at=clock_of(buffer).now)
            buffer.add(step)
            clock_of(buffer).advance(step.episode_ends, step.dones)
    batch = buffer.get(np.arange(12))
    for i, steps in enumerate(recorded):
        length = len(steps)
        assert batch.mask[:, i].tolist() == [1.0] * length + [0.0] * (max(lengths) - length)
        columns = list(zip(*steps, strict=True))
        names = ("states", "actions", "rewards", "next_states", "episode_ends", "terminated")
        for name, column in zip(names, columns[:6], strict=True):
            expected = np.array(column, dtype=np.float32)
            np.testing.assert_array_equal(getattr(batch, name)[:length, i], expected, err_msg=f"{name} of {i}")
        assert not batch.episode_ends[length:, i].any() and not batch.terminated[length:, i].any()
        np.testing.assert_array_equal(batch.tasks[i], np.float32(columns[7][0]))
    assert 0 < batch.terminated.sum() < batch.episode_ends.sum()  # some at the time limit

    every = {float(np.float32(one[2])): one for steps in recorded for one in steps}
    drawn = buffer.sample_transitions(1000, np.random.default_rng(0))
    assert set(drawn.rewards.tolist()) == set(every) and len(every) == sum(lengths)
    for states, actions, reward, *drawn_parts in zip(*drawn, strict=True):
        s, a, _, next_s, end, terminated, _, task = every[float(reward)]
        for part, expected in zip((states, actions, *drawn_parts), (s, a, next_s, end, terminated, task), strict=True):
            np.testing.assert_array_equal(part, np.asarray(expected, dtype=part.dtype))


def test_discrete_actions_come_back_one_hot():
    buffer = scripted_meta_episodes(n_envs=2, rounds=1)
    batch = buffer.get(np.arange(2))
    assert batch.actions.argmax(-1)[:, 0].tolist() == list(PATH * 2)
    assert bool((batch.actions.sum(-1) == 1).all())
    path = [[0, 0], [1, 0], [2, 0], [2, 0], [2, 0], [1, 0], [0, 0]]
    assert batch.states[:, 0].tolist() == path[:-1] * 2
    assert batch.next_states[:, 0].tolist() == path[1:] * 2


@pytest.mark.parametrize("way", [through_a_file, through_an_old_file])
@pytest.mark.parametrize("n_meta_episodes", [0, 2, 9])
def test_files_keep_what_is_stored(way, n_meta_episodes):
    buffer = scripted_buffer(capacity=5, n_workers=2, n_meta_episodes=n_meta_episodes)
    add_steps(buffer, 500.0, 3)
    buffer.agent_view = lambda obs: obs  # an environment's, which runs
    again = way(buffer)
    again.set_workers(2)
    buffer.agent_view = None
    assert len(again) == len(buffer) == min(5, 2 * n_meta_episodes)
    kept = ("states", "actions", "rewards", "next_states", "mask", "episode_ends", "terminated", "tasks")
    for name in kept if n_meta_episodes else ():
        indices = np.arange(len(buffer))
        assert th.equal(getattr(again.get(indices), name), getattr(buffer.get(indices), name))
    for one in (buffer, again):
        clock_of(one).start()
        add_steps(one, 900.0, 8, done_after=8)
    assert first_rewards(again) == first_rewards(buffer)
    assert {900.0, 1000.0} <= set(first_rewards(again))


def test_meta_episodes_of_earlier_files_have_no_tasks():
    buffer, now, before = scripted_buffer(), io.BytesIO(), io.BytesIO()
    buffer.save(now)
    now.seek(0)
    read = read_arrays(now, "buffer.pkl")
    assert read is not None
    write_arrays(before, {name: read[0][name] for name in read[0].keys() - {"tasks", "terminated"}}, read[1])
    before.seek(0)
    again = MetaEpisodeBuffer.load(before, "buffer.pkl")
    assert again.get(np.arange(6)).tasks.shape == (6, 0)
    add_steps(again, 900.0, 8, done_after=8)
    batch = again.get(np.arange(8))
    assert batch.tasks[:6].isnan().all() and batch.tasks[6:].tolist() == [[0.0, 900.0], [1.0, 901.0]]
    assert batch.rewards[0].tolist() == [*first_rewards(buffer), 900.0, 1000.0]
    assert batch.terminated.sum(0).tolist() == [0] * 6 + [1] * 2


@pytest.mark.parametrize("available", [10**6, None])
def test_a_buffer_that_does_not_fit_is_told_of_before_it_fills(available, monkeypatch):
    """Zeros take no memory until they are written, so that the process would be killed hours later."""
    monkeypatch.setattr(memory, "available_memory", lambda: available)
    one = MetaEpisodeBuffer(1, LAYOUT, 1).nbytes - 4  # its length besides
    expected = {
        10**6: rf"vae_buffer_size=100000: .* {one:,} bytes needs .*{100_000 * one:,} bytes.* 0.001 GB \(1,000,000 bytes\).*"
        rf"at most {500_000 // one:,}",
        None: None,
    }[available]
    with user_warnings() as told:
        MetaEpisodeBuffer(100_000, LAYOUT, 1)
    assert len(told) == (expected is not None)
    if expected is not None:
        assert re.search(expected, str(told[0].message))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MemoryError, match=r"vae_buffer_size=1000000000000000: .*GB"):
            MetaEpisodeBuffer(10**15, LAYOUT, 1)


def test_memory_that_is_available_is_no_more_than_there_is(monkeypatch, tmp_path):
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory.available_memory() <= whole
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert 0 < memory.available_memory() <= whole
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)  # a container's limit
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.stat").write_text("anon 3000000\nfile 1000000\n")
    assert memory.available_memory() == 2_000_000


def test_a_pickle_holds_no_more_than_what_is_stored():
    few, many = (MetaEpisodeBuffer(capacity, LAYOUT, 1) for capacity in (5, 5000))
    for buffer in (few, many):
        add_steps(buffer, 0.0, 8, done_after=8)
    small, large = len(pickle.dumps(few)), len(pickle.dumps(many))
    assert large < small + 25_000  # their lengths are stored for the whole capacity


def test_twenty_thousand_grid_meta_episodes_take_little_memory():
    layout = MetaEpisodeLayout(state_dim=2, action_dim=5, discrete=True, episodes_per_task=4, max_episode_steps=30)
    assert MetaEpisodeBuffer(20_000, layout, 16).nbytes <= 40 * 2**20


def test_sampling_is_reproducible_and_reaches_every_meta_episode():
    buffer = scripted_buffer(capacity=10, n_workers=2, n_meta_episodes=3)
    one, two = (buffer.sample(4, np.random.default_rng(1)) for _ in range(2))
    assert th.equal(one.rewards, two.rewards) and one.rewards.shape == (8, 4)
    seen = buffer.sample(200, np.random.default_rng(0)).rewards[0].tolist()
    assert set(seen) == set(first_rewards(buffer))


def test_a_buffer_for_nothing_is_refused():
    with pytest.raises(ValueError, match="vae_buffer_size=0"):
        MetaEpisodeBuffer(0, LAYOUT, 1)
