"""What goes wrong is named, and what other SB3 algorithms put up with is put up with."""

import inspect
import re

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from helpers import Bandit, Drift, differing, parameters, user_warnings, vec_env
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ldm import LDM, RL2, Mixreg, VariBAD, make_meta_vec_env
from sb3_ldm.algorithms.varibad.policies import BeliefPolicy
from sb3_ldm.envs.locomotion import DOMAINS
from sb3_ldm.envs.meta_episode import MetaEpisodeWrapper
from sb3_ldm.evaluation import evaluate_meta
from sb3_ldm.evaluation.callbacks import MetaEvalCallback
from sb3_ldm.on_policy import MetaLstmPolicy

BANDIT = {"reward_likelihood": "bernoulli", "vae_batch_size": 5}


def make(algorithm=LDM, env=None, **options):
    if env is None:
        env = vec_env(Bandit, 4)
        options = {**(BANDIT if algorithm in (LDM, VariBAD) else {}), **options}
    return algorithm("MlpLstmPolicy", env, seed=0, device="cpu", **options)


@pytest.mark.parametrize(
    ("algorithm", "option", "value"),
    [
        (RL2, "n_steps", 8.0),
        (RL2, "n_epochs", 0),
        (Mixreg, "mixreg_alpha", float("nan")),
        (Mixreg, "target_kl", 0.03),
        (RL2, "target_kl", -1.0),
        (RL2, "max_grad_norm", 0.0),
        (RL2, "max_grad_norm", None),
        (RL2, "clip_range", -0.1),
        (RL2, "gamma", 1.5),
        (RL2, "gae_lambda", -1.0),
        (RL2, "ent_coef", float("nan")),
        (RL2, "learning_rate", -1e-3),
        (RL2, "stats_window_size", 0),
        (LDM, "vae_learning_rate", "1e-3"),
        (LDM, "decoder_inputs", "next_state"),
        (LDM, "bernoulli_rewards", (0.0, float("inf"))),
        (LDM, "beta", float("nan")),
        (LDM, "beta", float("inf")),
        (LDM, "n_partners", 2.0),
        (LDM, "n_candidates", 2.5),
        (LDM, "mixture_ratio", "0.5"),
        (LDM, "mixture_ratio", None),
        (LDM, "dropout_rate", None),
        (LDM, "kl_weight", float("nan")),
        (LDM, "latent_dim", 2.5),
        (LDM, "n_elbo_terms", 2.5),
        (LDM, "n_decoded_steps", True),
        (LDM, "bernoulli_rewards", (0, 1, 2)),
        (VariBAD, "vae_buffer_size", 1.5),
        (VariBAD, "vae_batch_size", 2.5),
        (VariBAD, "vae_updates", -1),
    ],
)
def test_options_that_cannot_be_meant_are_named_before_work_starts(algorithm, option, value):
    with pytest.raises(ValueError, match=f"{option}="):
        make(algorithm, **{option: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_embeddings": (32, 16)}, r"encoder_embeddings=\(32, 16\): give a size for each of state, action, reward"),
        ({"decoder_embeddings": (0, 0)}, "decoder_embeddings=.*not all of them 0"),
        ({"decoder_embeddings": (8, 0.5)}, "decoder_embeddings=0.5"),
        ({"decoder_layers": [8, 0]}, "decoder_layers=0"),
        ({"decoder_layers": [32.5]}, r"decoder_layers=32\.5"),
        ({"encoder_hidden_size": 0}, "encoder_hidden_size=0"),
        ({"standardize_states": "no"}, "standardize_states='no'"),
        ({"latent_dim": 3}, "vae_kwargs has latent_dim: use some of encoder_hidden_size"),
    ],
)
def test_options_of_the_vae_that_cannot_be_meant(options, message):
    with pytest.raises(ValueError, match=message):
        make(vae_kwargs=options)


@pytest.mark.parametrize("n_envs", [0, 2.0, "4"])
def test_a_number_of_environments_that_is_none(n_envs):
    with pytest.raises(ValueError, match="n_envs="):
        make_meta_vec_env("GridNavi-v0", n_envs)


