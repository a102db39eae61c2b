"""A run that was stopped and goes on ends as one that was not."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import PAPER, Bandit, Drift, assert_same_optimizer, differing, grid_vec_env, parameters, vec_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ldm import LDM, RL2, Mixreg, VariBAD, make_meta_vec_env
from sb3_ldm.data.training_state import pack, unpack
from sb3_ldm.evaluation.callbacks import LatestCheckpointCallback

N_ENVS = 4
NETWORK = {"vae_batch_size": 3, "vae_updates": 1, "latent_dim": 3, "dropout_rate": 0.5, "vae_buffer_size": 7}
IMAGINATION = {"mixture_ratio": 0.5, "n_partners": 2, "mixed_belief": "sample", "vae_buffer_keeps": "uniform"}
FINAL = {
    "mixture_time": "final",
    "imagination_dropout": "meta_episode",
    "reward_likelihood": "bernoulli",
    "bernoulli_rewards": (-0.1, 1.0),
    "n_candidates": 3,
}


def make(algorithm, env, **options):
    options = {"n_epochs": 2, "batch_size": 2 * env.observation_space.layout.meta_episode_steps, **options}
    if algorithm in (LDM, VariBAD):
        options = {**NETWORK, **(PAPER if algorithm is LDM else {}), "n_elbo_terms": 3, "n_decoded_steps": 4, **options}
    rates = {"learning_rate": LinearSchedule(1e-2, 0.0, 1.0), "ent_coef": LinearSchedule(0.1, 0.0, 1.0)}
    return algorithm("MlpLstmPolicy", env, seed=3, device="cpu", **{**rates, **options}, policy_kwargs={"lstm_hidden_size": 8})


class Stop(BaseCallback):
    def __init__(self, rollouts):
        super().__init__()
        self.rollouts = rollouts

    def _on_rollout_start(self):
        self.rollouts -= 1

    def _on_step(self):
        return self.rollouts >= 0


def assert_resumes(tmp_path, algorithm, make_env, rollouts=4, stop=2, **options):
    def steps(model):
        return model.n_steps * N_ENVS

    whole = make(algorithm, make_env(), **options)
    checkpoint = LatestCheckpointCallback(stop * steps(whole), tmp_path / "run")
    checkpoint.on_save = lambda model: setattr(checkpoint, "save_freq", 10**9)  # the first one alone
    whole.learn(rollouts * steps(whole), checkpoint)

    np.random.seed(99)
    th.manual_seed(99)
    env = make_env()
    if isinstance(env, VecNormalize):
        env = VecNormalize.load(str(tmp_path / "run" / "vecnormalize.pkl"), env.venv)
    resumed = algorithm.load(tmp_path / "run" / "checkpoint.zip", env=env, device="cpu")
    if algorithm in (LDM, VariBAD):
        resumed.load_replay_buffer(tmp_path / "run" / "checkpoint_replay_buffer.pkl")
    assert resumed.num_timesteps == stop * steps(resumed) and resumed.resumes
    resumed.learn((rollouts - stop) * steps(resumed), reset_num_timesteps=False)

    assert resumed.num_timesteps == whole.num_timesteps
    assert differing(parameters(whole), parameters(resumed)) == []
    assert_same_optimizer(whole.policy.optimizer.state_dict(), resumed.policy.optimizer.state_dict())
    np.testing.assert_array_equal(whole._last_obs, resumed._last_obs)
    assert [(one["r"], one["l"]) for one in whole.ep_info_buffer] == [(one["r"], one["l"]) for one in resumed.ep_info_buffer]
    if algorithm in (LDM, VariBAD):
        indices = np.arange(len(whole.replay_buffer))
        assert th.equal(whole.replay_buffer.get(indices).rewards, resumed.replay_buffer.get(indices).rewards)
    if isinstance(env, VecNormalize):
        np.testing.assert_array_equal(whole.env.returns, resumed.env.returns)
        np.testing.assert_array_equal(whole.env.obs_rms.mean, resumed.env.obs_rms.mean)
    return whole, resumed


@pytest.mark.filterwarnings("ignore:n_steps", "ignore:batch_size", "ignore:mixture_ratio", "ignore:n_partners")
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("make_env", [grid_vec_env, lambda n: grid_vec_env(n, backend="dummy"), lambda n: vec_env(Drift, n)])
@pytest.mark.parametrize(
    ("algorithm", "options"), [(RL2, {}), (Mixreg, {}), (VariBAD, {}), (LDM, IMAGINATION), (LDM, {**IMAGINATION, **FINAL})]
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(algorithm, options, make_env, cut, tmp_path):
    if "reward_likelihood" in options and isinstance(make_env(1).action_space, gym.spaces.Box):
        pytest.skip("rewards of more than two values")
    if cut:  # rollouts end in the midst of meta-episodes
        options = {**options, "n_steps": 9, "batch_size": None}
    assert_resumes(tmp_path, algorithm, lambda: make_env(N_ENVS), **options)


@pytest.mark.parametrize(("algorithm", "options"), [(RL2, {"use_sde": True}), (VariBAD, {}), (LDM, IMAGINATION)])
def test_a_run_with_normalisation_goes_on(algorithm, options, tmp_path):
    assert_resumes(tmp_path, algorithm, lambda: VecNormalize(vec_env(Drift, N_ENVS)), **options)


@pytest.mark.filterwarnings("ignore:n_steps", "ignore:mixture_ratio")
@pytest.mark.parametrize(("algorithm", "env_id"), [(RL2, "AntDirection-v0"), (LDM, "HalfCheetahVelocity-v0")])
def test_a_run_of_robots_goes_on(algorithm, env_id, tmp_path):
    pytest.importorskip("mujoco")
    options = {**IMAGINATION, "n_steps": 9} if algorithm is LDM else {"n_steps": 9}  # in the midst of episodes
    make_env = partial(make_meta_vec_env, env_id, N_ENVS, seed=0, env_kwargs={"horizon": 6})
    assert_resumes(tmp_path, algorithm, make_env, batch_size=None, **options)


def test_a_run_in_processes_goes_on(tmp_path):
    whole, resumed = assert_resumes(tmp_path, LDM, lambda: vec_env(Bandit, N_ENVS, subproc=True), 3, 1, **IMAGINATION)
    for model in (whole, resumed):
        model.env.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model whose beliefs are there, and its file."""
    path = tmp_path_factory.mktemp("run") / "model"
    model = make(LDM, grid_vec_env(N_ENVS), **IMAGINATION, mixture_time="final", reward_likelihood="gaussian")
    model.learn(2 * N_ENVS * model.n_steps)
    model.save(path)
    return model, path


