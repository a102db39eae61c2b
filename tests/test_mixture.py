"""Mixtures of beliefs (Equation 1), imaginary rewards, and the environment that hands them out."""

import copy

import numpy as np
import pytest
import torch as th
from helpers import Drift, grid_vec_env, vec_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ldm import LDM
from sb3_ldm.algorithms.ldm.imagination import Imagination, ImaginationConfig
from sb3_ldm.algorithms.ldm.mixture import (
    choose_far,
    choose_novel,
    mix_beliefs,
    mixture_weights,
    sample_mixture_weights,
    sample_simplex,
)
from sb3_ldm.algorithms.ldm.mixture_vec_env import MixtureVecEnv
from sb3_ldm.data import MetaEpisodeBuffer, Transitions
from sb3_ldm.envs.meta_episode import MetaEpisodeLayout
from sb3_ldm.inference import RewardVAE

LAYOUT = MetaEpisodeLayout(state_dim=2, action_dim=3, discrete=True, episodes_per_task=2, max_episode_steps=4)
GRID_REWARDS = (-0.1, 1.0)


def generator(seed=0):
    return th.Generator().manual_seed(seed)


# Equation 1


@given(st.integers(1, 20), st.floats(0.01, 10.0), st.integers(0, 2**31))
@settings(deadline=None)
def test_the_weights_sum_to_1_for_every_beta(n, beta, seed):
    weights = mixture_weights(sample_simplex((5, n), generator(seed)), beta)
    th.testing.assert_close(weights.sum(-1), th.ones(5), rtol=0, atol=1e-4)


@given(st.integers(1, 20), st.floats(0.0, 1.0), st.integers(0, 2**31))
@settings(deadline=None)
def test_the_mixture_is_convex_up_to_beta_1(n, beta, seed):
    weights = mixture_weights(sample_simplex((5, n), generator(seed)), beta)
    assert weights.min() >= 0 and weights.max() <= 1 + 1e-5


def test_beta_scales_the_spread_around_the_mean():
    simplex = sample_simplex((50_000, 4), generator())
    deviations = [mixture_weights(simplex, beta) - 0.25 for beta in (1.0, 2.5)]
    th.testing.assert_close(deviations[1], 2.5 * deviations[0])
    assert mixture_weights(simplex, 2.5).min() < -0.3  # it extrapolates, down to -(beta - 1) / n


def test_the_simplex_is_sampled_uniformly():
    n = 5
    simplex = sample_simplex((200_000, n), generator())
    # moments of Dirichlet(1, .., 1)
    assert simplex.mean(0).tolist() == pytest.approx([1 / n] * n, abs=2e-3)
    covariance = th.cov(simplex.T)
    expected = (th.eye(n) / n - 1 / n**2) / (n + 1)
    th.testing.assert_close(covariance, expected, rtol=0, atol=5e-4)


@pytest.mark.parametrize("n_dimensions", [1, 7])
@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_only_the_partners_are_mixed(n_dimensions, beta):
    weights = sample_mixture_weights(300, 6, 2, beta, generator(), n_dimensions)
    assert weights.shape == (300, 6, n_dimensions)
    th.testing.assert_close(weights.sum(1), th.ones(300, n_dimensions))
    used = (weights != 0).any(-1)
    assert bool((used.sum(1) == 2).all())
    # every worker is drawn equally often, and the weights of the partners differ from dimension to dimension
    assert used.float().mean(0).tolist() == pytest.approx([1 / 3] * 6, abs=0.1)
    if n_dimensions > 1:
        spread = (weights.amax(-1) - weights.amin(-1))[used]
        assert bool((spread > 0).all())


def test_beliefs_are_mixed_by_the_weights():
    latents = th.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    per_worker = th.tensor([[[0.5], [0.5], [0.0]], [[2.0], [0.0], [-1.0]]])
    assert mix_beliefs(per_worker, latents).tolist() == [[1.5, 15.0], [-2.0, -20.0]]
    per_dimension = th.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]])
    assert mix_beliefs(per_dimension, latents).tolist() == [[1.0, 40.0]]


# Imagination


