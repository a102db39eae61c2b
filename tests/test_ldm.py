"""LDM as a Stable-Baselines3 algorithm: RL2 plus imagination, reproducible, saved and loaded."""

import csv

import numpy as np
import pytest
import torch as th
from helpers import PAPER, Bandit, Drift, assert_same_optimizer, differing, grid_vec_env, parameters, user_warnings, vec_env
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, ConvertCallback, EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.save_util import save_to_zip_file
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

from sb3_ldm import LDM, RL2
from sb3_ldm.evaluation import evaluate_meta

STEPS = 8  # of a meta-episode, 2 episodes of 4 steps
N_ENVS = 4
ROLLOUT = N_ENVS * STEPS
BANDIT = {"reward_likelihood": "bernoulli", "vae_batch_size": 5, "vae_kwargs": {"encoder_hidden_size": 16}, "latent_dim": 4}


def bandits(n_envs=N_ENVS, episodes=2, seed=0):
    return vec_env(Bandit, n_envs, episodes, seed=seed)


def drifts(n_envs=N_ENVS, seed=0, **kwargs):
    return vec_env(lambda: Drift(**kwargs), n_envs, 2, 4, seed)


def make(env=None, **options):
    if env is None:
        env, options = bandits(), {**BANDIT, **options}
    plain = {"seed": 0, "device": "cpu", "mixture_ratio": 0.25, "reward_likelihood": "gaussian", "vae_buffer_keeps": "latest"}
    return LDM("MlpLstmPolicy", env, **{**plain, **PAPER, **options})


def of_policy(model):
    return {name: value for name, value in parameters(model).items() if name.startswith("policy/")}


def of_network(model):
    return {name: value for name, value in parameters(model).items() if name.startswith("vae/")}