def test_policies_and_options_of_policies_that_do_not_fit():
    with pytest.raises(ValueError, match=r"RecurrentActorCriticPolicy.*MetaLstmPolicy"):
        RL2(RecurrentActorCriticPolicy, vec_env(Bandit, 2), device="cpu")
    for algorithm in (RL2, Mixreg, LDM):
        with pytest.raises(ValueError, match=r"BeliefPolicy.*subclass of MetaLstmPolicy whose encoder the policy loss trains"):
            algorithm(BeliefPolicy, vec_env(Bandit, 2), device="cpu")
    with pytest.raises(ValueError, match=r"MetaLstmPolicy.*subclass of BeliefPolicy"):
        VariBAD(MetaLstmPolicy, vec_env(Bandit, 2), device="cpu")
    with pytest.raises(ValueError, match="policy_kwargs has latent_dim=3"):
        make(VariBAD, policy_kwargs={"latent_dim": 3})
    with pytest.raises(ValueError, match="splits="):
        MetaEvalCallback(vec_env(Bandit, 2), splits=())


@pytest.mark.parametrize("algorithm", [RL2, Mixreg, LDM, VariBAD])
def test_an_agent_that_diverges_stops(algorithm):
    with pytest.raises(ValueError, match=r"diverged.*learning_rate"):
        make(algorithm, learning_rate=1e20).learn(4 * 32)


def test_a_network_that_diverges_stops():
    model = make(vae_learning_rate=1e20)
    with pytest.raises(ValueError, match=r"VAE diverged"):
        model.learn(10 * 32)


class SaysItsHorizon(Bandit):
    """Names its horizon and leaves it to others to keep it."""

    _max_episode_steps = 3


def test_a_time_limit_is_one_that_ends_episodes():
    with pytest.raises(ValueError, match="the environment has no time limit"):
        MetaEpisodeWrapper(SaysItsHorizon(), 2)
    env = MetaEpisodeWrapper(SaysItsHorizon(), 2, max_episode_steps=5)
    assert env.layout.max_episode_steps == 5
    forgetful = SaysItsHorizon()
    forgetful.spec = EnvSpec("Forgetful-v0", max_episode_steps=3)
    env = MetaEpisodeWrapper(forgetful, 2)
    env.reset(seed=0)
    env.step(0)
    env.step(0)
    with pytest.raises(ValueError, match=r"goes on after step 3 of an episode.*TimeLimit"):
        env.step(0)


class Shows(Bandit):
    """Shows what it is told to show."""

    def __init__(self, first, then):
        super().__init__()
        self.first, self.then = first, then

    def reset(self, *, seed=None, options=None):
        return self.first, super().reset(seed=seed, options=options)[1]

    def step(self, action):
        return self.then, *super().step(action)[1:]


def test_observations_are_what_the_environment_says_of_them():
    with pytest.raises(ValueError, match=r"observation of shape \(2,\), but says observation_space=Box\(0.0, 1.0, \(1,\)"):
        MetaEpisodeWrapper(Shows(np.ones(2), None), 2, max_episode_steps=3).reset()
    with pytest.raises(ValueError, match=r"observation=\[nan\] at step 0 after the reset"):
        MetaEpisodeWrapper(Shows([np.nan], None), 2, max_episode_steps=3).reset()
    env = MetaEpisodeWrapper(Shows([0.5], [np.inf]), 2, max_episode_steps=3)
    assert env.reset()[0][0] == 0.5
    with pytest.raises(ValueError, match=r"observation=\[inf\] at step 1 after the reset"):
        env.step(0)


def test_frozen_parameters_stay_and_the_others_are_trained():
    for algorithm in (RL2, LDM):
        model = make(algorithm)
        model.policy.features_extractor.requires_grad_(False)
        if algorithm is LDM:
            model.vae.encoder.requires_grad_(False)
        before = parameters(model)
        model.learn(2 * 32)
        changed = differing(before, parameters(model))
        assert any("lstm" in name for name in changed) and not any("features_extractor" in name for name in changed)
        assert any("decoder" in name for name in changed) == (algorithm is LDM)
        assert not any("vae/encoder" in name for name in changed)