def network(layout=LAYOUT, seed=0, **options):
    """A VAE whose beliefs and decoder outputs differ a lot from each other."""
    options = {"latent_dim": 6, "encoder_hidden_size": 16, "decoder_layers": (16,), **options}
    with th.random.fork_rng():
        th.manual_seed(seed)
        model = RewardVAE(layout, **options)
    with th.no_grad():
        for layer in (model.encoder.mu, model.decoder.latent_layer, model.decoder.step_layer, model.decoder.head[-1]):
            layer.weight.mul_(5.0)
    return model


def bernoulli(**options):
    return network(reward_likelihood="bernoulli", bernoulli_rewards=GRID_REWARDS, **options)


def imagination(model=None, n_normal=5, n_mixture=3, seed=0, **config):
    imagined = Imagination(
        model or network(), n_normal, n_mixture, ImaginationConfig(**{"imagination_dropout": "off", **config}), generator(seed)
    )
    imagined.start()
    return imagined


def observe(imagined, rng, dones=()):
    n = imagined.n_normal
    done = np.isin(np.arange(n), dones)
    imagined.observe(rng.normal(size=(n, 2)), np.eye(3)[rng.integers(0, 3, n)], rng.normal(size=n), done)


def steps(n, seed=0):
    rng = np.random.default_rng(seed)
    arrays = rng.normal(size=(n, 2)), np.eye(3)[rng.integers(0, 3, n)], rng.normal(size=(n, 2))
    return tuple(array.astype(np.float32) for array in arrays)


def test_weights_stay_for_a_meta_episode_and_are_redrawn_at_its_start():
    imagined, rng = imagination(), np.random.default_rng(0)
    before = imagined.tasks.weights.clone()
    for dones in ((), (0, 2), (1,)):  # whatever the normal workers' meta-episodes do
        observe(imagined, rng, dones)
        imagined.rewards(*steps(3))
    assert th.equal(imagined.tasks.weights, before)
    imagined.new_tasks(np.array([1]))
    assert (imagined.tasks.weights != before).any(-1).any(-1).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", ["per_worker", "per_dimension"])
def test_current_mixtures_follow_the_beliefs(kind):
    imagined, rng = imagination(mixture_weights=kind), np.random.default_rng(0)
    before = imagined.mixed_latents()
    prior = imagined.vae.encoder.belief(th.zeros(16))[0]
    th.testing.assert_close(before, prior.expand(3, -1))  # all partners know nothing yet, and the weights sum to 1
    observe(imagined, rng)
    after = imagined.mixed_latents()
    assert bool(((after - before).abs() > 1e-3).any(-1).all())
    assert th.equal(after, imagined.mixed_latents())


def test_samples_of_the_beliefs_are_drawn_anew_at_every_step():
    imagined = imagination(mixed_belief="sample", n_mixture=2)
    samples = th.stack([imagined.mixed_latents() for _ in range(2000)])
    mean = imagination(n_mixture=2).mixed_latents()
    assert samples.std(0).min() > 0.1
    th.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.1)


@pytest.mark.parametrize("mixed_belief", ["mean", "sample"])
def test_mixtures_of_final_beliefs_are_stationary(mixed_belief):
    imagined, rng = imagination(mixture_time="final", mixed_belief=mixed_belief), np.random.default_rng(0)
    for _ in range(3):
        observe(imagined, rng)
    observe(imagined, rng, dones=range(5))
    imagined.new_tasks(np.arange(3))
    before = imagined.mixed_latents().clone()
    observe(imagined, rng)
    observe(imagined, rng, dones=(0, 1))
    assert th.equal(imagined.mixed_latents(), before)
    imagined.new_tasks(np.array([2]))
    assert (imagined.mixed_latents() != before).any(-1).tolist() == [False, False, True]


def test_mixtures_of_final_beliefs_mix_the_beliefs_at_the_ends():
    """Transitions are encoded together at the ends of meta-episodes, which equals encoding each as it comes."""
    model, rng = network(), np.random.default_rng(0)
    imagined = imagination(model, mixture_time="final", n_partners=1)  # a mixture of one is that one
    n, ends = imagined.n_normal, {}
    states = model.encoder.initial_states(n)
    for dones in ((), (0, 1, 2), (), (), (3,), (4, 0), ()):
        transition = rng.normal(size=(n, 2)), np.eye(3)[rng.integers(0, 3, n)], rng.normal(size=n)
        outputs, states = model.encoder(*(th.as_tensor(x, dtype=th.float32).unsqueeze(0) for x in transition), states)
        imagined.observe(*transition, np.isin(np.arange(n), dones))
        for worker in dones:
            ends[worker] = model.encoder.belief(outputs[0])[0][worker]
            states = tuple(state * (th.arange(n) != worker).view(1, n, 1) for state in states)
    imagined.new_tasks(np.arange(3))
    for mixed, weights in zip(imagined.mixed_latents(), imagined.tasks.weights, strict=True):
        (partner,) = weights[:, 0].nonzero().flatten().tolist()
        th.testing.assert_close(mixed, ends[partner])


