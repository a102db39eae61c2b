"""VariBAD: one encoder, which the ELBO trains and whose belief the policy acts on."""

import numpy as np
import pytest
import torch as th
from helpers import Bandit, Drift, differing, grid_vec_env, parameters, vec_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule, set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ldm import VariBAD
from sb3_ldm.algorithms.varibad.policies import BeliefPolicy, PolicyEncoder
from sb3_ldm.evaluation import evaluate_meta, record_meta

STEPS = 8  # of a meta-episode, 2 episodes of 4 steps
N_ENVS = 4
ROLLOUT = N_ENVS * STEPS
BANDIT = {"reward_likelihood": "bernoulli", "vae_batch_size": 5, "latent_dim": 4}
SMALL = {"lstm_hidden_size": 16, "belief_embedding": 8}
#: Parts of the policy that make beliefs, and parts that act on them.
ENCODER, HEADS = ("features_extractor", "lstm_actor", "mu", "logvar"), ("belief_embedding", "action_net", "value_net")


def bandits(n_envs=N_ENVS, seed=0):
    return vec_env(Bandit, n_envs, seed=seed)


def make(env=None, **options):
    if env is None:
        env, options = bandits(), {**BANDIT, **options}
    return VariBAD("MlpLstmPolicy", env, **{"seed": 0, "device": "cpu", "policy_kwargs": SMALL, **options})


def changed(before, after):
    """Parts of the policy that are not what they were."""
    names = {name.removeprefix("policy/").split(".")[0] for name in differing(before, after) if name.startswith("policy/")}
    return {name for name in (*ENCODER, *HEADS) if name in names}


class Observations(BaseCallback):
    """What the agent observed in each rollout, ``(n_steps + 1, n_envs, obs_dim)``."""

    def _on_training_start(self):
        self.rollouts = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.rollouts.append(self.model.rollout_buffer.observations.copy())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("make_env", [lambda: grid_vec_env(3), lambda: vec_env(Drift, 3)], ids=["grid", "early ends"])
def test_the_buffer_holds_what_the_agent_observed(make_env, normalize):
    env = make_env()
    if normalize:
        env = VecNormalize(env)
        env.obs_rms.mean += 0.3
        env.obs_rms.var *= 4.0
        env.training = False
    watch = Observations()
    model = make(env, vae_updates=0, latent_dim=3).learn(2 * env.num_envs * 12, watch)
    assert len(model.replay_buffer) > 2
    rollouts = np.concatenate(watch.rollouts).swapaxes(0, 1)
    batch = model.replay_buffer.get(np.arange(len(model.replay_buffer)))
    assert batch.observations.shape == (len(batch.mask) + 1, len(model.replay_buffer), env.observation_space.shape[0])
    for i, length in enumerate(batch.mask.sum(0).long().tolist()):
        observed = batch.observations[:length, i].numpy()  # without the last one, after which the next task begins
        windows = [worker[t : t + length] for worker in rollouts for t in range(len(worker) - length + 1)]
        assert min(np.abs(window - observed).max() for window in windows) < 1e-5
        last = batch.observations[length, i, model.layout.state].numpy()
        raw = np.zeros((1, env.observation_space.shape[0]), dtype=np.float32)
        raw[0, model.layout.state] = batch.next_states[length - 1, i]
        shown = env.normalize_obs(raw) if normalize else raw
        np.testing.assert_allclose(last, shown[0, model.layout.state], atol=1e-6)
        assert normalize == (np.abs(last - raw[0, model.layout.state]).max() > 0.01)


def test_the_policy_acts_on_the_beliefs_that_the_elbo_trains():
    model = make().learn(2 * ROLLOUT)
    batch = model.replay_buffer.get(np.arange(len(model.replay_buffer)))
    mu, logvar = model.vae.beliefs(batch)
    assert mu.shape == logvar.shape == (STEPS + 1, len(model.replay_buffer), 4)
    n = len(model.replay_buffer)
    states = (th.zeros(1, n, 16), th.zeros(1, n, 16))
    for t in range(STEPS + 1):
        starts = th.full((n,), float(t == 0))
        (mu_t, logvar_t), states = model.policy.infer(batch.observations[t], states, starts)
        th.testing.assert_close(mu_t, mu[t])
        th.testing.assert_close(logvar_t, logvar[t])


@pytest.mark.parametrize("rl_loss_through_encoder", [False, True])
def test_the_policys_loss_reaches_the_encoder_only_if_asked_to(rl_loss_through_encoder):
    model = make(vae_updates=0, rl_loss_through_encoder=rl_loss_through_encoder)
    before = parameters(model)
    model.learn(2 * ROLLOUT)
    assert changed(before, parameters(model)) == {*HEADS, *(ENCODER if rl_loss_through_encoder else ())}