@pytest.mark.parametrize(
    "way",
    [
        {"force_reset": True},
        {"env": grid_vec_env(N_ENVS, task_split="test")},
        {"env": grid_vec_env(N_ENVS, backend="dummy")},
        {"env": grid_vec_env(N_ENVS, episodes=3)},
    ],
)
@pytest.mark.filterwarnings("ignore:n_steps")
def test_other_environments_are_reset_and_imagined_in_at_once(run, way):
    _, path = run
    loaded = LDM.load(path, **{"env": grid_vec_env(N_ENVS, seed=5), "device": "cpu", **way})
    assert not loaded.resumes
    loaded._setup_learn(100, reset_num_timesteps=False)
    assert not loaded._last_obs[:, loaded.layout.reward_index].any() and loaded._last_episode_starts.all()
    assert loaded.mixture_env.imagining.all()  # with the final beliefs of before


def test_environments_that_are_seeded_after_loading_begin_anew(run):
    _, path = run
    loaded = LDM.load(path, env=grid_vec_env(N_ENVS), device="cpu")
    assert loaded.resumes
    loaded.env.seed(11)
    assert not loaded.resumes
    loaded._setup_learn(100, reset_num_timesteps=False)
    fresh = grid_vec_env(N_ENVS, seed=11)
    fresh.reset()
    np.testing.assert_array_equal(loaded.env.get_attr("task"), fresh.get_attr("task"))