def test_final_beliefs_are_there_when_every_normal_worker_has_one():
    imagined, rng = imagination(mixture_time="final"), np.random.default_rng(0)
    for dones, is_there in (((), False), ((0, 1), False), ((1, 2, 3), False), ((0,), False), ((4,), True), ((), True)):
        observe(imagined, rng, dones)
        assert imagined.has_final_beliefs == is_there


def rewards_of_the_same_step(imagined, n_times=40):
    return np.stack([imagined.rewards(*steps(3)) for _ in range(n_times)])


def test_dropout_in_imagination():
    model = network(dropout_rate=0.5)
    off, step, meta = (imagination(model, imagination_dropout=kind) for kind in ("off", "step", "meta_episode"))
    assert np.ptp(rewards_of_the_same_step(off), axis=0).max() == 0
    assert np.ptp(rewards_of_the_same_step(step), axis=0).min() > 0.01
    one = rewards_of_the_same_step(meta)
    assert np.ptp(one, axis=0).max() == 0
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(one[0], rewards_of_the_same_step(off)[0])
    masks = []
    for _ in range(20):
        kept = meta.rewards(*steps(3))
        weights = meta.tasks.weights.clone()
        meta.new_tasks(np.array([0]))
        meta.tasks = meta.tasks._replace(
            weights=weights
        )  # only the mask is new, and only the first worker's; all beliefs are the same
        masks.append(meta.rewards(*steps(3)))
        assert masks[-1][0] != kept[0]
        np.testing.assert_array_equal(masks[-1][1:], kept[1:])


@pytest.mark.parametrize("kind", ["off", "step", "meta_episode"])
def test_no_dropout_rate_means_no_dropout(kind):
    imagined = imagination(network(dropout_rate=0.0), imagination_dropout=kind)
    assert np.ptp(rewards_of_the_same_step(imagined), axis=0).max() == 0


@pytest.mark.parametrize("kind", ["sample", "threshold"])
def test_sampled_and_thresholded_rewards_are_true_rewards(kind):
    model = bernoulli()
    imagined, mean = imagination(model, n_mixture=200, imaginary_reward=kind), imagination(model, n_mixture=200)
    observe(imagined, np.random.default_rng(0))
    observe(mean, np.random.default_rng(0))
    many = np.stack([imagined.rewards(*steps(200)) for _ in range(300)])
    assert np.unique(many).tolist() == pytest.approx(list(GRID_REWARDS), abs=1e-6) and len(np.unique(many)) == 2
    expected = mean.rewards(*steps(200))
    assert ((expected > -0.1) & (expected < 1.0)).all()
    if kind == "threshold":
        np.testing.assert_array_equal(many[0] > 0.5, expected > 0.45)
        assert (many == many[0]).all()
    else:
        np.testing.assert_allclose(many.mean(0), expected, atol=0.15)


def test_final_mixtures_can_be_looked_at_without_a_trace():
    imagined = imagination(mixed_belief="sample")
    before = imagined.generator.get_state()
    weights, latents = imagined.sample_final_mixtures(10, generator(5))
    again = imagined.sample_final_mixtures(10, generator(5))
    assert th.equal(imagined.generator.get_state(), before)
    assert th.equal(weights, again[0]) and th.equal(latents, again[1])
    assert weights.shape == (10, 5, 1) and latents.shape == (10, 6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mixture_weights": "per_layer"}, "mixture_weights='per_layer'.*'per_dimension'"),
        ({"mixed_belief": "median"}, "mixed_belief='median'"),
        ({"mixture_time": "never"}, "mixture_time='never'"),
        ({"imaginary_reward": "max"}, "imaginary_reward='max'"),
        ({"imagination_dropout": "on"}, "imagination_dropout='on'"),
        ({"beta": 0.0}, r"beta=0\.0"),
        ({"n_partners": 0}, "n_partners=0"),
        ({"imaginary_reward": "sample"}, "imaginary_reward='sample' needs reward_likelihood='bernoulli'"),
        ({"imaginary_reward": "threshold"}, "imaginary_reward='threshold' needs reward_likelihood='bernoulli'"),
    ],
)
def test_options_out_of_range_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        ImaginationConfig(**config).validate("gaussian")


