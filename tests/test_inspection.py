"""Environments that do not fit together, and evaluations on the environments that an agent is trained in."""

import copy
import pickle
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers import Bandit, Drift, grid_vec_env, vec_env
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecCheckNan, VecEnv, VecMonitor, VecNormalize

from sb3_ldm import LDM, RL2, Mixreg, VariBAD
from sb3_ldm.envs import FiniteTaskDistribution
from sb3_ldm.envs.inspection import Watch
from sb3_ldm.envs.meta_episode import MetaEpisodeWrapper
from sb3_ldm.evaluation import evaluate_meta

SMALL = {"device": "cpu", "seed": 0, "policy_kwargs": {"lstm_hidden_size": 8}}


class Call(BaseCallback):
    """Calls a function of the model once, in step number ``n``."""

    def __init__(self, function: Callable, n: int = 5):
        super().__init__()
        self.function, self.n = function, n

    def _on_step(self):
        if self.n_calls == self.n:
            self.function(self.model)
        return True


WRAPPERS: dict[str, Callable[[VecEnv], VecEnv]] = {
    "plain": lambda env: env,
    "normalised": VecNormalize,
    "monitored": VecMonitor,
    "checked": lambda env: VecCheckNan(VecNormalize(env)),
}


@pytest.mark.filterwarnings("ignore:The environment is already wrapped")
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("backend", ["batched", "dummy"])
@pytest.mark.parametrize("algorithm", [RL2, Mixreg, LDM, VariBAD])
def test_sb3_s_evaluation_on_the_training_environment_is_refused(algorithm, backend, wrapper):
    model = algorithm("MlpLstmPolicy", WRAPPERS[wrapper](grid_vec_env(3, backend=backend)), **SMALL)
    own = model.get_env()
    evaluation = EvalCallback(own, eval_freq=5, n_eval_episodes=1, verbose=0)
    for callback in (evaluation, Call(lambda model: evaluate_policy(model, own.unwrapped, 1))):
        with pytest.raises(ValueError, match="evaluated the agent on the environments that it is trained in: use env"):
            model.learn(3 * 12, callback)
    model.learn(3 * 12)
    assert model.num_timesteps == 36


@pytest.mark.parametrize("algorithm", [RL2, LDM])
def test_it_is_refused_where_environments_are_processes(algorithm):
    model = algorithm("MlpLstmPolicy", VecNormalize(vec_env(Bandit, 1, subproc=True)), **SMALL)
    with pytest.raises(ValueError, match="evaluated the agent on the environments that it is trained in"):
        model.learn(3 * 8, Call(lambda model: evaluate_policy(model, model.get_env(), 1)))
    model.learn(3 * 8, Call(lambda model: evaluate_policy(model, VecNormalize(vec_env(Bandit, 1)), 1)))
    model.get_env().close()


