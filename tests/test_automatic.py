"""What "auto" stands for: by the environment when a model is made, by its rewards when they are known."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers import Bandit, Drift, differing, grid_vec_env, parameters, user_warnings, vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ldm import LDM, RL2, Mixreg, VariBAD
from sb3_ldm.data import MetaEpisodeBuffer
from sb3_ldm.envs.meta_episode import MetaEpisodeLayout
from sb3_ldm.on_policy.automatic import (
    buffer_size,
    distinct_rewards,
    policy_settings,
    ppo_settings,
    sequences_per_minibatch,
)
from sb3_ldm.on_policy.reward_scale import RewardScale

GRID = MetaEpisodeLayout(2, 5, True, 4, 30)
ROBOT = MetaEpisodeLayout(20, 6, False, 2, 200)
DISCRETE, BOX = spaces.Discrete(5), spaces.Box(-1.0, 1.0, (6,))
SMALL = {"vae_kwargs": {"encoder_hidden_size": 8}, "vae_batch_size": 3, "vae_updates": 1, "seed": 0, "device": "cpu"}


def make(env, algorithm=LDM, **options):
    policy_kwargs = {"lstm_hidden_size": 8}
    return algorithm("MlpLstmPolicy", env, **{**SMALL, "policy_kwargs": policy_kwargs, **options})


@pytest.mark.parametrize(
    ("layout", "space", "expected"),
    [
        (
            GRID,
            DISCRETE,
            {
                "gamma": 0.95,
                "gae_lambda": 0.95,
                "ent_coef": 0.05,
                "target_kl": None,
                "batch_size": 3840,
            },
        ),
        (
            ROBOT,
            BOX,
            {
                "gamma": 0.97,
                "gae_lambda": 0.9,
                "ent_coef": 0.001,
                "target_kl": 0.03,
                "batch_size": 3200,
            },
        ),
    ],
)
def test_ppo_is_that_of_the_domains_that_were_tried(layout, space, expected):
    settings = ppo_settings(layout, space, layout.meta_episode_steps, 64)
    assert settings.pop("learning_rate")(1.0) == (1e-3 if space is DISCRETE else 2e-3)  # at first
    assert settings == expected


@pytest.mark.parametrize(
    ("n_steps", "n_envs", "expected"),
    [(120, 64, 32), (400, 64, 8), (400, 16, 8), (8, 4, 1), (60, 64, 16), (120, 7, 1), (5000, 3, 1)],
)
def test_minibatches_are_whole_sequences_of_about_as_many_transitions(n_steps, n_envs, expected):
    assert sequences_per_minibatch(n_steps, n_envs) == expected


def test_a_policy_is_made_for_the_size_of_the_state():
    small, large = policy_settings(GRID, DISCRETE, {}), policy_settings(ROBOT, BOX, {})
    assert (small["lstm_hidden_size"], small["net_arch"], small["state_in_heads"]) == (128, [32], False)
    assert (large["lstm_hidden_size"], large["net_arch"], large["state_in_heads"]) == (64, [128], True)
    assert large["log_std_init"] == -1.0 and "log_std_init" not in small
    given = {"net_arch": [8], "shared_lstm": False, "features_extractor_kwargs": {"state_embedding": 4}}
    kept = policy_settings(ROBOT, BOX, given)
    assert kept["net_arch"] == [8] and not kept["state_in_heads"]
    assert kept["features_extractor_kwargs"] == {"state_embedding": 4, "action_embedding": 16, "reward_embedding": 16}


def test_a_buffer_takes_no_more_memory_than_it_may():
    assert buffer_size(GRID) == 20_000
    assert (
        MetaEpisodeBuffer(buffer_size(ROBOT), ROBOT, 1).nbytes
        <= 2**28
        < 1.1 * buffer_size(ROBOT) * (MetaEpisodeBuffer.bytes_of_one(ROBOT))
    )


def test_distinct_rewards_are_counted_up_to_three():
    seen = distinct_rewards(np.zeros(0), np.float32([-0.1, -0.1, 1.0]))
    np.testing.assert_allclose(seen, [-0.1, 1.0])
    np.testing.assert_allclose(distinct_rewards(seen, np.array([-0.1, 1.0 + 1e-9])), [-0.1, 1.0])
    assert len(distinct_rewards(seen, np.array([0.5, 0.6, 0.7]))) == 3


def test_two_rewards_and_recurring_states_are_found():
    model = make(grid_vec_env(16, horizon=12))
    assert model.reward_likelihood == "auto" and not model._may_imagine(10**9)
    model.learn(2 * 16 * model.n_steps)
    found = (model.reward_likelihood, model.bernoulli_rewards, model.decoder_inputs)
    assert found == ("bernoulli", (-0.1, 1.0), ["next_state"])
    assert model.vae_kwargs["standardize_states"] is False and model.latent_dim == model.vae.latent_dim == 32
    config = model.mixture_env.imagination.config
    assert (config.n_partners, config.mixture_weights, config.n_candidates, config.require_goal) == (
        3,
        "per_dimension",
        32,
        True,
    )
    assert model.vae_batch_size == 3, "what is given is kept"


@pytest.mark.parametrize("algorithm", [LDM, VariBAD])
def test_other_rewards_and_states_are_found(algorithm):
    options = {"vae_kwargs": {}, "latent_dim": 5} if algorithm is VariBAD else {}
    model = make(vec_env(Drift, 4, 2, 8), algorithm, **options).learn(2 * 4 * 16)
    assert model.reward_likelihood == "gaussian" and set(model.decoder_inputs) == {"state", "action", "next_state"}
    assert model.vae_kwargs["standardize_states"] is True and model.latent_dim == 5
    if algorithm is LDM:
        config = model.mixture_env.imagination.config
        assert (config.n_partners, config.mixture_weights, config.n_candidates) == (14, "per_worker", 1)


def test_rewards_that_the_state_does_not_tell_need_the_action():
    model = make(vec_env(Bandit, 4)).learn(2 * 4 * 8)
    assert model.reward_likelihood == "bernoulli" and set(model.decoder_inputs) == {"state", "action", "next_state"}
    assert model.vae_kwargs["standardize_states"] is False, "its one state recurs"


def test_what_is_found_trains_the_network_that_the_same_options_make():
    """An agent that finds its rewards is one that was told, bit for bit."""
    found = make(grid_vec_env(16, horizon=12), mixture_ratio=0.0).learn(3 * 16 * 24)
    names = ("reward_likelihood", "bernoulli_rewards", "decoder_inputs", "vae_kwargs", "dropout_rate", "latent_dim")
    told = make(grid_vec_env(16, horizon=12), mixture_ratio=0.0, **{name: getattr(found, name) for name in names})
    assert told._found_options == []
    told.learn(3 * 16 * 24)
    assert differing(parameters(found), parameters(told)) == []


def test_what_is_found_is_saved(tmp_path):
    model = make(grid_vec_env(16, horizon=12)).learn(2 * 16 * 24)
    model.save(tmp_path / "model")
    loaded = LDM.load(tmp_path / "model", env=grid_vec_env(16, horizon=12), device="cpu")
    assert loaded.reward_likelihood == "bernoulli" and loaded.imagination_config == model.imagination_config
    assert differing(parameters(loaded), parameters(model)) == []
    undecided = make(vec_env(Bandit, 4))
    undecided.save(tmp_path / "new")
    loaded = LDM.load(tmp_path / "new", env=vec_env(Bandit, 4), device="cpu").learn(2 * 4 * 8)
    assert loaded.reward_likelihood == "bernoulli"


class LateBonus(Bandit):
    """Rewards take a third value after some steps of all workers."""

    steps = 0

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        LateBonus.steps += 1
        return obs, 5.0 if LateBonus.steps > 5 * 4 * 8 else reward, terminated, truncated, info


def test_a_third_reward_makes_the_network_begin_anew(monkeypatch):
    monkeypatch.setattr(LateBonus, "steps", 0)
    model = make(vec_env(LateBonus, 4), imagination_starts=0).learn(4 * 4 * 8)
    network = model.vae
    assert model.reward_likelihood == "bernoulli" and model.imagination_requires is None
    with user_warnings() as told:
        model.learn(3 * 4 * 8, reset_num_timesteps=False)
    assert sum("a third one" in str(one.message) for one in told) == 1
    assert model.reward_likelihood == "gaussian" and model.vae is not network
    assert model.imagination_requires == 0.7 and not model.knows_tasks
    assert model.mixture_env.imagination.vae is model.vae and model.imaginary_reward == "mean"


class Unrewarded(Bandit):
    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        return obs, 0.0, terminated, truncated, info


def test_without_different_rewards_nothing_is_imagined():
    model = make(vec_env(Unrewarded, 4), imagination_starts=0)
    before = parameters(model)
    model.learn(3 * 4 * 8)
    assert model.reward_likelihood == "auto" and not model.mixture_env.imagining.any()
    assert all(name.startswith("policy") for name in differing(before, parameters(model)))


def test_an_explicit_choice_wins():
    options = {"reward_likelihood": "gaussian", "latent_dim": 7, "n_partners": 2, "imagination_starts": 0}
    model = make(vec_env(Bandit, 4), **options).learn(2 * 4 * 8)
    assert model.reward_likelihood == "gaussian" and model.latent_dim == 7 and model.imagination_config.n_partners == 2
    with pytest.raises(ValueError, match=r"reward_likelihood='beta': choose one of \['auto', 'bernoulli', 'gaussian'\]"):
        make(vec_env(Bandit, 4), reward_likelihood="beta")


def test_imagination_begins_at_a_share_of_the_budget():
    options = {"reward_likelihood": "gaussian", "imagination_requires": None}
    model = make(vec_env(Bandit, 4), imagination_starts=0.5, **options).learn(8 * 4 * 8)
    assert model.imagination_begins == 4 * 4 * 8
    assert model.mixture_env.imagining.all() and len(model.mixture_env.imaginary_returns) > 0


@pytest.mark.parametrize("algorithm", [RL2, Mixreg, LDM, VariBAD])
def test_an_id_makes_workers(algorithm):
    options = {} if algorithm in (RL2, Mixreg) else {"vae_updates": 1, "vae_batch_size": 2}
    model = algorithm("MlpLstmPolicy", "GridNavi-v0", n_envs=3, seed=0, device="cpu", **options)
    assert model.n_envs == 3 and len({tuple(task) for task in model.env.get_attr("task") if task is not None}) <= 3
    with pytest.raises((gym.error.Error, ValueError), match="NoSuch"):
        algorithm("MlpLstmPolicy", "NoSuch-v0")


def test_no_default_is_warned_of():
    with user_warnings() as told:
        for algorithm in (RL2, Mixreg, LDM, VariBAD):
            algorithm("MlpLstmPolicy", vec_env(Bandit, 8), device="cpu").learn(4 * 8 * 8)
    assert [str(one.message) for one in told] == []


def test_rewards_are_scaled_for_box_actions_unless_a_wrapper_does():
    assert make(vec_env(Drift, 4)).scale_rewards
    assert not make(vec_env(Drift, 4), scale_rewards=False).scale_rewards
    assert not make(VecNormalize(vec_env(Drift, 4))).scale_rewards
    assert make(VecNormalize(vec_env(Drift, 4), norm_reward=False)).scale_rewards
    assert not make(grid_vec_env(4, horizon=12)).scale_rewards


@pytest.mark.parametrize("wrong", [1, "yes", None])
def test_scale_rewards_is_true_or_false(wrong):
    with pytest.raises(ValueError, match=r"scale_rewards="):
        make(vec_env(Drift, 4), scale_rewards=wrong)


def test_rewards_are_scaled_as_by_vec_normalize():
    rng = np.random.default_rng(0)
    rewards, dones = rng.normal(-20.0, 5.0, (50, 3)), rng.random((50, 3)) < 0.1
    scale, starts = RewardScale(gamma=0.9), np.ones(3)
    normalizer = VecNormalize(vec_env(Drift, 3), gamma=0.9)
    for reward, done in zip(rewards, dones, strict=True):
        normalizer.returns = normalizer.returns * normalizer.gamma + reward
        normalizer.ret_rms.update(normalizer.returns)
        np.testing.assert_allclose(scale.scaled(reward, starts), normalizer.normalize_reward(reward), rtol=1e-6)
        normalizer.returns[done] = 0.0
        starts = done


def test_what_is_scaled_is_what_the_policy_is_trained_on_alone():
    agents = []
    for scales in (True, False):
        agents.append(make(vec_env(Drift, 4), scale_rewards=scales, imagination_starts=0))
        agents[-1].learn(4 * agents[-1].n_steps)
    (scaled, raw), (seen, also_seen) = zip(*((one.rollout_buffer, one.replay_buffer) for one in agents), strict=True)
    assert not np.allclose(scaled.rewards, raw.rewards)
    np.testing.assert_array_equal(scaled.observations, raw.observations)
    assert len(seen) == len(also_seen) > 0
    np.testing.assert_array_equal(*(buffer.get(np.arange(1)).rewards for buffer in (seen, also_seen)))


def test_the_scale_is_saved(tmp_path):
    agent = make(vec_env(Drift, 4))
    agent.learn(4 * agent.n_steps)
    agent.save(tmp_path / "agent")
    loaded = LDM.load(tmp_path / "agent", env=vec_env(Drift, 2))
    assert loaded._reward_scale.scale == agent._reward_scale.scale != 1.0
    loaded.learn(2 * loaded.n_steps, reset_num_timesteps=False)  # of other workers
    assert loaded._reward_scale.scale != agent._reward_scale.scale