# The environment


class Spy:
    """Keeps what was imagined."""

    def __init__(self, imagined):
        self.rewards_of = imagined.rewards
        self.seen = []
        imagined.rewards = self

    def __call__(self, *args):
        self.seen.append(self.rewards_of(*args))
        return self.seen[-1]


def mixture_env(venv, n_mixture, model=None, capacity=50, **config):
    layout = venv.observation_space.layout
    n_normal = venv.num_envs - n_mixture
    model = model or network(layout)
    imagined = Imagination(
        model, n_normal, n_mixture, ImaginationConfig(**{"imagination_dropout": "off", **config}), generator()
    )
    env = MixtureVecEnv(venv, imagined, MetaEpisodeBuffer(capacity, layout, n_normal))
    return env, Spy(imagined)


def drift_actions(rng, n):
    return rng.uniform(0.5, 1.0, (n, 2)).astype(np.float32)


def grid_actions(rng, n):
    return rng.integers(0, 5, n)


# what to call, and how to act there; early ends at different times with Box actions, and the gridworld in three backends
ENVS = {
    "box, early ends": (lambda n, seed: vec_env(Drift, n, 3, 5, seed), drift_actions),
    "batched": (lambda n, seed: grid_vec_env(n, seed=seed), grid_actions),
    "dummy": (lambda n, seed: grid_vec_env(n, seed=seed, backend="dummy"), grid_actions),
    "subproc": (lambda n, seed: grid_vec_env(n, seed=seed, backend="subproc"), grid_actions),
}


def roll(env, act, n_steps, seed=0):
    """Observations (the reset's first), rewards, dones and infos of random steps."""
    rng = np.random.default_rng(seed)
    obs, rest = [env.reset()], []
    for _ in range(n_steps):
        next_obs, *step = env.step(act(rng, env.num_envs))
        obs.append(next_obs.copy())
        rest.append(copy.deepcopy(step))
    env.close()
    return obs, *zip(*rest, strict=True)


def without_time(info):
    """An info, but for the wall-clock time of the episode."""
    return {key: {**value, "t": 0} if key in ("episode", "true_episode") else value for key, value in info.items()}


@pytest.mark.parametrize("name", ENVS)
def test_only_the_mixture_workers_rewards_change(name):
    make, act = ENVS[name]
    n, n_mixture = 2 if name == "subproc" else 3, 1  # processes take long to start
    bare = roll(make(n, 7), act, 30, seed=1)
    env, spy = mixture_env(make(n, 7), n_mixture)
    mixed = roll(env, act, 30, seed=1)
    slot = env.layout.reward_index
    assert any(d.any() for d in bare[2])
    for t, imagined in enumerate(spy.seen):
        true_obs, obs = bare[0][t + 1], mixed[0][t + 1]
        done, n_normal = bool(bare[2][t][-1]), n - n_mixture
        np.testing.assert_array_equal(mixed[2][t], bare[2][t])
        # normal workers: bit for bit what they were
        np.testing.assert_array_equal(obs[:n_normal], true_obs[:n_normal])
        np.testing.assert_array_equal(mixed[1][t][:n_normal], bare[1][t][:n_normal])
        # mixture worker: the imaginary reward stands wherever the true one stood, and nothing else changes
        assert mixed[1][t][-1] == imagined[0] != bare[1][t][-1]
        expected = true_obs[-1].copy()
        expected[slot] = 0.0 if done else imagined[0]
        np.testing.assert_array_equal(obs[-1], expected)
        for i, (info, true_info) in enumerate(zip(mixed[3][t], bare[3][t], strict=True)):
            info, true_info = without_time(info), without_time(true_info)
            if i >= n_normal:
                assert info.pop("true_reward") == pytest.approx(float(bare[1][t][i]))
                assert "episode" not in info and "is_success" not in info
                for moved in ("episode", "is_success"):
                    if moved in true_info:
                        true_info[f"true_{moved}"] = true_info.pop(moved)
                if done:
                    true_info["terminal_observation"][slot] = imagined[0]
            assert info.keys() == true_info.keys()
            for key, value in info.items():
                np.testing.assert_array_equal(value, true_info[key], err_msg=key)
        assert done == ("terminal_observation" in mixed[3][t][-1])


