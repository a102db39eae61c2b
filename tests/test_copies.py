"""Models are copied in memory and sent to other processes."""

import copy
import pickle
import threading
import warnings

import gymnasium as gym
import numpy as np
import pytest
from helpers import Bandit, Drift, differing, grid_vec_env, parameters, vec_env, warns_here
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ldm import LDM, RL2, Mixreg, VariBAD
from sb3_ldm.envs.meta_episode import MetaEpisodeWrapper

WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}
ALGORITHMS = (RL2, Mixreg, LDM, VariBAD)


def make(algorithm, env, **options):
    if algorithm in (LDM, VariBAD):
        options = {"vae_batch_size": 3, "vae_updates": 1, "latent_dim": 3, **options}
    return algorithm("MlpLstmPolicy", env, seed=0, device="cpu", policy_kwargs={"lstm_hidden_size": 8}, **options)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("algorithm", "make_env"),
    [
        (RL2, lambda: grid_vec_env(4)),
        (Mixreg, lambda: vec_env(Bandit, 4)),
        (LDM, lambda: grid_vec_env(4)),
        (LDM, lambda: VecNormalize(vec_env(Drift, 4))),
        (VariBAD, lambda: VecNormalize(vec_env(Drift, 4))),
        (VariBAD, lambda: grid_vec_env(4)),
    ],
)
def test_a_copy_acts_and_trains_as_the_original_does(algorithm, make_env, way):
    model = make(algorithm, make_env())
    model.learn(4 * model.n_steps)
    other = WAYS[way](model)
    assert other.env is not model.env and other.env.unwrapped is not model.env.unwrapped
    obs = np.zeros((4, model.layout.dim), np.float32)
    actions = [one.predict(obs, deterministic=True)[0] for one in (model, other)]
    np.testing.assert_array_equal(*actions)
    for one in (model, other):
        one.set_random_seed(1)  # the global streams are everybody's
        one.learn(2 * 4 * model.n_steps, reset_num_timesteps=False)
    assert differing(parameters(model), parameters(other)) == []
    assert other.num_timesteps == model.num_timesteps == 3 * 4 * model.n_steps


class Locked(Bandit):
    """Cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize(("algorithm", "env", "subproc"), [(LDM, Bandit, True), (RL2, Locked, False)])
def test_a_copy_without_environments_is_given_some(algorithm, env, subproc):
    model = make(algorithm, vec_env(env, 2, subproc=subproc))
    model.learn(2 * model.n_steps)
    with warns_here("copy of the model has no environment.*set_env", __file__):
        other = copy.deepcopy(model)
    assert other.env is None
    other.set_env(vec_env(Bandit, 2))
    for one in (model, other):  # the original goes on, too
        one.learn(2 * model.n_steps, reset_num_timesteps=False)
        assert one.num_timesteps == 4 * model.n_steps
    model.env.close()


def test_a_model_that_logs_is_copied(tmp_path, capsys):
    model = make(RL2, vec_env(Bandit, 2), verbose=1, tensorboard_log=str(tmp_path))
    model.learn(2 * model.n_steps)
    other = copy.deepcopy(model)
    other.learn(2 * model.n_steps)
    assert len(list(tmp_path.iterdir())) == 2


class Remade(Bandit, gym.utils.EzPickle):
    """Its copies begin anew, as those of MuJoCo's environments do."""

    def __init__(self):
        Bandit.__init__(self)
        gym.utils.EzPickle.__init__(self)


def test_environments_that_are_copied_by_making_them_anew_are_reset():
    env = DummyVecEnv([lambda: Monitor(MetaEpisodeWrapper(Remade(), 2, max_episode_steps=4))] * 2)
    model = make(RL2, env, n_steps=8)
    model.learn(16)
    other = copy.deepcopy(model)
    assert other._last_obs is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.learn(16, reset_num_timesteps=False)