MOVES: dict[str, Callable] = {
    "evaluate_policy": lambda model, env: evaluate_policy(model, env, 1),
    "another VecEnv": lambda model, env: evaluate_policy(model, DummyVecEnv([lambda: env]), 1),
    "a reset": lambda model, env: env.reset(),
    "a step": lambda model, env: env.step(0),
    "a method": lambda model, env: model.get_env().env_method("reset"),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped")
def test_an_environment_is_recognised_in_whatever_moves_it(move):
    env = MetaEpisodeWrapper(Bandit(), 2, max_episode_steps=4)
    model = RL2("MlpLstmPolicy", env, **SMALL)
    with pytest.raises(ValueError, match="evaluated the agent on the environments that it is trained in"):
        model.learn(2 * 8, Call(lambda model: MOVES[move](model, env)))


def test_what_moves_nothing_is_no_evaluation():
    def look(model):
        env = model.get_env()
        env.env_method("set_task_split", "test")
        env.get_attr("task")
        evaluate_policy(model, vec_env(Bandit, 2), 2)

    for subproc in (False, True):
        model = RL2("MlpLstmPolicy", vec_env(Bandit, 2 - subproc, subproc=subproc), **SMALL)
        model.learn(2 * 16, [Call(look, 3), EvalCallback(vec_env(Bandit, 1), eval_freq=4, n_eval_episodes=1, verbose=0)])
        assert model.num_timesteps == 2 * 16, "not stopped"
        model.get_env().close()


@pytest.mark.parametrize("algorithm", [RL2, Mixreg, LDM, VariBAD])
def test_training_goes_on_with_a_reset_after_an_evaluation_between_two_calls(algorithm):
    class Spy(BaseCallback):
        def _on_rollout_start(self):
            self.first = self.model._last_obs.copy()

        def _on_step(self):
            where = np.array([env.unwrapped.position for env in self.training_env.envs], dtype=np.float32)
            np.testing.assert_array_equal(self.model._last_obs[:, :2], where)
            return True

    model = algorithm("MlpLstmPolicy", vec_env(Drift, 2), **SMALL)
    model.learn(2 * 8 + 2, Spy())
    evaluate_policy(model, model.get_env(), 1)
    spy = Spy()
    model.learn(2 * 8, spy, reset_num_timesteps=False)
    assert not spy.first[:, 2:].any(), "a meta-episode's first observations"
    before = model._last_obs
    model._setup_learn(16, reset_num_timesteps=False)
    assert model._last_obs is before, "nobody has moved them since"


def test_copies_of_a_watch_look_after_nothing():
    watch = Watch(vec_env(Bandit, 1))
    assert copy.deepcopy({"watch": watch}) == pickle.loads(pickle.dumps({"watch": watch})) == {"watch": None}


def meta(make=Bandit, episodes=2, horizon=4):
    return lambda: MetaEpisodeWrapper(make(), episodes, max_episode_steps=horizon)


class TwoNumbers(Bandit):
    """Has tasks of two numbers."""

    def __init__(self):
        super().__init__()
        self.set_tasks(FiniteTaskDistribution({"train": [[0, 0], [1, 0]], "test": [[2, 0]]}), "train")


class MoreArms(Bandit):
    def __init__(self):
        super().__init__()
        self.action_space = spaces.Discrete(2)
        self.observation_space = spaces.Box(0, 1, (2,), dtype=np.float32)


@pytest.mark.parametrize(
    ("other", "vec_env_class", "message"),
    [
        (meta(episodes=3), DummyVecEnv, r"2 has layout=.*episodes_per_task=3.*sub-environment 0 has.*episodes_per_task=2"),
        (meta(horizon=5), SubprocVecEnv, r"2 has layout=.*max_episode_steps=5"),
        (meta(MoreArms), DummyVecEnv, r"2 has layout=.*state_dim=2, action_dim=2"),
        (meta(TwoNumbers), DummyVecEnv, r"2 has task_dim=2, but sub-environment 0 has task_dim=1"),
    ],
)
def test_workers_that_do_not_fit_are_named_before_any_work(other, vec_env_class, message):
    env = vec_env_class([meta(), meta(), other])
    for algorithm in (RL2, Mixreg, LDM, VariBAD):
        with pytest.raises(ValueError, match=f"sub-environment {message}"):
            algorithm("MlpLstmPolicy", env, **SMALL)
    model = RL2("MlpLstmPolicy", vec_env(Bandit, 3), **SMALL)
    for refused in (lambda: model.set_env(env), lambda: evaluate_meta(model, VecNormalize(env))):
        with pytest.raises(ValueError, match=f"sub-environment {message}"):
            refused()
    env.close()


def test_gymnasium_s_vectorised_environments_are_not_sb3_s(tmp_path):
    model = RL2("MlpLstmPolicy", grid_vec_env(2), **SMALL)
    model.save(tmp_path / "model")
    vector = gym.make_vec("GridNavi-v0", num_envs=2)
    for env in (vector, gym.wrappers.vector.RecordEpisodeStatistics(vector)):
        for refused in (
            lambda env: RL2("MlpLstmPolicy", env, device="cpu"),
            lambda env: VariBAD("MlpLstmPolicy", env, device="cpu"),
            model.set_env,
            lambda env: RL2.load(tmp_path / "model", env=env),
            lambda env: evaluate_meta(model, env),
        ):
            with pytest.raises(ValueError, match=r"gymnasium's vectorised environments .*sb3_ldm\.make_meta_vec_env"):
                refused(env)