@pytest.mark.parametrize("name", ["box, early ends", "batched", "dummy"])
@pytest.mark.parametrize("normalized", [False, True])
def test_imaginary_rewards_never_reach_the_buffer(name, normalized):
    make, act = ENVS[name]
    n, n_mixture = 4, 2
    wrap = (lambda venv: VecNormalize(venv, gamma=0.9)) if normalized else (lambda venv: venv)
    obs, rewards, dones, infos = roll(make(n, 3), act, 60, seed=2)
    env, _ = mixture_env(wrap(make(n, 3)), n_mixture)
    roll(env, act, 60, seed=2)
    # the meta-episodes of the normal workers, in the order in which they ended, from the bare environment
    expected, running = [], [[] for _ in range(n)]
    layout, rng = env.layout, np.random.default_rng(2)
    for t in range(60):
        actions = layout.encode_actions(act(rng, n))
        for i in range(n - n_mixture):
            next_state = infos[t][i].get("terminal_state", obs[t + 1][i, layout.state])
            running[i].append((obs[t][i, layout.state], actions[i], rewards[t][i], next_state))
            if dones[t][i]:
                expected.append(running[i])
                running[i] = []
    assert len(env.buffer) == len(expected) > 2
    batch = env.buffer.get(np.arange(len(expected)))
    for i, meta_episode in enumerate(expected):
        columns = [np.array(column, dtype=np.float32) for column in zip(*meta_episode, strict=True)]
        for tensor, column in zip((batch.states, batch.actions, batch.rewards, batch.next_states), columns, strict=True):
            np.testing.assert_array_equal(tensor[: len(column), i], column)
        assert batch.mask[:, i].sum() == len(meta_episode)