def test_the_elbo_trains_the_policys_encoder_and_nothing_else_of_it():
    model = make(learning_rate=0.0, vae_learning_rate=1e-3)
    before = parameters(model)
    model.learn(ROLLOUT)
    assert changed(before, parameters(model)) == set(ENCODER)
    assert any("decoder" in name for name in differing(before, parameters(model)))


def test_the_state_can_be_left_out():
    model = make(policy_kwargs={**SMALL, "state_embedding": 0})
    assert model.policy.belief_embedding.output_dim == 8
    model.learn(ROLLOUT)


@pytest.mark.parametrize("make_env", [bandits, lambda: vec_env(Drift, 4)], ids=["discrete", "box"])
def test_the_same_seed_gives_the_same_agent(make_env):
    options = BANDIT if make_env is bandits else {}
    one, two, other = (make(make_env(), seed=seed, **options).learn(3 * ROLLOUT) for seed in (0, 0, 1))
    assert differing(parameters(one), parameters(two)) == []
    assert differing(parameters(one), parameters(other))


def test_saving_and_loading(tmp_path):
    model = make(rl_loss_through_encoder=True).learn(2 * ROLLOUT)
    model.save(tmp_path / "model")
    loaded = VariBAD.load(tmp_path / "model", device="cpu")
    assert differing(parameters(model), parameters(loaded)) == []
    assert loaded.rl_loss_through_encoder
    # One encoder, not two that happen to be equal.
    encoder = loaded.vae.encoder
    assert isinstance(encoder, PolicyEncoder) and encoder.shared[1] is loaded.policy.lstm_actor
    obs = np.random.default_rng(0).normal(size=(3, *model.observation_space.shape)).astype(np.float32)
    one, _ = model.predict(obs, deterministic=True)
    two, _ = loaded.predict(obs, deterministic=True)
    np.testing.assert_array_equal(one, two)


def test_meta_episodes_are_recorded_for_a_model_without_an_environment(tmp_path):
    env = VecNormalize(bandits())
    model = make(env, **BANDIT).learn(2 * ROLLOUT)
    env.save(str(tmp_path / "statistics.pkl"))
    model.save(tmp_path / "model")
    loaded = VariBAD.load(tmp_path / "model", device="cpu")
    elsewhere = VecNormalize.load(str(tmp_path / "statistics.pkl"), bandits(2))
    tasks = np.array([[0], [1]])
    beliefs = [one.vae.beliefs(record_meta(one, elsewhere, tasks))[0].detach().numpy() for one in (model, loaded)]
    assert beliefs[0].shape[0] == STEPS + 1
    np.testing.assert_allclose(*beliefs)


def test_it_is_loaded_with_the_arguments_that_it_was_given(tmp_path):
    make().save(tmp_path / "model")
    assert VariBAD.load(tmp_path / "model", policy_kwargs=SMALL, device="cpu").policy.latent_dim == 4


def test_training_goes_on_after_loading(tmp_path):
    results = []
    for interrupted in (False, True):
        model = make().learn(2 * ROLLOUT)
        if interrupted:
            model.save(tmp_path / "model")
            model.save_replay_buffer(tmp_path / "buffer")
            model = VariBAD.load(tmp_path / "model", env=bandits(), device="cpu")
            model.load_replay_buffer(tmp_path / "buffer")
        else:
            model.set_env(bandits())
        model.env.seed(7)
        set_random_seed(7)  # not the model's own streams, which go on
        results.append(model.learn(2 * ROLLOUT, reset_num_timesteps=False))
    assert differing(parameters(results[0]), parameters(results[1])) == []


def test_a_policy_can_be_saved_alone(tmp_path):
    policy = make(policy_kwargs={**SMALL, "state_embedding": 5}).policy
    policy.save(tmp_path / "policy")
    loaded = BeliefPolicy.load(tmp_path / "policy", device="cpu")
    assert all(th.equal(one, two) for one, two in zip(policy.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vae_kwargs": {"encoder_hidden_size": 3}}, "encoder_hidden_size, but variBAD's encoder is the policy's"),
        ({"policy_kwargs": {"belief_embedding": 0}}, "belief_embedding=0"),
        ({"policy_kwargs": {"shared_lstm": False}}, "shared by actor and critic"),
        ({"vae_updates": -1}, "vae_updates=-1"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_it_learns_which_arm_pays():
    options = {"learning_rate": LinearSchedule(3e-3, 0.0, 1.0), "vae_learning_rate": 3e-3, "batch_size": 8 * STEPS}
    model = make(bandits(16), **BANDIT, **options, policy_kwargs={}).learn(160 * 16 * STEPS)
    result = evaluate_meta(model, bandits(2), "train", n_repeats=8, deterministic=True)
    # Of 4 pulls at most one is needed to find out; the second episode needs none.
    assert result.mean_returns[1] > 3.9