class DropoutExtractor(FlattenExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.dropout = th.nn.Dropout(0.5)

    def forward(self, observations):
        return self.dropout(super().forward(observations))


class BatchNormExtractor(FlattenExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.norm = th.nn.BatchNorm1d(self.features_dim)

    def forward(self, observations):
        return self.norm(super().forward(observations))


@pytest.mark.parametrize("extractor", [DropoutExtractor, BatchNormExtractor])
def test_extractors_that_depend_on_shards_are_trained_on_whole_minibatches(extractor):
    n_threads = th.get_num_threads()
    results = []
    try:
        th.set_num_threads(2)
        for _ in range(3):
            env = vec_env(Bandit, 8)
            model = RL2("MlpLstmPolicy", env, seed=0, device="cpu", policy_kwargs={"features_extractor_class": extractor})
            results.append(parameters(model.learn(2 * 64)))
    finally:
        th.set_num_threads(n_threads)
    assert differing(results[0], results[1]) == [] == differing(results[0], results[2])


class Deaf(Bandit):
    """Draws a task of its own at each reset, as an environment does that knows of no options."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


def test_an_environment_that_ignores_the_task_is_refused():
    env = MetaEpisodeWrapper(Deaf(), 20, max_episode_steps=1)
    with pytest.raises(ValueError, match="call select_task"):
        for seed in range(20):
            env.reset(seed=seed, options={"task": [2]})
    with pytest.raises(ValueError, match="call select_task"):
        env.reset(seed=0)
        for _ in range(20):
            env.step(0)


class Angle(Bandit):
    """Puts its task into a form of its own."""

    def select_task(self, options=None):
        told = (options or {}).get("task")
        return super().select_task(None if told is None else {"task": np.asarray(told) % 3})


def test_an_environment_may_put_the_task_into_another_form():
    env = MetaEpisodeWrapper(Angle(), 3, max_episode_steps=1)
    assert env.reset(options={"task": [5]})[1]["task"] == 2
    for _ in range(3):
        assert env.step(2)[1] == 1.0


class TellsOfSuccessAlone(Bandit):
    def step(self, action):
        state, reward, terminated, truncated, info = super().step(action)
        return state, reward, terminated, truncated, info if info["is_success"] else {}


def test_no_word_of_a_success_is_none():
    env = MetaEpisodeWrapper(TellsOfSuccessAlone(), 2, max_episode_steps=1)
    for actions, wanted in (((1, 0), [False, True]), ((0, 1), [True, False]), ((1, 2), None)):
        env.reset(options={"task": [0]})
        for action in actions:
            info = env.step(action)[-1]
        successes = info.get("episode_successes")
        assert (successes is None) == (wanted is None) and (wanted is None or successes.tolist() == wanted)

    class OneArm:
        def predict(self, obs, **kwargs):
            return np.zeros(len(obs), dtype=int), None

    venv = vec_env(TellsOfSuccessAlone, 2)
    assert evaluate_meta(OneArm(), venv, tasks=np.array([[0], [1]])).successes.tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("limit", [4, 5])
def test_a_time_limit_around_the_meta_episode_is_named(limit):
    def cut():
        return gym.wrappers.TimeLimit(MetaEpisodeWrapper(Bandit(), 2, max_episode_steps=4), limit)

    for algorithm in (LDM, VariBAD):
        with pytest.raises(ValueError, match=r"cut before its last episode ended.*max_episode_steps"):
            make(algorithm, make_vec_env(cut, 4), **BANDIT).learn(32)
    agent = make(RL2, make_vec_env(cut, 4)).learn(32)  # which is bootstrapped there, as every SB3 algorithm
    with pytest.raises(ValueError, match="cut before its last episode ended"):
        evaluate_meta(agent, make_vec_env(cut, 2))


def test_the_value_where_a_time_limit_cuts_is_that_of_the_last_observation():
    """As in stock ``RecurrentPPO``, which computes it for one environment at a time."""

    def cut(limit):
        return lambda: gym.wrappers.TimeLimit(MetaEpisodeWrapper(Drift(), 2, max_episode_steps=4), limit)

    expected, n_cut = [], 0

    class Bootstrap(BaseCallback):
        def _on_step(self):
            nonlocal n_cut
            model, states, rewards = self.model, self.locals["lstm_states"], self.locals["rewards"].copy()
            for i, info in enumerate(self.locals["infos"]):
                if self.locals["dones"][i] and info.get("TimeLimit.truncated", False):
                    n_cut += 1
                    with th.no_grad():
                        last = model.policy.obs_to_tensor(info["terminal_observation"])[0]
                        own = tuple(state[:, i : i + 1].contiguous() for state in states.vf)
                        rewards[i] += model.gamma * model.policy.predict_values(last, own, th.zeros(1)).item()
            expected.append(rewards)
            return True

    env = DummyVecEnv([cut(3), cut(5), cut(100), cut(5)])
    model = RL2("MlpLstmPolicy", env, n_steps=24, gamma=0.9, scale_rewards=False, seed=0, device="cpu")
    model.learn(4 * 24, Bootstrap())
    assert n_cut > 10
    np.testing.assert_allclose(model.rollout_buffer.rewards, expected, rtol=1e-5, atol=1e-6)


def test_padding_is_no_divergence():
    """Where a shard of a batch has no step that is decoded, there is nothing to be accurate about."""
    before = th.get_num_threads()
    try:
        th.set_num_threads(2)
        for seed in range(3):
            env = vec_env(lambda: Drift(end_probability=0.2), 4, horizon=50)
            LDM("MlpLstmPolicy", env, n_decoded_steps=1, vae_batch_size=4, seed=seed, device="cpu").learn(4 * 100)
    finally:
        th.set_num_threads(before)


def test_priors_are_not_mixed():
    """A mixture worker that ends a meta-episode before every normal worker has ended one goes on with true rewards."""
    imagining, ended = [], np.zeros(2, dtype=bool)

    class Watch(BaseCallback):
        def _on_step(self):
            nonlocal ended
            ended |= self.locals["dones"][:2]
            imagining.append((bool(self.model.mixture_env.imagining.any()), int(ended.sum())))
            return True

    class Ending(Bandit):
        """Ends after some steps."""

        def __init__(self, length):
            super().__init__()
            self.length = length

        def reset(self, **kwargs):
            self.steps = 0
            return super().reset(**kwargs)

        def step(self, action):
            self.steps += 1
            obs, reward, _, _, info = super().step(action)
            return obs, reward, self.steps == self.length, False, info

    env = DummyVecEnv([lambda n=n: MetaEpisodeWrapper(Ending(n), 1, max_episode_steps=8) for n in (8, 4, 2)])
    options = {"reward_likelihood": "gaussian", "imagination_starts": 0, "imagination_requires": None, "n_partners": 2}
    make(env=env, mixture_ratio=0.3, **options, n_steps=8).learn(3 * 16, Watch())
    assert {(False, 0), (False, 1), (True, 2)} <= set(imagining) and not {(True, 0), (True, 1)} & set(imagining)


def test_rewards_that_are_changed_around_the_meta_episode_are_named():
    def changed():
        return gym.wrappers.TransformReward(MetaEpisodeWrapper(Bandit(), 2, max_episode_steps=4), lambda r: 10.0 * r - 1.0)

    for algorithm in (LDM, VariBAD):
        with pytest.raises(ValueError, match=r"rewarded .* and shown .* Wrap the environment inside"):
            make(algorithm, make_vec_env(changed, 4)).learn(32)


class DoublePrecision(Drift):
    def __init__(self):
        super().__init__()
        self.action_space = spaces.Box(-1.0, 1.0, (2,), dtype=np.float64)


def test_a_third_reward_in_the_midst_of_a_later_meta_episode_is_named():
    class Late(Bandit):
        steps = 0

        def step(self, action):
            state, reward, *rest = super().step(action)
            Late.steps += 1
            return state, 0.7 if Late.steps == 402 else reward, *rest  # the second of eight steps

    with pytest.raises(ValueError, match=r"bernoulli_rewards=.* met the reward 0\.7"):
        make(env=vec_env(Late, 4), **BANDIT).learn(1000)


def test_actions_of_double_precision_are_imagined_on():
    model = make(env=vec_env(DoublePrecision, 4), mixture_ratio=0.5, imagination_requires=None).learn(3 * 32)
    assert model.mixture_env.imagining.all()


@pytest.mark.parametrize(
    ("algorithm", "policy_kwargs"), [(VariBAD, {}), (RL2, {"state_in_heads": True}), (LDM, {"state_in_heads": True})]
)
def test_observations_of_double_precision_are_acted_on(algorithm, policy_kwargs):
    model = make(algorithm, policy_kwargs=policy_kwargs)
    obs = model.observation_space.sample()
    expected, _ = model.predict(obs, deterministic=True)
    for same in (obs.astype(np.float64), obs.tolist()):
        assert model.predict(np.asarray(same), deterministic=True)[0] == expected


def test_an_extractor_of_a_batch_of_observations():
    make(VariBAD, policy_kwargs={"features_extractor_class": FlattenExtractor}).learn(3 * 32)


def test_a_learning_rate_that_is_given_at_loading_is_used(tmp_path):
    make().learn(32).save(tmp_path / "model")
    model = LDM.load(tmp_path / "model", env=vec_env(Bandit, 4), device="cpu", vae_learning_rate=1e-5)
    model.learn(32)
    assert [group["lr"] for group in model.vae.optimizer.param_groups] == [1e-5]


@pytest.mark.parametrize("algorithm", [LDM, VariBAD])
def test_the_vae_s_learning_rate_may_follow_a_schedule(algorithm, tmp_path):
    class Watch(BaseCallback):
        def _on_training_start(self):
            self.rates = []

        def _on_rollout_start(self):
            self.rates += [group["lr"] for group in self.model.vae.optimizer.param_groups]

        def _on_step(self):
            return True

    model, watch = make(algorithm, vae_learning_rate=LinearSchedule(1e-2, 0.0, 1.0)), Watch()
    model.learn(3 * 32, watch)
    assert watch.rates == pytest.approx([1e-2, 1e-2 * 2 / 3, 1e-2 / 3])
    assert model.vae.optimizer.param_groups[0]["lr"] == 0.0
    model.save(tmp_path / "model")
    assert algorithm.load(tmp_path / "model", device="cpu").vae_learning_rate(0.5) == pytest.approx(5e-3)


@pytest.mark.parametrize("algorithm", [RL2, Mixreg, LDM, VariBAD])
def test_the_entropy_coefficient_may_follow_a_schedule(algorithm, tmp_path):
    fixed = make(algorithm, ent_coef=0.05).learn(2 * 32)
    constant = make(algorithm, ent_coef=LinearSchedule(0.05, 0.05, 1.0)).learn(2 * 32)
    assert differing(parameters(fixed), parameters(constant)) == []

    model = make(algorithm, ent_coef=LinearSchedule(0.1, 0.0, 1.0))
    logged = []
    model.set_logger(Logger(None, [Rows(logged)]))
    model.learn(4 * 32)
    assert [row["train/ent_coef"] for row in logged[1:]] == pytest.approx([0.075, 0.05, 0.025])  # logged by the next rollout
    model.save(tmp_path / "model")
    assert algorithm.load(tmp_path / "model", device="cpu").ent_coef(0.5) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="ent_coef=nan"):
        make(algorithm, ent_coef=lambda progress: float("nan")).learn(32)


ALGORITHMS = (RL2, Mixreg, LDM, VariBAD)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each algorithm, two of others, and some that are no models."""
    folder = tmp_path_factory.mktemp("models")
    for algorithm in ALGORITHMS:
        make(algorithm).save(folder / algorithm.__name__)
    RecurrentPPO("MlpLstmPolicy", vec_env(Bandit, 2), device="cpu").save(folder / "RecurrentPPO")
    SAC("MlpPolicy", vec_env(Drift, 1), device="cpu", buffer_size=10).save(folder / "SAC")
    (folder / "text.zip").write_text("no model")
    whole = (folder / "LDM.zip").read_bytes()
    (folder / "cut.zip").write_bytes(whole[:-500])
    flipped = bytearray(whole)
    flipped[whole.index(b"policy.pth") + 2000] ^= 4
    (folder / "flipped.zip").write_bytes(flipped)
    return folder


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("saved", [*(one.__name__ for one in ALGORITHMS), "RecurrentPPO", "SAC"])
def test_a_file_of_another_algorithm_names_it(algorithm, saved, files):
    if saved == algorithm.__name__:
        assert type(algorithm.load(files / saved, device="cpu")) is algorithm
        return
    with pytest.raises(ValueError, match=rf"{saved} holds a model of .*{saved}: load it with .*not with {algorithm.__name__}"):
        algorithm.load(files / saved, device="cpu")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_parameters_are_taken_of_files_of_the_same_algorithm(algorithm, files):
    model = make(algorithm)
    for saved in (*(one.__name__ for one in ALGORITHMS), "RecurrentPPO", "SAC", "cut"):
        if saved == algorithm.__name__:
            continue
        told = "is no model, or a damaged one" if saved == "cut" else rf"holds a model of .*{saved}: load it with"
        before = parameters(model)
        with pytest.raises(ValueError, match=told):
            model.set_parameters(files / saved, device="cpu")
        assert not differing(before, parameters(model))
    for file in (files / algorithm.__name__, str(files / algorithm.__name__)):
        with th.no_grad():
            for parameter in model.policy.parameters():
                parameter.zero_()
        model.set_parameters(file, device="cpu")
        assert not differing(parameters(algorithm.load(files / algorithm.__name__, device="cpu")), parameters(model))


def test_what_fits_of_another_algorithm_can_be_asked_for(files):
    model = make(LDM)
    model.set_parameters(files / "RL2", exact_match=False, device="cpu")
    own, other = (parameters(one) for one in (model, RL2.load(files / "RL2", device="cpu")))
    assert not differing({name: own[name] for name in other}, other)


@pytest.mark.parametrize("damaged", ["text", "cut", "flipped"])
def test_a_file_that_is_no_model_or_a_damaged_one_is_named(damaged, files):
    with pytest.raises(ValueError, match=rf"{damaged}(\.zip)? is no model, or a damaged one .*load another checkpoint"):
        LDM.load(files / damaged, device="cpu")
    with (files / f"{damaged}.zip").open("rb") as file, pytest.raises(ValueError, match="is no model, or a damaged one"):
        LDM.load(file, device="cpu")


def test_a_file_is_not_run_to_see_whose_it_is(files, monkeypatch):
    monkeypatch.setattr(cloudpickle, "loads", lambda text: pytest.fail("unpickled"))
    with pytest.raises(ValueError, match="holds a model of LDM"):
        RL2.load(files / "LDM", device="cpu")


def test_a_class_of_ones_own_is_loaded_as_what_it_derives_from(files):
    class Mine(LDM):
        pass

    assert isinstance(Mine.load(files / "LDM", device="cpu"), Mine)
    with pytest.raises(ValueError, match="holds a model of RL2"):
        Mine.load(files / "RL2", device="cpu")


@pytest.mark.parametrize(
    ("algorithm", "option", "meant"),
    [
        (RL2, "n_step", "n_steps"),
        (RL2, "mixture_ratio", "use"),
        (LDM, "vae_lerning_rate", "vae_learning_rate"),
        (Mixreg, "bta", ""),
    ],
)
def test_options_that_a_class_has_not_are_named_with_the_nearest(algorithm, option, meant, files):
    with pytest.raises(TypeError, match=f"{algorithm.__name__} has no option {option}: .*{meant}"):
        make(algorithm, **{option: 1})
    with pytest.raises(TypeError, match=f"{algorithm.__name__} has no option {option}: .*{meant}"):
        algorithm.load(files / algorithm.__name__, device="cpu", **{option: 1})


def test_a_class_of_ones_own_may_have_fewer_options():
    class Short(LDM):
        def __init__(self, policy, env, device="auto", _init_setup_model=True):
            super().__init__(policy, env, beta=2.0, device=device, _init_setup_model=_init_setup_model)

    assert Short("MlpLstmPolicy", vec_env(Bandit, 8), device="cpu").beta == 2.0
    with pytest.raises(TypeError, match="beta"):
        Short("MlpLstmPolicy", vec_env(Bandit, 8), beta=1.0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_options_of_a_class_are_those_of_its_constructor(algorithm):
    assert list(inspect.signature(algorithm).parameters) == list(inspect.signature(algorithm.__init__).parameters)[1:]


@pytest.mark.parametrize(
    "options",
    [{"batch_first": True}, {"bidirectional": True}, {"proj_size": 4}, {"num_layers": 2}, {"biass": False}, {"dropout": 0.5}],
)
@pytest.mark.parametrize("algorithm", [RL2, VariBAD])
def test_options_that_change_what_an_lstm_gives_are_refused(algorithm, options):
    with pytest.raises(ValueError, match=f"lstm_kwargs: {next(iter(options))}="):
        make(algorithm, policy_kwargs={"lstm_kwargs": options})


@pytest.mark.parametrize("seed", ["0", 1.5, -1, True, 2**32])
def test_seeds_that_are_none_are_refused(seed):
    with pytest.raises(ValueError, match="seed="):
        RL2("MlpLstmPolicy", vec_env(Bandit, 2), seed=seed, device="cpu")
    with pytest.raises(ValueError, match="seed="):
        make(Mixreg).set_random_seed(seed)


@pytest.mark.parametrize("total", [0, -5, float("nan"), "10"])
def test_a_training_of_nothing_is_refused(total):
    with pytest.raises(ValueError, match="total_timesteps="):
        make(RL2).learn(total)


@pytest.mark.parametrize("algorithm", [RL2, LDM])
def test_training_without_environments_names_what_gives_them(algorithm, files):
    with pytest.raises(ValueError, match="has no environment to learn in, give it one with set_env"):
        algorithm.load(files / algorithm.__name__, device="cpu").learn(32)


@pytest.mark.parametrize(
    ("algorithm", "n_envs", "options", "told"),
    [
        (LDM, 2, {"mixture_ratio": 0.125}, r"mixture_ratio=0.125: 1 of 2 .* share of 0.5. Use at least 8"),
        (LDM, 8, {"n_partners": 30}, "n_partners=30: there are 5 normal workers"),
        (LDM, 8, {}, None),
        (LDM, 2, {"mixture_ratio": 0.0}, None),
        (Mixreg, 1, {}, "n_envs=1: .*Mixreg trains as RL2"),
        (Mixreg, 2, {}, None),
        (VariBAD, 2, {"vae_batch_size": 20, "vae_buffer_size": 10}, "vae_batch_size=20: .*vae_buffer_size=10"),
    ],
)
def test_shares_that_there_cannot_be_are_told(algorithm, n_envs, options, told):
    with user_warnings() as seen:
        algorithm("MlpLstmPolicy", vec_env(Bandit, n_envs), device="cpu", **options)
    assert len(seen) == (told is not None)
    if told is not None:
        assert re.search(told, str(seen[0].message)) and seen[0].filename == __file__


def test_callbacks_find_the_names_that_stock_recurrent_ppo_has():
    class Names(BaseCallback):
        def _on_step(self):
            self.seen = {
                name: np.shape(value) for name, value in self.locals.items() if isinstance(value, (np.ndarray, th.Tensor))
            }
            self.names = set(self.locals)
            return True

    seen = []
    for algorithm, options in ((RecurrentPPO, {"n_steps": 8, "batch_size": 8}), (RL2, {})):
        callback = Names()
        algorithm("MlpLstmPolicy", vec_env(Drift, 2), device="cpu", **options).learn(16, callback)
        seen.append(callback)
    stock, own = seen
    # What is left of an episode's end, where SB3 asks for the value of a last observation, is nobody's to read.
    assert stock.names - own.names <= {"idx", "done_", "terminal_obs", "terminal_lstm_state", "terminal_value"}
    assert {name: shape for name, shape in own.seen.items() if name in stock.seen} == stock.seen


class Rows(KVWriter):
    """Keeps what is logged."""

    def __init__(self, rows):
        self.rows = rows

    def write(self, key_values, key_excluded, step=0):
        self.rows.append(dict(key_values))

    def close(self):
        pass


@pytest.mark.parametrize("env_id", DOMAINS)
def test_locomotion_has_the_spec_of_its_id(env_id):
    env = gym.make(env_id, task_split="test", horizon=5)
    assert env.spec is not None and env.spec.id == env_id
    again = gym.make(env.spec)
    assert again.get_wrapper_attr("task_split") == "test" and again.get_wrapper_attr("layout").max_episode_steps == 5
    check_env(env, skip_render_check=True)
    env.close()
    again.close()


def test_what_a_domain_says_itself_is_not_told_it():
    with pytest.raises(ValueError, match="terminate_when_unhealthy=True"):
        gym.make("AntGoal-v0", terminate_when_unhealthy=True)


def test_meta_episodes_of_another_length_are_warned_of():
    model = make(RL2)
    with pytest.warns(UserWarning, match="n_steps=8 cuts meta-episodes of 12 steps"):
        model.set_env(vec_env(Bandit, 4, episodes=3))


def test_what_has_no_tasks_is_named(tmp_path, monkeypatch):
    from sb3_ldm.train import main

    monkeypatch.setattr("sys.argv", ["train"])
    with pytest.raises(ValueError, match="is not that of a meta-episode"):
        main(["--algo", "rl2", "--env", "CartPole-v1", "-f", str(tmp_path), "-n", "100"])