@pytest.mark.parametrize("name", ["box, early ends", "batched"])
@pytest.mark.parametrize("kind", ["per_worker", "per_dimension"])
def test_imaginary_rewards_are_decoded_from_the_beliefs_before_the_transition(name, kind):
    """Against beliefs that are encoded anew from the whole history at every step."""
    make, act = ENVS[name]
    n, n_mixture, n_normal = 5, 2, 3
    env, spy = mixture_env(make(n, 5), n_mixture, mixture_weights=kind, beta=1.5, n_partners=2)
    layout, model, rng = env.layout, env.imagination.vae, np.random.default_rng(4)
    obs = env.reset()
    histories = [[] for _ in range(n_normal)]

    def belief(history):
        states = model.encoder.initial_states(1)
        hidden = states[0][-1, 0]
        if history:
            inputs = (th.as_tensor(np.array(column), dtype=th.float32).unsqueeze(1) for column in zip(*history, strict=True))
            hidden = model.encoder(*inputs, states)[0][-1, 0]
        return model.encoder.belief(hidden)[0]

    redrawn = 0
    for _ in range(50):
        actions = act(rng, n)
        features, weights = layout.encode_actions(actions), env.imagination.tasks.weights.clone()
        with th.no_grad():
            latents = mix_beliefs(weights, th.stack([belief(history) for history in histories]))
        states = obs[:, layout.state]
        obs, rewards, dones, infos = env.step(actions)
        next_states = np.stack([infos[i].get("terminal_state", obs[i, layout.state]) for i in range(n)])
        with th.no_grad():
            inputs = (th.as_tensor(x[n_normal:]) for x in (states, features, next_states))
            expected = model.decoder(latents, model.decoder.encode_steps(*inputs))
        np.testing.assert_allclose(spy.seen[-1], expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(rewards[n_normal:], expected, rtol=1e-3, atol=1e-4)
        for i, history in enumerate(histories):
            history.append((next_states[i], features[i], rewards[i]))
            if dones[i]:
                history.clear()
        changed = (env.imagination.tasks.weights != weights).flatten(1).any(1).numpy()
        np.testing.assert_array_equal(changed, dones[n_normal:])
        redrawn += changed.sum()
    assert redrawn > 2
    env.close()


@pytest.mark.parametrize("name", ["box, early ends", "batched"])
def test_imaginary_rewards_are_normalised_with_statistics_that_they_do_not_update(name):
    make, act = ENVS[name]
    n = 3
    bare = VecNormalize(make(n, 7), gamma=0.9, clip_reward=2.0)
    true = roll(bare, act, 40, seed=1)
    normalizer = VecNormalize(make(n, 7), gamma=0.9, clip_reward=2.0)
    env, spy = mixture_env(normalizer, 1)
    slot, rng = env.layout.reward_index, np.random.default_rng(1)
    env.reset()
    for t in range(40):
        obs, rewards, dones, infos = env.step(act(rng, n))
        np.testing.assert_array_equal(obs[:-1], true[0][t + 1][:-1])
        np.testing.assert_array_equal(rewards[:-1], true[1][t][:-1])
        assert rewards[-1] == normalizer.normalize_reward(spy.seen[-1])[0]
        row = np.zeros((1, env.layout.dim), dtype=np.float32)
        row[0, slot] = spy.seen[-1][0]
        normal_slot = normalizer.normalize_obs(row)[0, slot]
        if dones[-1]:
            assert infos[-1]["terminal_observation"][slot] == normal_slot
            assert obs[-1, slot] == true[0][t + 1][-1, slot]  # that of no previous reward
        else:
            assert obs[-1, slot] == normal_slot
        assert infos[-1]["true_reward"] == pytest.approx(float(normalizer.get_original_reward()[-1]))
    np.testing.assert_array_equal(normalizer.obs_rms.mean, bare.obs_rms.mean)
    np.testing.assert_array_equal(normalizer.obs_rms.var, bare.obs_rms.var)
    np.testing.assert_array_equal([normalizer.ret_rms.mean, normalizer.ret_rms.var], [bare.ret_rms.mean, bare.ret_rms.var])
    env.close()


def test_logged_returns_are_those_of_the_imaginary_tasks():
    env, spy = mixture_env(vec_env(Drift, 3, 3, 5, 3), 2)
    rng = np.random.default_rng(0)
    assert env.reset() is not None and env.mean_imaginary_returns() is None
    expected, totals = [], np.zeros((2, 3))
    episodes = np.zeros(2, dtype=int)
    for _ in range(50):
        _, _, dones, infos = env.step(drift_actions(rng, 3))
        for i in range(2):
            totals[i, episodes[i]] += spy.seen[-1][i]
            episodes[i] += "terminal_state" in infos[1 + i]
            if dones[1 + i]:
                expected.append(totals[i].copy())
                totals[i], episodes[i] = 0.0, 0
    assert len(expected) > 4
    np.testing.assert_allclose(env.mean_imaginary_returns(), np.mean(expected, axis=0), rtol=1e-5)


def test_without_mixture_workers_it_only_gathers_meta_episodes():
    bare = roll(grid_vec_env(2, seed=7), grid_actions, 24, seed=1)
    env, spy = mixture_env(grid_vec_env(2, seed=7), 0)
    mixed = roll(env, grid_actions, 24, seed=1)
    np.testing.assert_array_equal(mixed[0], bare[0])
    np.testing.assert_array_equal(mixed[1], bare[1])
    assert not spy.seen and len(env.buffer) == 4
    assert "true_reward" not in mixed[3][0][0]


def test_rewards_that_the_likelihood_cannot_make_are_reported_at_once():
    venv = vec_env(Drift, 3)
    model = network(venv.observation_space.layout, reward_likelihood="bernoulli")
    env, _ = mixture_env(venv, 1, model)
    env.reset()
    with pytest.raises(ValueError, match="reward_likelihood='bernoulli'"):
        env.step(drift_actions(np.random.default_rng(0), 3))


def test_a_reset_starts_everything_anew():
    env, _ = mixture_env(grid_vec_env(4), 2)
    rng = np.random.default_rng(0)
    env.reset()
    prior = env.imagination.mixed_latents().clone()
    for _ in range(5):
        env.step(grid_actions(rng, 4))
    weights = env.imagination.tasks.weights.clone()
    env.reset()
    th.testing.assert_close(env.imagination.mixed_latents(), prior)
    assert not th.equal(env.imagination.tasks.weights, weights)
    for _ in range(12):
        env.step(grid_actions(rng, 4))
    batch = env.buffer.get(np.arange(len(env.buffer)))
    assert batch.rewards.shape == (12, 2)


# Choosing among candidates


def test_the_first_novel_candidate_is_chosen():
    """Novel: high for a transition that training tasks rewarded low, and for none that they rewarded high."""
    is_high = th.tensor([True, True, False, False])
    repeats, empty, novel = [0.9, 0.0, 0.8, 0.0], [0.0, 0.1, 0.2, 0.1], [0.3, 0.0, 0.0, 0.6]
    surer = [0.0, 0.0, 1.0, 1.0]
    rewards = th.tensor([[repeats, empty, novel, surer], [surer, novel, repeats, empty], [repeats, repeats, empty, repeats]])
    assert choose_novel(rewards, is_high, low=0.0, high=1.0).tolist() == [2, 0, 2]


def test_the_candidate_is_chosen_that_is_least_like_any_known_task():
    """Of directions a diagonal, whatever all tasks have in common and however strong it is, unless it asks for nothing."""
    velocity = th.randn(300, 2, generator=th.Generator().manual_seed(0))

    def rewards(*angles, strength=1.0):
        angles = th.deg2rad(th.tensor(angles, dtype=th.float32))
        return strength * th.stack([angles.cos(), angles.sin()], -1) @ velocity.T - 5.0 * velocity[:, 0] ** 2 + 3.0

    known = rewards(0.0, 90.0, 180.0, 270.0, 0.0, 90.0, 180.0, 270.0)
    near, diagonal = rewards(10.0, 80.0, 20.0, 350.0), rewards(44.0, strength=0.6)
    weak = rewards(45.0, strength=0.1)
    candidates = th.stack([th.cat([near[:2], diagonal]), th.cat([weak, near[2:]]), th.cat([weak, weak, weak])])
    choice, asks = choose_far(candidates, known, 0.3)
    assert choice[:2].tolist() == [2, 1] and asks.tolist() == [True, True, False]


@pytest.mark.parametrize("make", [bernoulli, network])
def test_every_worker_gets_one_of_its_own_candidates(make):
    imagined = imagination(make(), mixture_time="final", n_candidates=4, n_partners=2)
    drawn, sample = [], imagined._sample_tasks
    imagined._sample_tasks = lambda number: drawn.append(sample(number)) or drawn[-1]
    states, actions, next_states = steps(6)
    ends = np.zeros(6, dtype=bool)
    rewards = np.array([-0.1, 1.0] * 3, dtype=np.float32)
    experience = Transitions(states, actions, rewards, next_states, ends, ends, np.zeros((6, 2)))
    imagined.new_tasks(np.arange(3), experience)
    for tasks, candidates in zip(imagined.tasks.weights, drawn[0].weights.unflatten(0, (3, 4)), strict=True):
        assert any(th.equal(tasks, candidate) for candidate in candidates)


def test_chosen_tasks_keep_their_weights_mask_and_latents():
    """Candidates are drawn together; what stays fixed in the task must be of the same one."""
    env = grid_vec_env(6)
    options = {"mixture_time": "final", "imagination_dropout": "meta_episode", "mixture_weights": "per_dimension"}
    model = LDM(
        "MlpLstmPolicy",
        env,
        mixture_ratio=0.5,
        n_candidates=5,
        reward_likelihood="bernoulli",
        bernoulli_rewards=(-0.1, 1.0),
        seed=0,
        device="cpu",
        **options,
    )
    model.learn(3 * 6 * model.layout.meta_episode_steps)
    imagination = model.mixture_env.imagination
    th.testing.assert_close(imagination.tasks.latents, (imagination.tasks.weights * imagination._final_mu).sum(1))
    th.testing.assert_close(imagination.tasks.weights.sum(1), th.ones(3, model.latent_dim))


@pytest.mark.parametrize(
    "options",
    [{"n_candidates": 0}, {"n_candidates": 2, "mixture_time": "current"}, {"require_goal": True, "mixture_time": "current"}],
)
def test_candidates_need_a_stationary_task(options):
    with pytest.raises(ValueError, match="n_candidates"):
        ImaginationConfig(**{"mixture_time": "final", **options}).validate("bernoulli")


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_worker_whose_task_asks_for_nothing_gets_a_true_one_for_any_rewards(weight):
    """Where beliefs are all the same, mixtures differ from them by nothing."""
    options = {"mixture_time": "final", "reward_likelihood": "gaussian", "n_partners": 2, "imagination_dropout": "off"}
    options |= {"imagination_requires": None, "require_goal": True, "mixture_ratio": 0.5}
    env = grid_vec_env(12)
    model = LDM("MlpLstmPolicy", env, vae_updates=0, seed=0, device="cpu", **options)
    with th.no_grad():
        model.vae.encoder.mu.weight.mul_(10.0 * weight)
        model.vae.decoder.latent_layer.weight.mul_(10.0 * weight)
    meta_episode = 12 * model.layout.meta_episode_steps
    model.learn(2 * meta_episode)
    assert model.mixture_env.imagining.any() == (weight > 0.0)


@pytest.mark.parametrize(("logit", "imagining"), [(-10.0, False), (10.0, True)])
def test_without_a_goal_a_mixture_worker_gets_a_true_task(logit, imagining):
    options = {"mixture_time": "final", "reward_likelihood": "bernoulli", "bernoulli_rewards": (-0.1, 1.0)}
    env = grid_vec_env(4)
    model = LDM("MlpLstmPolicy", env, mixture_ratio=0.5, require_goal=True, vae_updates=0, seed=0, device="cpu", **options)
    with th.no_grad():
        model.vae.decoder.head[-1].weight.zero_()
        model.vae.decoder.head[-1].bias.fill_(logit)
    meta_episode = 4 * model.layout.meta_episode_steps
    model.learn(meta_episode)
    assert model.mixture_env.mean_imaginary_returns() is None  # nothing is known at first
    assert model.mixture_env.imagining.all() == model.mixture_env.imagining.any() == imagining
    model.learn(meta_episode, reset_num_timesteps=False)
    assert (model.mixture_env.mean_imaginary_returns() is not None) == imagining


@pytest.mark.parametrize(("dropout", "imagining"), [("off", False), ("step", True)])
def test_goals_are_looked_for_with_the_dropout_of_imagination(dropout, imagining):
    """This decoder promises a goal wherever its only feature is dropped, in 70% of the cases, without dropout nowhere."""
    options = {"mixture_time": "final", "reward_likelihood": "bernoulli", "bernoulli_rewards": (-0.1, 1.0), "vae_updates": 0}
    options |= {"require_goal": True, "imagination_dropout": dropout, "dropout_rate": 0.7, "decoder_inputs": ["next_state"]}
    model = LDM("MlpLstmPolicy", grid_vec_env(4), 0.5, vae_kwargs={"decoder_layers": [8]}, seed=0, device="cpu", **options)
    decoder = model.vae.decoder
    with th.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        decoder.embedding.layers[0].bias[0] = 1.0
        decoder.step_layer.weight[:, 0] = -10.0
        decoder.latent_layer.bias.fill_(1.0)
        decoder.head[-1].weight.fill_(1.0)
        decoder.head[-1].bias.fill_(-4.0)
    model.learn(4 * model.layout.meta_episode_steps)
    assert model.mixture_env.imagining.all() == model.mixture_env.imagining.any() == imagining


def test_samples_of_final_beliefs_differ_between_tasks():
    """With one partner tasks differ in its sample alone."""
    options = {"mixture_time": "final", "mixed_belief": "sample", "n_partners": 1}
    model = LDM("MlpLstmPolicy", grid_vec_env(8), 0.75, vae_updates=0, seed=0, device="cpu", **options)
    model.learn(8 * model.layout.meta_episode_steps)
    latents = model.mixture_env.imagination.tasks.latents
    assert len(latents) == 6 and len(latents.unique(dim=0)) == 6


def test_without_mixture_workers_there_are_no_final_beliefs():
    model = LDM("MlpLstmPolicy", grid_vec_env(4), mixture_ratio=0.0, vae_updates=0, seed=0, device="cpu")
    model.learn(2 * 4 * model.layout.meta_episode_steps)
    assert not model.mixture_env.has_final_beliefs and not model.mixture_env.imagination.has_final_beliefs