def test_standardised_states_and_a_uniform_buffer_are_saved_and_loaded(tmp_path):
    options = {"vae_buffer_keeps": "uniform", "vae_buffer_size": 5, "vae_kwargs": {"standardize_states": True}}
    model = make(drifts(), **options)
    model.learn(4 * ROLLOUT)
    assert model.replay_buffer.n_seen > len(model.replay_buffer) == 5
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = LDM.load(tmp_path / "model", env=drifts(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.replay_buffer.keeps == "uniform" and loaded.replay_buffer.n_seen == model.replay_buffer.n_seen
    batch = model.replay_buffer.get(np.arange(5))
    assert th.equal(loaded.vae.beliefs(batch)[0], model.vae.beliefs(batch)[0])
    # The model's options hold, not those that the buffer was made with.
    other = make(drifts(), vae_buffer_size=5)
    other.load_replay_buffer(tmp_path / "buffer")
    assert other.replay_buffer.keeps == "latest"
    with pytest.warns(UserWarning, match="vae_buffer_size=6: .* holds up to 5"):
        make(drifts(), vae_buffer_size=6).load_replay_buffer(tmp_path / "buffer")


# One step


@pytest.mark.parametrize(("mixture_time", "n_encoded"), [("current", STEPS), ("final", 1)])
def test_a_step_calls_every_network_once_for_all_of_its_workers(mixture_time, n_encoded):
    """Encoder-v runs on normal workers alone; with mixed final beliefs it encodes their steps in one call at the end."""
    model = make(bandits(8), **BANDIT, mixture_time=mixture_time, n_partners=2, vae_updates=0).learn(8 * STEPS)
    calls = {"policy": [], "encoder": [], "decoder": []}
    model.policy.register_forward_hook(lambda module, inputs, outputs: calls["policy"].append(len(inputs[0])))
    network = model.vae
    network.encoder.register_forward_hook(lambda module, inputs, outputs: calls["encoder"].append(inputs[0].shape[:-1]))
    network.decoder.register_forward_hook(lambda module, inputs, outputs: calls["decoder"].append(inputs[0].shape))
    model.train = lambda: None
    model.learn(8 * STEPS, reset_num_timesteps=False)
    assert calls["policy"] == STEPS * [8]
    assert calls["encoder"] == n_encoded * [(STEPS // n_encoded, 6)]
    assert calls["decoder"] == STEPS * [(2, 4)]


# LDM is RL2, and more


@pytest.mark.parametrize("vae_updates", [0, 2])
@pytest.mark.parametrize("env", [bandits, drifts], ids=["bandit", "drift"])
def test_without_mixture_workers_it_is_rl2_bit_for_bit(env, vae_updates):
    ldm = make(env(), mixture_ratio=0.0, vae_updates=vae_updates, reward_likelihood="gaussian")
    before = of_network(ldm)
    ldm.learn(3 * ROLLOUT)
    rl2 = RL2("MlpLstmPolicy", env(), seed=0, device="cpu").learn(3 * ROLLOUT)
    assert differing(of_policy(ldm), parameters(rl2)) == []
    assert_same_optimizer(ldm.policy.optimizer.state_dict(), rl2.policy.optimizer.state_dict())
    assert bool(differing(before, of_network(ldm))) == (vae_updates > 0)


@pytest.mark.parametrize("normalize", [False, True])
def test_before_imagination_starts_it_is_rl2_bit_for_bit(normalize):
    def env():
        return VecNormalize(drifts()) if normalize else bandits()

    options = {} if normalize else BANDIT
    ldm = make(env(), imagination_starts=2 * ROLLOUT, mixture_ratio=0.5, **options).learn(2 * ROLLOUT)
    rl2 = RL2("MlpLstmPolicy", env(), seed=0, device="cpu").learn(2 * ROLLOUT)
    assert differing(of_policy(ldm), parameters(rl2)) == []
    assert len(ldm.replay_buffer) == 2 * ldm.n_normal
    assert ldm.mixture_env.mean_imaginary_returns() is None


@pytest.mark.parametrize(
    ("starts", "total", "is_reached"), [(1, 1, False), (1, 2, True), (2, 2, False), (1.5, 2, False), (1.5, 3, True)]
)
def test_imagination_that_does_not_start_is_told(starts, total, is_reached):
    """In rollouts; a rollout that is begun is finished."""
    model = make(imagination_starts=starts * ROLLOUT, mixture_ratio=0.5)
    with user_warnings() as told:
        model.learn(total * ROLLOUT)
    assert any("is not reached" in str(warning.message) for warning in told) == (not is_reached)
    assert (len(model.mixture_env.imaginary_returns) > 0) == is_reached


def test_imagination_starts_with_new_meta_episodes():
    """The roles change only where a task begins, and the log counts imaginary meta-episodes alone."""

    class Watch(BaseCallback):
        def __init__(self):
            super().__init__()
            self.imaginary = []

        def _on_step(self):
            self.imaginary.append(["true_reward" in info for info in self.locals["infos"]])
            return True

    watch = Watch()
    ldm = make(imagination_starts=ROLLOUT, mixture_ratio=0.5).learn(4 * ROLLOUT, watch)
    imaginary = np.array(watch.imaginary).reshape(4, STEPS, N_ENVS)
    assert not imaginary[:, :, : ldm.n_normal].any() and not imaginary[0].any() and imaginary[1:, :, ldm.n_normal :].all()
    assert (imaginary == imaginary[:, :1]).all()
    assert len(ldm.mixture_env.imaginary_returns) == imaginary[:, 0].sum()


@pytest.mark.filterwarnings("ignore:imagination_starts")
@pytest.mark.parametrize("n_envs", [N_ENVS, 2 * N_ENVS])  # the others' beliefs are of no use to twice as many
def test_imagination_starts_when_the_steps_before_a_resume_and_after_it_say_so(tmp_path, n_envs):
    options = {**BANDIT, "imagination_starts": 3 * ROLLOUT, "mixture_ratio": 0.5, "mixture_time": "current"}
    make(bandits(), **options).learn(2 * ROLLOUT).save(tmp_path / "model")
    model = LDM.load(tmp_path / "model", env=bandits(n_envs), device="cpu")
    imagines = []
    watch = ConvertCallback(lambda local, _: imagines.append("true_reward" in local["infos"][-1]) or True)
    model.learn(2 * n_envs * STEPS, watch, reset_num_timesteps=False)
    assert imagines == [False] * STEPS + [True] * STEPS


def test_mixture_workers_change_the_policy():
    ldm, rl2 = make().learn(3 * ROLLOUT), RL2("MlpLstmPolicy", bandits(), seed=0, device="cpu").learn(3 * ROLLOUT)
    assert differing(of_policy(ldm), parameters(rl2))


def test_imagination_leaves_the_first_rollout_of_the_vae_alone():
    """Before the policy has changed, the normal workers do the same with and without mixture workers beside them."""
    buffers = []
    for ratio in (0.25, 0.0):
        model = make(mixture_ratio=ratio).learn(ROLLOUT)
        buffers.append(model.replay_buffer.get(np.arange(3)))
    np.testing.assert_array_equal(buffers[0].rewards, buffers[1].rewards)
    np.testing.assert_array_equal(buffers[0].actions, buffers[1].actions)


@pytest.mark.parametrize(
    ("ratio", "n_envs", "n_mixture"), [(0.0, 8, 0), (0.125, 16, 2), (0.01, 4, 1), (0.25, 16, 4), (0.99, 4, 3), (0.5, 1, 0)]
)
@pytest.mark.filterwarnings("ignore:mixture_ratio")
def test_the_number_of_mixture_workers(ratio, n_envs, n_mixture):
    model = make(bandits(n_envs), mixture_ratio=ratio, **BANDIT)
    assert (model.n_normal, model.n_mixture) == (n_envs - n_mixture, n_mixture)


def test_only_true_meta_episodes_of_normal_workers_train_the_network():
    model = make(imaginary_reward="mean").learn(3 * ROLLOUT)  # imaginary rewards lie between 0 and 1
    batch = model.replay_buffer.get(np.arange(len(model.replay_buffer)))
    assert len(model.replay_buffer) == 3 * 3  # of 3 normal workers in 3 rollouts
    assert set(batch.rewards.flatten().tolist()) <= {0.0, 1.0}
    rewards = model.rollout_buffer.rewards
    assert set(np.unique(rewards[:, :3])) <= {0.0, 1.0}
    assert ((rewards[:, 3] > 0.0) & (rewards[:, 3] < 1.0)).all()
    # what the mixture worker's policy sees is what it was rewarded with
    slot = model.layout.reward_index
    np.testing.assert_array_equal(model.rollout_buffer.observations[1:, :, slot], rewards[:-1])


class TrueRewards(BaseCallback):
    """Notes the true rewards that the environments returned."""

    def __init__(self):
        super().__init__()
        self.records, self.successes = [], []

    def _on_step(self):
        infos = self.locals["infos"]
        self.records += [info["episode"]["r"] for info in infos if "episode" in info]
        self.successes += [info for info in infos if "true_is_success" in info]
        return True


def test_logged_training_returns_are_those_of_the_normal_workers():
    model, seen = make(), TrueRewards()
    model.learn(2 * ROLLOUT, callback=seen)
    assert len(model.ep_info_buffer) == len(model.ep_success_buffer) == len(seen.records) == 2 * 3
    assert len(seen.successes) == 2 * 2  # the ends of the mixture worker's episodes


# Reproducible, saved and loaded


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mixture_weights": "per_dimension", "mixed_belief": "sample", "imagination_dropout": "step"},
        {"mixture_time": "final", "imaginary_reward": "sample", "imagination_dropout": "meta_episode"},
        {"n_elbo_terms": 3, "n_decoded_steps": 2, "imaginary_reward": "threshold", "n_partners": 2, "beta": 2.0},
    ],
    ids=lambda options: next(iter(options), "defaults"),
)
def test_the_same_seed_gives_the_same_agent(options):
    models = []
    for seed in (0, 0, 1):
        models.append(make(seed=seed, **options).learn(3 * ROLLOUT))
    assert differing(parameters(models[0]), parameters(models[1])) == []
    assert differing(of_policy(models[0]), of_policy(models[2])) and differing(of_network(models[0]), of_network(models[2]))


def test_set_random_seed_decides_over_all_that_is_drawn():
    options = {
        "mixture_time": "final",
        "n_candidates": 2,
        "imagination_dropout": "meta_episode",
        "vae_buffer_keeps": "uniform",
    }
    one, two = make(seed=0, vae_buffer_size=6, **options), make(seed=1, vae_buffer_size=6, **options)
    two.set_parameters(one.get_parameters())
    streams = []
    for model in (one, two):
        model.set_random_seed(7)
        streams.append(model.mixture_env._rng.bit_generator.state)
        model.learn(4 * ROLLOUT)
    assert streams[0] == streams[1] and one.replay_buffer.n_seen > 6
    assert differing(parameters(one), parameters(two)) == []


def states_of_generators(model):
    """What decides over the numbers that a model will draw."""
    return (
        model._imagination_generator.get_state().tolist(),
        model._vae_generator.get_state().tolist(),
        model._vae_rng.bit_generator.state,
    )


def test_saving_and_loading(tmp_path):
    fresh = states_of_generators(make())
    model = make(beta=1.5, n_partners=2, kl_weight=0.5).learn(2 * ROLLOUT)
    model.save(tmp_path / "model")
    loaded = LDM.load(tmp_path / "model", device="cpu")  # without an environment: to predict
    assert differing(parameters(model), parameters(loaded)) == []
    for one, two in ((model.policy, loaded.policy), (model.vae, loaded.vae)):
        assert one.optimizer.state_dict()["state"]
        assert_same_optimizer(one.optimizer.state_dict(), two.optimizer.state_dict())
    assert states_of_generators(loaded) == states_of_generators(model)
    assert all(one != two for one, two in zip(states_of_generators(model), fresh, strict=True))
    assert loaded.imagination_config == model.imagination_config
    assert loaded.vae.kl_weight == 0.5
    obs = np.random.default_rng(0).normal(size=(3, *model.observation_space.shape)).astype(np.float32)
    state = None
    for _ in range(3):
        one, state_one = model.predict(obs, state=state, deterministic=True)
        two, state = loaded.predict(obs, state=state, deterministic=True)
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(state_one, state)


def test_a_model_that_is_loaded_with_another_seed_begins_its_streams_anew(tmp_path):
    make().learn(2 * ROLLOUT).save(tmp_path / "model")

    def streams(**options):
        model = LDM.load(tmp_path / "model", env=bandits(), device="cpu", **options)
        tensors = [getattr(model, name).get_state() for name in model.generators]
        return model, [*tensors, th.as_tensor(model._vae_rng.integers(1000, size=5))]

    (_, same), (_, again), (model, other) = streams(), streams(seed=0), streams(seed=5)
    assert all(map(th.equal, same, again)) and not any(map(th.equal, same, other))
    model.save(tmp_path / "other")
    fresh = make(seed=5)
    assert all(th.equal(getattr(model, name).get_state(), getattr(fresh, name).get_state()) for name in model.generators)
    assert LDM.load(tmp_path / "other", device="cpu")._continues_streams


def test_imaginary_returns_of_another_training_are_not_logged():
    model = make(bandits(), **BANDIT, mixture_time="current").learn(2 * ROLLOUT)
    assert model.mixture_env.mean_imaginary_returns() is not None
    model.imagination_starts = 10**6
    with pytest.warns(UserWarning, match="trains as RL2"):
        model.learn(2 * ROLLOUT)
    assert model.mixture_env.mean_imaginary_returns() is None


def test_imaginary_tasks_of_a_second_training_are_chosen_too(monkeypatch):
    options = {**BANDIT, "mixture_time": "final", "n_candidates": 3, "n_partners": 2}
    model = make(bandits(), **options).learn(2 * ROLLOUT)
    chosen = []
    choose = model.mixture_env.imagination._choose
    monkeypatch.setattr(model.mixture_env.imagination, "_choose", lambda *given: chosen.append(0) or choose(*given))
    model.mixture_env.reset()
    assert len(chosen) == 1 and model.mixture_env.imagining.all()


def test_training_goes_on_after_loading(tmp_path):
    """As it would have without saving, but for what SB3 does not save: the global random state and the buffer."""
    results = []
    for interrupted in (False, True):
        model = make().learn(2 * ROLLOUT)
        if interrupted:
            model.save(tmp_path / "model")
            model.save_replay_buffer(tmp_path / "buffer")
            model = LDM.load(tmp_path / "model", env=bandits(), device="cpu")
            model.load_replay_buffer(tmp_path / "buffer")
        else:
            model.set_env(bandits())
        model.env.seed(7)
        set_random_seed(7)  # not the model's own streams, which go on
        results.append(model.learn(2 * ROLLOUT, reset_num_timesteps=False))
        assert model.num_timesteps == 4 * ROLLOUT
    assert differing(parameters(results[0]), parameters(results[1])) == []


@pytest.mark.parametrize(("n_envs", "n_mixture"), [(2, 1), (8, 2), (1, 0)])
@pytest.mark.filterwarnings("ignore:mixture_ratio")
def test_training_goes_on_with_another_number_of_workers(tmp_path, n_envs, n_mixture):
    make().learn(ROLLOUT).save(tmp_path / "model")
    loaded = LDM.load(tmp_path / "model", env=bandits(n_envs), device="cpu")
    assert loaded.n_mixture == n_mixture
    before = parameters(loaded)
    loaded.learn(3 * n_envs * STEPS)
    assert differing(before, parameters(loaded))
    assert len(loaded.replay_buffer) == 3 * (n_envs - n_mixture)


@pytest.mark.filterwarnings("ignore:n_steps")
@pytest.mark.parametrize("episodes", [1, 3])
@pytest.mark.parametrize("way", ["load", "set_env"])
def test_training_goes_on_with_another_number_of_episodes(tmp_path, episodes, way):
    model = make().learn(ROLLOUT)
    if way == "load":
        model.save(tmp_path / "model")
        model = LDM.load(tmp_path / "model", env=bandits(episodes=episodes), device="cpu")
    else:
        model.set_env(bandits(episodes=episodes))
    model.learn(3 * ROLLOUT)
    batch = model.replay_buffer.get(np.arange(len(model.replay_buffer)))
    assert batch.rewards.shape[0] == 4 * episodes and bool(batch.mask.all())
    assert len(model.mixture_env.mean_imaginary_returns()) == episodes


@pytest.mark.filterwarnings("ignore:n_steps")
@pytest.mark.parametrize("way", ["load", "set_env", "load_replay_buffer"])
def test_the_rest_of_a_meta_episode_is_not_taken_for_a_whole_one(tmp_path, way):
    """Whatever replaces the mixture environment in the midst of meta-episodes, without resetting them."""
    model, env = make(n_steps=12), bandits()
    model.set_env(env)
    model.learn(12 * N_ENVS)  # 4 steps into the second meta-episode
    if way == "load":
        model.save(tmp_path / "model")
        model = LDM.load(tmp_path / "model", env=env, device="cpu", force_reset=False)
    elif way == "set_env":
        model.set_env(env, force_reset=False)
    else:
        model.save_replay_buffer(tmp_path / "buffer")
        model.load_replay_buffer(tmp_path / "buffer")
    before = len(model.replay_buffer)
    assert before == (0 if way == "load" else 3)
    model.learn(12 * N_ENVS, reset_num_timesteps=False)
    assert len(model.replay_buffer) == before + 3  # the third meta-episode alone
    batch = model.replay_buffer.get(np.arange(len(model.replay_buffer)))
    assert bool(batch.mask.all()) and len(batch.mask) == STEPS


@pytest.mark.filterwarnings("ignore:n_steps")
def test_learning_twice_is_like_learning_once():
    once = make(n_steps=12, learning_rate=1e-3).learn(4 * 12 * N_ENVS)
    twice = make(n_steps=12, learning_rate=1e-3).learn(2 * 12 * N_ENVS)
    twice.learn(2 * 12 * N_ENVS, reset_num_timesteps=False)
    assert differing(parameters(once), parameters(twice)) == []
    np.testing.assert_array_equal(
        once.replay_buffer.get(np.arange(18)).rewards, twice.replay_buffer.get(np.arange(18)).rewards
    )


@pytest.mark.filterwarnings("ignore:n_steps")
def test_learning_anew_discards_what_had_not_ended():
    model = make(n_steps=12).learn(12 * N_ENVS)
    weights = model.mixture_env.imagination.tasks.weights.clone()
    model.learn(12 * N_ENVS)
    assert not th.equal(model.mixture_env.imagination.tasks.weights, weights)
    batch = model.replay_buffer.get(np.arange(len(model.replay_buffer)))
    assert batch.rewards.shape == (STEPS, 2 * 3)


def test_parameters_can_be_moved_to_another_model():
    one, two = make().learn(ROLLOUT), make(seed=5)
    assert {"policy", "policy.optimizer", "vae", "vae.optimizer"} == set(one.get_parameters())
    assert differing(of_network(one), of_network(two))
    two.set_parameters(one.get_parameters())
    assert differing(parameters(one), parameters(two)) == []
    assert_same_optimizer(one.vae.optimizer.state_dict(), two.vae.optimizer.state_dict())


def test_parameters_are_taken_by_the_names_of_earlier_versions_too(tmp_path):
    one, two, three = make().learn(ROLLOUT), make(seed=5), make(seed=6)
    former = {name.replace("vae", "latent_dynamics"): state for name, state in one.get_parameters().items()}
    save_to_zip_file(tmp_path / "former.zip", {}, former)
    two.set_parameters(former)
    three.set_parameters(tmp_path / "former.zip", device="cpu")
    for other in (two, three):
        assert differing(parameters(one), parameters(other)) == []
        assert_same_optimizer(one.vae.optimizer.state_dict(), other.vae.optimizer.state_dict())
    with pytest.warns(DeprecationWarning, match="called vae"):
        assert one.latent_dynamics is one.vae


def test_the_buffer_is_saved_to_its_own_file(tmp_path):
    model = make().learn(2 * ROLLOUT)
    model.save_replay_buffer(tmp_path / "buffer")
    model.save(tmp_path / "model")
    other = LDM.load(tmp_path / "model", env=bandits(8), device="cpu")
    assert len(other.replay_buffer) == 0
    other.load_replay_buffer(tmp_path / "buffer.pkl")
    indices = np.arange(6)
    assert len(other.replay_buffer) == 6
    assert th.equal(other.replay_buffer.get(indices).rewards, model.replay_buffer.get(indices).rewards)
    other.learn(8 * STEPS)
    assert len(other.replay_buffer) == 6 + 6
    with pytest.raises(ValueError, match="layout"):
        make(grid_vec_env(4)).load_replay_buffer(tmp_path / "buffer")


class SaveInTheMiddle(BaseCallback):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def _on_step(self):
        if self.n_calls == STEPS + 3:
            self.model.save(self.path)
            self.parameters = parameters(self.model)
        return True


@pytest.mark.parametrize("subproc", [False, True])
def test_saving_in_the_middle_of_a_rollout(tmp_path, subproc):
    env = vec_env(Bandit, 2, subproc=subproc)  # a second reference to its processes would make saving fail
    assert isinstance(env, SubprocVecEnv) == subproc
    model, saver = make(env, mixture_ratio=0.5, **BANDIT), SaveInTheMiddle(tmp_path / "model")
    model.learn(2 * 2 * STEPS, callback=saver)
    env.close()
    loaded = LDM.load(tmp_path / "model", env=bandits(2), device="cpu")
    assert differing(parameters(loaded), saver.parameters) == [] and loaded.num_timesteps == 2 * (STEPS + 3)
    loaded.learn(2 * STEPS, reset_num_timesteps=False)


# Stable-Baselines3 around it


def test_callbacks_of_stable_baselines_work(tmp_path):
    model = make(VecNormalize(bandits()), **BANDIT)
    evaluation = EvalCallback(VecNormalize(bandits(2), training=False), n_eval_episodes=2, eval_freq=STEPS, verbose=0)
    checkpoints = CheckpointCallback(12, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True)
    model.learn(2 * ROLLOUT, callback=[evaluation, checkpoints])
    assert np.isfinite(evaluation.last_mean_reward)
    loaded = LDM.load(tmp_path / "rl_model_48_steps", env=VecNormalize(bandits()), device="cpu")
    loaded.load_replay_buffer(tmp_path / "rl_model_replay_buffer_48_steps")
    assert len(loaded.replay_buffer) == 3
    loaded.learn(ROLLOUT)


def test_the_users_environment_stays_the_users():
    env = VecNormalize(bandits())
    model = make(env, **BANDIT).learn(ROLLOUT)
    assert model.get_env() is model.env is env and model.get_vec_normalize_env() is env


def test_logs(tmp_path):
    model = make(tensorboard_log=str(tmp_path / "tb"))
    model.set_logger(configure(str(tmp_path), ["csv", "tensorboard"]))
    model.learn(3 * ROLLOUT)
    with open(tmp_path / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = {f"vae/{name}" for name in ("elbo", "reconstruction", "kl", "final_kl", "accuracy", "meta_episodes")}
    names |= {"imagination/return_1", "imagination/return_2", "rollout/ep_rew_mean", "rollout/success_rate", "train/loss"}
    assert names <= set(rows[-1]) and len(rows) == 3
    values = {name: float(rows[-1][name]) for name in names}
    assert all(np.isfinite(value) for value in values.values())
    assert 0.0 < values["imagination/return_1"] < 4.0 and 0.0 <= values["vae/accuracy"] <= 1.0
    assert values["vae/elbo"] == pytest.approx(values["vae/reconstruction"] - values["vae/kl"], rel=1e-3)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert names <= set(events.Tags()["scalars"])


def test_squared_errors_have_no_accuracy_and_no_mixtures_no_imaginary_return():
    model = make(reward_likelihood="gaussian", mixture_ratio=0.0)
    model.learn(2 * ROLLOUT, log_interval=10)
    names = set(model.logger.name_to_value)
    assert "vae/elbo" in names
    assert "vae/accuracy" not in names and not any(name.startswith("imagination/") for name in names)


@pytest.mark.parametrize("wrap", [lambda env: env, VecNormalize], ids=["plain", "normalised"])
@pytest.mark.parametrize("end_probability", [0.0, 0.4], ids=["fixed length", "early ends"])
def test_box_actions_end_to_end(tmp_path, wrap, end_probability):
    model = make(wrap(drifts(end_probability=end_probability)), mixture_ratio=0.5, beta=2.0, mixture_weights="per_dimension")
    model.learn(4 * ROLLOUT)
    assert all(bool(th.isfinite(value).all()) for value in parameters(model).values())
    model.save(tmp_path / "model")
    loaded = LDM.load(tmp_path / "model", env=wrap(drifts(end_probability=end_probability)), device="cpu")
    loaded.learn(2 * ROLLOUT)
    result = evaluate_meta(loaded, wrap(drifts(3)), tasks=np.array([[0.1], [-0.2]]))
    assert result.returns.shape == (2, 2)
    assert len(loaded.replay_buffer) >= 2 * 2


def test_the_gridworld_by_its_id():
    model = LDM("MlpLstmPolicy", "GridNavi-v0", n_envs=4, seed=0, device="cpu", n_epochs=1, vae_batch_size=2)
    model.learn(4 * 120)
    assert len(model.replay_buffer) == 2 and model.n_mixture == 2
    with pytest.raises(ValueError, match="n_envs=4 is for an env that is an id"):
        LDM("MlpLstmPolicy", bandits(), n_envs=4)


def test_all_options_of_the_imagination_run_on_the_gridworld():
    model = make(
        grid_vec_env(6),
        mixture_ratio=0.34,
        reward_likelihood="bernoulli",
        bernoulli_rewards=[-0.1, 1.0],
        decoder_inputs=["next_state"],
        dropout_rate=0.7,
        imaginary_reward="threshold",
        imagination_dropout="meta_episode",
        mixture_time="final",
        vae_kwargs={"dropout_place": "inputs", "encoder_embeddings": [16, 0, 8], "decoder_layers": [16]},
    )
    model.learn(2 * 6 * 12)
    rewards = model.rollout_buffer.rewards[:, model.n_normal :]
    np.testing.assert_allclose(np.abs(rewards - 0.45), 0.55, rtol=1e-5)


# Wrong use


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixture_ratio": 1.0}, r"mixture_ratio=1\.0 is outside \[0, 1\)"),
        ({"mixture_ratio": -0.1}, r"mixture_ratio=-0\.1"),
        ({"batch_size": 7}, "batch_size=7"),
        ({"n_steps": 1}, "n_steps=1"),
        ({"vae_batch_size": 0}, "vae_batch_size=0"),
        ({"vae_updates": -1}, "vae_updates=-1"),
        ({"vae_buffer_size": 0}, "vae_buffer_size=0"),
        ({"vae_buffer_keeps": "best"}, "vae_buffer_keeps='best'"),
        ({"beta": -1.0}, r"beta=-1\.0"),
        ({"n_partners": 0}, "n_partners=0"),
        ({"mixture_weights": "per_layer"}, "mixture_weights='per_layer'"),
        ({"imaginary_reward": "sample", "reward_likelihood": "gaussian"}, "needs reward_likelihood='bernoulli'"),
        ({"reward_likelihood": "poisson"}, "reward_likelihood='poisson'"),
        ({"dropout_rate": 1.0}, r"dropout_rate=1\.0"),
        ({"decoder_inputs": ["reward"]}, "decoder_inputs"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="mixture_rate"):
        make(mixture_rate=0.1)
    with pytest.raises(ValueError, match="vae_kwargs has encoder_layers: use some of encoder_hidden_size"):
        make(vae_kwargs={"encoder_layers": 3})


def test_what_cannot_be_meant_is_warned_about():
    with pytest.warns(UserWarning, match="n_steps=12 cuts meta-episodes"):
        make(n_steps=12)
    with pytest.warns(UserWarning, match=r"mixture_ratio=0\.25 with one sub-environment"):
        make(bandits(1), **BANDIT)


def test_unfit_environments_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match="MetaEpisodeWrapper"):
        make("CartPole-v1")


def test_wrong_rewards_are_reported_with_a_remedy():
    model = make(drifts(), reward_likelihood="bernoulli")
    with pytest.raises(ValueError, match="use 'gaussian'"):
        model.learn(ROLLOUT)