def test_learning_from_the_start_resets(run):
    _, path = run
    loaded = LDM.load(path, env=grid_vec_env(N_ENVS, seed=5), device="cpu")
    loaded._setup_learn(100)
    fresh = grid_vec_env(N_ENVS, seed=3)  # a model seeds its environments
    fresh.reset()
    np.testing.assert_array_equal(loaded.env.get_attr("task"), fresh.get_attr("task"))
    assert loaded.num_timesteps == 0


def test_a_model_that_is_loaded_and_saved_again_still_resumes(run, tmp_path):
    _, path = run
    LDM.load(path, device="cpu").save(tmp_path / "again")
    loaded = LDM.load(tmp_path / "again", device="cpu")
    loaded.set_env(grid_vec_env(N_ENVS))
    assert loaded.resumes


def test_environments_that_do_not_tell_their_state_are_reset(tmp_path):
    class Remade(Bandit, gym.utils.EzPickle):
        """Its copies begin anew, as those of MuJoCo's environments do."""

        def __init__(self):
            Bandit.__init__(self)
            gym.utils.EzPickle.__init__(self)

    model = make(RL2, vec_env(Remade, N_ENVS))
    model.learn(N_ENVS * model.n_steps)
    model.save(tmp_path / "model")
    loaded = RL2.load(tmp_path / "model", env=vec_env(Remade, N_ENVS), device="cpu")
    assert not loaded.resumes
    loaded.learn(N_ENVS * model.n_steps, reset_num_timesteps=False)
    assert loaded.num_timesteps == 2 * model.num_timesteps


def test_closed_environments_do_not_keep_a_model_from_being_saved(tmp_path):
    model = make(RL2, vec_env(Bandit, N_ENVS, subproc=True))
    model.learn(N_ENVS * model.n_steps)
    model.env.close()
    model.save(tmp_path / "model")
    assert not RL2.load(tmp_path / "model", env=vec_env(Bandit, N_ENVS), device="cpu").resumes


def test_a_model_saved_in_a_step_that_failed_does_not_take_the_environments_for_what_they_are_not(tmp_path):
    class Fails(Bandit):
        def step(self, action):
            if self.np_random.random() < 0.1:
                raise ConnectionError
            return super().step(action)

    model = make(RL2, vec_env(Fails, N_ENVS))
    with pytest.raises(ConnectionError):
        model.learn(100 * N_ENVS * model.n_steps)
    model.save(tmp_path / "model")
    assert not RL2.load(tmp_path / "model", env=vec_env(Fails, N_ENVS), device="cpu").resumes


def test_a_state_is_kept_without_pickling():
    state = {
        "numbers": (1, 2.5, None, True, "text", float("inf"), 2**100),
        "tensor": th.arange(6).reshape(2, 3),
        "nested": [{"array": np.array([[True], [False]])}, [], {}, ()],
        "scalar": np.float64(0.1),
    }
    again = unpack(pack(state), "state")
    assert again["numbers"] == state["numbers"] and again["scalar"] == 0.1
    assert th.equal(again["tensor"], state["tensor"])
    np.testing.assert_array_equal(again["nested"][0]["array"], state["nested"][0]["array"])
    assert again["nested"][1:] == [[], {}, ()]


def test_training_mujoco_goes_on_from_a_reset(tmp_path):
    pytest.importorskip("mujoco")
    env_kwargs = {"episodes_per_task": 1, "horizon": 3}

    def make_env():
        return make_meta_vec_env("HalfCheetahVelocity-v0", 2, seed=0, backend="dummy", env_kwargs=env_kwargs)

    model = RL2("MlpLstmPolicy", make_env(), seed=0, device="cpu")
    model.learn(6)
    model.save(tmp_path / "model")
    loaded = RL2.load(tmp_path / "model", env=make_env(), device="cpu")
    assert not loaded.resumes and loaded.learn(6, reset_num_timesteps=False).num_timesteps == 12
