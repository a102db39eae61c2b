"""The meta-evaluation: what it measures, and that it leaves everything as it was."""

import csv
import random
from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import Bandit, Drift, differing, grid_vec_env, parameters, user_warnings, vec_env
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ldm import LDM, RL2, Mixreg, VariBAD, make_meta_vec_env
from sb3_ldm.data import MetaEpisodeBuffer
from sb3_ldm.data.probes import visited_probes
from sb3_ldm.envs import FiniteTaskDistribution
from sb3_ldm.envs.tasks import TaskProbes
from sb3_ldm.evaluation import evaluate_meta, record_meta, task_distribution_of
from sb3_ldm.evaluation.callbacks import MetaEvalCallback, split_label
from sb3_ldm.results import load_paths
from sb3_ldm.results.evaluation_table import EVALUATION_COLUMNS, drop_evaluations_after, load_evaluations
from sb3_ldm.zoo.recordings import has_positions, save_paths

STAY, UP, RIGHT = 0, 1, 2


class Scripted:
    """An agent that follows a function of the states and tasks that it is shown; keeps what it was called with."""

    def __init__(self, env, act):
        self.env, self.act = env, act
        self.layout = env.observation_space.layout
        self.observations, self.starts = [], []

    def predict(self, obs, state=None, episode_start=None, deterministic=False):
        self.observations.append(obs.copy())
        self.starts.append(episode_start.copy())
        tasks = np.array(self.env.get_attr("task"))
        return self.act(obs[:, self.layout.state], tasks), state


def walk_to_goal(states, tasks):
    """The shortest way: first up, then right."""
    return np.where(states[:, 1] < tasks[:, 1], UP, np.where(states[:, 0] < tasks[:, 0], RIGHT, STAY))


@pytest.mark.parametrize(("split", "best", "n_tasks"), [("train", 23.28, 18), ("test", 24.50, 27)])
@pytest.mark.parametrize("backend", ["batched", "dummy"])
def test_an_oracle_reaches_the_best_possible_returns(split, best, n_tasks, backend):
    env = grid_vec_env(9, episodes=2, horizon=30, backend=backend)
    result = evaluate_meta(Scripted(env, walk_to_goal), env, split)
    tasks = task_distribution_of(env).tasks(split)
    np.testing.assert_array_equal(result.tasks, tasks)
    # each step on the way costs 0.1, each step on the goal pays 1
    way = tasks.sum(axis=1)
    expected = 1.0 * (31 - way) - 0.1 * (way - 1)
    np.testing.assert_allclose(result.returns, np.stack([expected, expected], axis=1), rtol=1e-6)
    assert result.mean_returns == pytest.approx([best, best], abs=0.005)
    assert (result.lengths == 30).all() and result.lengths.shape == (n_tasks, 2)
    assert result.successes.all() and result.n_reached == n_tasks


def test_an_agent_that_stays_finds_nothing():
    env = grid_vec_env(9, episodes=2, horizon=30)
    result = evaluate_meta(Scripted(env, lambda states, tasks: np.zeros(len(states), dtype=int)), env, "test")
    assert result.mean_returns == pytest.approx([-3.0, -3.0]) and result.n_reached == 0


def test_reached_tasks_count_by_the_last_episode_and_per_task():
    class FirstEpisodeOnly(Scripted):
        def predict(self, obs, **kwargs):
            actions, state = super().predict(obs, **kwargs)
            first_episode = (len(self.observations) - 1) % 12 < 6
            return (actions if first_episode else np.zeros_like(actions)), state

    env = grid_vec_env(2, episodes=2, horizon=6)
    tasks = np.array([[2, 0], [0, 2], [6, 6]])  # the last one is too far for 6 steps
    result = evaluate_meta(Scripted(env, walk_to_goal), env, tasks=tasks, n_repeats=3)
    assert result.n_reached == pytest.approx(2.0)  # tasks, not meta-episodes
    lazy = evaluate_meta(FirstEpisodeOnly(env, walk_to_goal), env, tasks=tasks)
    assert lazy.successes[:2].tolist() == [[True, False]] * 2 and lazy.n_reached == 0.0


@pytest.mark.parametrize("n_envs", [1, 4, 7])
@pytest.mark.parametrize("n_repeats", [1, 3])
def test_every_task_is_run_as_often_as_asked(n_envs, n_repeats):
    env = grid_vec_env(n_envs, episodes=1, horizon=4)
    tasks = task_distribution_of(env).tasks("train")[:5]
    result = evaluate_meta(Scripted(env, walk_to_goal), env, tasks=tasks, n_repeats=n_repeats)
    rows, counts = np.unique(result.tasks, axis=0, return_counts=True)
    np.testing.assert_array_equal(rows, np.unique(tasks, axis=0))
    assert (counts == n_repeats).all() and result.returns.shape == (5 * n_repeats, 1)
    # each row's return is that of its own task
    way = result.tasks.sum(axis=1)
    expected = np.where(way <= 4, (5.0 - way) - 0.1 * (way - 1), -0.4)
    np.testing.assert_allclose(result.returns[:, 0], expected, rtol=1e-6)


def test_recurrent_states_are_reset_with_the_meta_episode_only():
    env = grid_vec_env(2, episodes=2, horizon=3)
    agent = Scripted(env, walk_to_goal)
    evaluate_meta(agent, env, tasks=np.array([[2, 0], [0, 2], [2, 2]]))
    starts = np.array(agent.starts)
    assert len(starts) == 12 and starts[0].all() and starts[6].all() and starts.sum() == 4


def random_agent(env, **options):
    return RL2("MlpLstmPolicy", env, seed=3, device="cpu", **options)


def test_the_same_seed_gives_the_same_result_whatever_ran_before():
    model = random_agent(vec_env(Drift, 2, 2, 5))
    tasks = np.array([[0.1], [0.3], [-0.2]])
    env = vec_env(Drift, 2, 2, 5, seed=9)
    one = evaluate_meta(model, env, tasks=tasks, seed=4)
    np.random.seed(1)
    th.manual_seed(1)
    two = evaluate_meta(model, env, tasks=tasks, seed=4)
    other_env = evaluate_meta(model, vec_env(Drift, 2, 2, 5, seed=10), tasks=tasks, seed=4)
    other_seed = evaluate_meta(model, env, tasks=tasks, seed=5)
    np.testing.assert_array_equal(one.returns, two.returns)
    np.testing.assert_array_equal(one.lengths, other_env.lengths)
    np.testing.assert_array_equal(one.returns, other_env.returns)
    assert not np.array_equal(one.returns, other_seed.returns)
    assert one.successes is None and one.n_reached is None  # Drift knows no success


def test_deterministic_actions_do_not_depend_on_the_seed():
    model = random_agent(vec_env(Bandit, 2))
    env = vec_env(Bandit, 3, seed=1)
    returns = [evaluate_meta(model, env, "train", deterministic=True, seed=seed).returns for seed in (0, 1)]
    np.testing.assert_array_equal(*returns)
    returns = [evaluate_meta(model, env, "train", n_repeats=5, seed=seed).returns for seed in (0, 1)]
    assert not np.array_equal(*returns)


def test_random_streams_are_put_back():
    env = grid_vec_env(2)
    model = random_agent(grid_vec_env(2))
    th_before, np_before = th.random.get_rng_state(), np.random.get_state()
    evaluate_meta(model, env, "test", seed=11)
    assert th.equal(th.random.get_rng_state(), th_before)
    for one, two in zip(np.random.get_state(), np_before, strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_an_environment_draws_in_an_evaluation_is_not_missed_outside():
    """Third-party environments draw from NumPy's global stream, which decides over minibatches of the training."""

    class Noisy(Bandit):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            return obs, reward + np.random.normal(), *rest

    env, model = vec_env(Noisy, 2), random_agent(vec_env(Bandit, 2))
    drawn = []
    for evaluates in (False, True):
        np.random.seed(5)
        if evaluates:
            evaluate_meta(model, env, "train")
        drawn.append(np.random.random(3).tolist())
    assert drawn[0] == drawn[1]


def test_recorded_meta_episodes_are_whole_in_spite_of_early_ends():
    model = random_agent(vec_env(Drift, 3, 2, 5))
    env = vec_env(Drift, 3, 2, 5)
    layout = env.observation_space.layout
    recorder = MetaEpisodeBuffer(200, layout, 3)
    tasks = np.arange(30)[:, None] / 100.0
    result = evaluate_meta(model, env, tasks=tasks, recorder=recorder)
    batch = recorder.get(np.arange(len(recorder)))
    stored = {
        (length, round(float(total), 3))
        for length, total in zip(batch.mask.sum(0), (batch.rewards * batch.mask).sum(0), strict=True)
    }
    for lengths, returns in zip(result.lengths, result.returns, strict=True):
        assert any(length == lengths.sum() and abs(total - returns.sum()) < 0.01 for length, total in stored)
    assert len(recorder) == len(tasks), "only meta-episodes that were asked for"
    # within a meta-episode a state is the one that the step before led to, or that of a reset: at most 2 resets
    jumps = (batch.states[1:] != batch.next_states[:-1]).any(-1) & (batch.mask[1:] > 0)
    assert int(jumps.sum(0).max()) <= 1


# VecNormalize


def normalized(n_envs, seed=0, **kwargs):
    return VecNormalize(vec_env(Drift, n_envs, 2, 5, seed), **kwargs)


def test_the_agent_sees_the_training_statistics_and_they_do_not_change():
    model = random_agent(normalized(2))
    model.learn(200)
    train, env = model.get_env(), normalized(3, seed=5)
    before = (train.obs_rms.mean.copy(), train.obs_rms.var.copy(), float(train.ret_rms.var), train.obs_rms.count)
    seen = []
    predict = model.predict
    model.predict = lambda obs, **kwargs: seen.append((obs.copy(), env.get_original_obs())) or predict(obs, **kwargs)
    first = evaluate_meta(model, env, tasks=np.array([[0.1], [0.2], [0.3]]))
    assert (train.obs_rms.mean == before[0]).all() and (train.obs_rms.var == before[1]).all()
    assert (float(train.ret_rms.var), train.obs_rms.count) == before[2:]
    for obs, original in seen:
        np.testing.assert_array_equal(obs, train.normalize_obs(original))
    np.testing.assert_array_equal(env.obs_rms.mean, train.obs_rms.mean)
    assert env.training and train.training
    again = evaluate_meta(model, env, tasks=np.array([[0.1], [0.2], [0.3]]))
    np.testing.assert_array_equal(first.returns, again.returns)


def test_returns_are_true_ones_in_spite_of_normalisation():
    env = VecNormalize(grid_vec_env(3, episodes=1, horizon=10))
    env.ret_rms.var = np.array(1e4)
    agent = Scripted(env, lambda states, tasks: np.zeros(len(states), dtype=int))
    result = evaluate_meta(agent, env, tasks=np.array([[2, 0], [3, 3]]))
    assert result.returns.tolist() == pytest.approx(np.full((2, 1), -1.0))
    recorder = MetaEpisodeBuffer(5, agent.layout, 3)
    evaluate_meta(agent, env, tasks=np.array([[2, 0]]), recorder=recorder)
    assert recorder.get(np.array([0])).rewards[:, 0].tolist() == pytest.approx([-0.1] * 10)


def test_a_missing_vec_normalize_is_reported():
    model = random_agent(normalized(2))
    with pytest.raises(ValueError, match="VecNormalize"):
        evaluate_meta(model, vec_env(Drift, 2, 2, 5), tasks=np.array([[0.1]]))


def told(action):
    """The warnings and the error of a call, as one text."""
    with user_warnings() as seen:
        try:
            action()
        except ValueError as error:
            return str(error)
    return " ".join(str(one.message) for one in seen)


TASKS = np.array([[0.1], [0.3]])
OTHERS = {
    "none": lambda: vec_env(Drift, 2, 2, 5),
    "of rewards alone": lambda: normalized(2, norm_obs=False),
    "fresh": lambda: normalized(2),
    "fresh and frozen": lambda: normalized(2, training=False),
}
NORMALISED = ("fresh", "fresh and frozen")


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("algorithm", [RL2, Mixreg, LDM, VariBAD])
def test_a_saved_agent_knows_whether_it_was_trained_with_normalised_observations(algorithm, other, tmp_path):
    small = {"device": "cpu", "seed": 0, "policy_kwargs": {"lstm_hidden_size": 8}}
    model = algorithm("MlpLstmPolicy", normalized(2), **small)
    assert "VecNormalize" not in told(lambda: model.learn(20))
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    with pytest.raises(ValueError, match=r"VecNormalize.*the model was trained with"):
        evaluate_meta(loaded, OTHERS[other](), tasks=TASKS)
    with pytest.warns(UserWarning, match=r"VecNormalize.*the model was trained with"):
        again = algorithm.load(tmp_path / "model", env=OTHERS[other](), device="cpu")
    with pytest.raises(ValueError, match=r"VecNormalize.*the model was trained with"):
        evaluate_meta(again, OTHERS[other](), tasks=TASKS)
    if other in NORMALISED:  # the run goes on with the statistics that it had
        assert "VecNormalize" not in told(lambda: again.learn(20, reset_num_timesteps=False))
        assert again.get_vec_normalize_env().obs_rms.count >= model.get_vec_normalize_env().obs_rms.count
    else:
        with pytest.warns(UserWarning, match=r"VecNormalize.*the model was trained with"):
            again.learn(20, reset_num_timesteps=False)
    assert again.trained_normalized == (other in NORMALISED)
    with pytest.warns(UserWarning, match=r"VecNormalize.*the model was trained with"):
        model.set_env(OTHERS[other]())


def test_the_training_s_statistics_are_all_that_a_loaded_agent_needs(tmp_path):
    model = random_agent(normalized(2)).learn(40)
    model.get_env().save(str(tmp_path / "vecnormalize.pkl"))
    model.save(tmp_path / "model")
    expected = evaluate_meta(model, normalized(2), tasks=TASKS)

    def with_statistics():
        return VecNormalize.load(str(tmp_path / "vecnormalize.pkl"), vec_env(Drift, 2, 2, 5))

    def use():
        alone = RL2.load(tmp_path / "model", device="cpu")
        np.testing.assert_array_equal(evaluate_meta(alone, with_statistics(), tasks=TASKS).returns, expected.returns)
        # What it is given for training has nothing to lend yet.
        for own in (with_statistics(), None):
            loaded = RL2.load(tmp_path / "model", env=own, device="cpu")
            np.testing.assert_array_equal(evaluate_meta(loaded, with_statistics(), tasks=TASKS).returns, expected.returns)
        loaded = RL2.load(tmp_path / "model", env=with_statistics(), device="cpu")
        np.testing.assert_array_equal(evaluate_meta(loaded, normalized(2), tasks=TASKS).returns, expected.returns)
        loaded.learn(20, MetaEvalCallback(normalized(2), ("train",)), reset_num_timesteps=False)

    assert told(use) == ""
    with pytest.warns(UserWarning, match="has seen no observations"):
        fresh = RL2.load(tmp_path / "model", env=normalized(2), device="cpu")
    np.testing.assert_array_equal(evaluate_meta(fresh, with_statistics(), tasks=TASKS).returns, expected.returns)


@pytest.mark.parametrize("other", NORMALISED)
def test_an_agent_of_observations_as_they_are_is_not_shown_normalised_ones(other, tmp_path):
    model = random_agent(normalized(2, norm_obs=False))
    model.learn(20)
    model.save(tmp_path / "model")
    loaded = RL2.load(tmp_path / "model", device="cpu")
    for agent in (model, loaded):
        with pytest.raises(ValueError, match="VecNormalize, but the model was trained on observations as they are"):
            evaluate_meta(agent, OTHERS[other](), tasks=TASKS)
        for same in ("none", "of rewards alone"):
            assert evaluate_meta(agent, OTHERS[same](), tasks=TASKS).returns.shape == (2, 2)
    with pytest.warns(UserWarning, match="trained on observations as they are"):
        RL2.load(tmp_path / "model", env=OTHERS[other](), device="cpu")


def test_files_that_do_not_say_how_an_agent_was_trained_load_as_ever(tmp_path):
    model = random_agent(normalized(2)).learn(20)
    model.save(tmp_path / "model", exclude=["trained_normalized"])

    def use():
        loaded = RL2.load(tmp_path / "model", env=vec_env(Drift, 2, 2, 5), device="cpu")
        assert loaded.trained_normalized is None
        for other in OTHERS.values():
            evaluate_meta(loaded, other(), tasks=TASKS)
        loaded.learn(20)

    assert told(use) == ""


def test_an_evaluation_leaves_every_random_stream_and_statistic_as_it_was():
    class Careless(Drift):
        """Draws from everybody's streams."""

        def step(self, action):
            random.random(), np.random.random(), th.rand(1)
            return super().step(action)

    model = random_agent(VecNormalize(vec_env(Careless, 2, 2, 5)))
    model.learn(20)
    normalizer = model.get_env()
    env = VecNormalize(vec_env(Careless, 3, 2, 5))

    def everything():
        rms = normalizer.obs_rms, normalizer.ret_rms
        numbers = [number for one in rms for number in (one.mean.tolist(), one.var.tolist(), one.count)]
        streams = random.getstate(), np.random.get_state()[1].tolist(), th.random.get_rng_state().tolist()
        episodes = [dict(info) for info in model.ep_info_buffer], model.num_timesteps
        return numbers, streams, episodes, normalizer.training, env.training

    before = everything()
    evaluate_meta(model, env, tasks=TASKS)
    assert everything() == before

    class Interrupted(Scripted):
        def predict(self, obs, **kwargs):
            random.random(), np.random.random(), th.rand(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_meta(Interrupted(env, None), env, tasks=TASKS)
    assert everything() == before


def test_the_statistics_of_every_vec_normalize_are_frozen():
    inner = normalized(2, norm_obs=False)
    outer = VecNormalize(inner, norm_reward=False)
    model = random_agent(outer).learn(20)

    def statistics():
        counts = inner.ret_rms.count, outer.ret_rms.count, outer.obs_rms.count
        return *counts, inner.ret_rms.var.tolist(), outer.obs_rms.mean.tolist(), inner.training, outer.training

    before = statistics()
    evaluate_meta(model, outer, tasks=TASKS)
    assert statistics() == before and inner.training


def test_a_registered_id_is_made():
    model = random_agent(grid_vec_env(2, horizon=30))
    result = evaluate_meta(model, "GridNavi-v0", tasks=np.array([[2, 0], [6, 6]]))
    assert result.lengths.tolist() == [[30] * 4] * 2
    callback = MetaEvalCallback("GridNavi-v0", ("train",))
    assert callback.env.num_envs == 16
    for env in ("CartPole-v1", 3, None, [model]):
        with pytest.raises(ValueError, match=r"is not that of a meta-episode|is no environment"):
            evaluate_meta(model, env)


@pytest.mark.parametrize(
    "tasks", [np.array([1.0, 2.0]), np.zeros((2, 1)), np.zeros((2, 3)), np.array([["a", "b"]]), np.array([[None, None]]), 3.0]
)
def test_tasks_that_are_no_rows_of_numbers_are_named(tasks):
    env = grid_vec_env(2)
    with pytest.raises(ValueError, match=r"tasks have shape .* expected numbers of shape \(n, 2\)"):
        evaluate_meta(Scripted(env, walk_to_goal), env, tasks=tasks)


# Other agents, wrong use


def test_agents_without_a_memory_can_be_evaluated():
    env = grid_vec_env(4)
    model = PPO("MlpPolicy", env, n_steps=12, batch_size=48, seed=0, device="cpu")
    result = evaluate_meta(model, grid_vec_env(4), "train")
    assert result.returns.shape == (18, 2)


def test_wrong_use_is_reported():
    env = grid_vec_env(2)
    agent = Scripted(env, walk_to_goal)
    with pytest.raises(ValueError, match="n_repeats=0"):
        evaluate_meta(agent, env, n_repeats=0)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate_meta(agent, env, tasks=np.zeros((0, 2)))
    with pytest.raises(ValueError, match="split='unseen'"):
        evaluate_meta(agent, env, "unseen")
    with pytest.raises(ValueError, match="MetaEpisodeWrapper"):
        evaluate_meta(agent, PPO("MlpPolicy", "CartPole-v1", device="cpu").get_env())


# The callback


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_callback_writes_and_logs_what_it_measures(tmp_path):
    model = random_agent(vec_env(Bandit, 2), tensorboard_log=None)
    env = vec_env(Bandit, 2, seed=5)
    callback = MetaEvalCallback(
        env, eval_freq=32, n_repeats=2, log_path=tmp_path / "log", best_model_save_path=tmp_path / "best", deterministic=True
    )
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(64, callback=callback)
    written_log = read(tmp_path / "progress.csv")[-1]  # the last evaluation is logged, too
    rows = read(tmp_path / "log" / "evaluations.csv")
    assert tuple(rows[0]) == EVALUATION_COLUMNS
    # at the end of the first rollout (16 steps), then 32 steps later, then at the end; 3 tasks twice, 2 episodes
    assert sorted({int(row["timesteps"]) for row in rows}) == [16, 48, 64]
    assert len(rows) == 3 * (2 + 1) * 2 * 2
    last = [row for row in rows if row["timesteps"] == "64"]
    for split, evaluation in callback.last_evaluations.items():
        mine = [row for row in last if row["split"] == split]
        written = np.array([float(row["return"]) for row in mine]).reshape(-1, 2)
        np.testing.assert_array_equal(written, evaluation.returns)
        tasks = np.array([float(row["task"]) for row in mine]).reshape(-1, 2)[:, :1]
        np.testing.assert_array_equal(tasks, evaluation.tasks)
        np.testing.assert_array_equal([int(row["success"]) for row in mine], evaluation.successes.flatten())
        assert [row["episode"] for row in mine[:2]] == ["1", "2"] and {row["length"] for row in mine} == {"4"}
        assert {row["deterministic"] for row in mine} == {"1"}
        logged = [float(written_log[f"eval/{split}_return_{k}"]) for k in (1, 2)]
        assert logged == evaluation.mean_returns.tolist()
        assert float(written_log[f"eval/{split}_reached"]) == evaluation.n_reached
    best = RL2.load(tmp_path / "best" / "best_model", device="cpu")
    score = evaluate_meta(best, env, "train", n_repeats=2, deterministic=True).mean_returns[-1]
    assert score == pytest.approx(callback.best_mean_return)


@pytest.mark.parametrize("logged", [1e3, -1e3])
def test_the_best_model_of_an_interrupted_run_stays_until_a_better_one_comes(tmp_path, logged):
    model = random_agent(vec_env(Bandit, 2))
    model.learn(16)
    model.save(tmp_path / "best_model")
    before = model.num_timesteps
    rows = [
        [16, split, 0, 0, k, value if k == 2 else 2e3, 4, ""]
        for split, value in (("train", logged), ("test", 5e3))
        for k in (1, 2)
    ]
    with open(tmp_path / "evaluations.csv", "w", newline="") as file:
        csv.writer(file).writerows([EVALUATION_COLUMNS, *rows])
        file.write("16,train,0,0,2,9")  # was being written
    table = load_evaluations(tmp_path / "evaluations.csv")
    assert [values.tolist() for values in table.select("train", False).last_returns()] == [[16], [logged]]
    assert [len(values) for values in table.select("train", True).last_returns()] == [0, 0]
    drop_evaluations_after(tmp_path / "evaluations.csv", 16)
    callback = MetaEvalCallback(vec_env(Bandit, 1), eval_freq=16, log_path=tmp_path, best_model_save_path=tmp_path)
    model.learn(32, callback=callback, reset_num_timesteps=False)
    best = RL2.load(tmp_path / "best_model", device="cpu")
    assert (best.num_timesteps == before) == (logged > 0)
    assert not list(tmp_path.glob("partial_*"))


def test_the_callback_evaluates_again_when_the_model_counts_from_0_again():
    model = random_agent(vec_env(Bandit, 2))
    callback = MetaEvalCallback(vec_env(Bandit, 1), eval_freq=32)
    times = []
    evaluate = callback.evaluate
    callback.evaluate = lambda: (times.append(model.num_timesteps), evaluate())
    model.learn(96, callback=callback)
    first = list(times)
    times.clear()
    model.learn(96, callback=callback)
    assert times == first and len(first) == 4


def test_training_goes_on_in_other_tasks_after_an_evaluation_on_its_own_environments():
    class Tasks(BaseCallback):
        def _on_rollout_end(self):
            met.append(tuple(tuple(task) for task in self.training_env.get_attr("task")))

        def _on_step(self):
            return True

    runs = []
    for _ in range(2):
        met = []
        model = RL2("MlpLstmPolicy", grid_vec_env(4), seed=0, device="cpu")
        for _ in range(3):
            model.learn(4 * 12, Tasks(), reset_num_timesteps=False)
            evaluate_meta(model, model.get_env(), "train")
        runs.append(met)
    assert runs[0] == runs[1] and len(set(runs[0])) == 3
    with pytest.raises(ValueError, match="environments of their own"):
        model.learn(48, MetaEvalCallback(VecNormalize(model.get_env().unwrapped)))


@pytest.mark.parametrize("moment", ["_on_step", "_on_rollout_end"])
def test_an_environment_is_recognised_in_another_vec_env(moment):
    env = gym.make("GridNavi-v0", horizon=4, episodes_per_task=2)
    model = RL2("MlpLstmPolicy", env, seed=0, device="cpu").learn(8)
    with pytest.raises(ValueError, match="environments of their own"):
        model.learn(8, MetaEvalCallback(env))
    evaluate_meta(model, env, "train")
    assert model._last_obs is None

    class Evaluate(BaseCallback):
        def _on_step(self):
            return True

    setattr(Evaluate, moment, lambda self: evaluate_meta(self.model, self.training_env, "train") is not None)
    with pytest.raises(ValueError, match="environments of their own"):
        model.learn(16, Evaluate())


def test_an_environment_that_is_no_vec_env_is_made_one():
    env = gym.make("GridNavi-v0", horizon=5, episodes_per_task=2)
    model = RL2("MlpLstmPolicy", grid_vec_env(4, horizon=5), seed=0, device="cpu")
    result = evaluate_meta(model, env, tasks=np.array([[2, 0], [6, 6]]))
    assert result.returns.shape == (2, 2)
    callback = MetaEvalCallback(env, ("test",))
    model.learn(4 * 10, callback)
    assert callback.last_evaluations["test"].returns.shape == (27, 2)


@pytest.mark.parametrize(("splits", "message"), [("test", r"splits='test'"), ((), r"splits=\(\)"), (("trian",), "trian")])
def test_splits_that_there_are_not_are_named_before_training(splits, message):
    with pytest.raises(ValueError, match=message):
        MetaEvalCallback(grid_vec_env(2), splits)


def test_a_missing_vec_normalize_is_named_before_training():
    model = RL2("MlpLstmPolicy", VecNormalize(grid_vec_env(4)), seed=0, device="cpu")
    with pytest.raises(ValueError, match="has no VecNormalize"):
        model.learn(4 * 12, MetaEvalCallback(grid_vec_env(2)))
    assert model.num_timesteps == 0


@pytest.mark.parametrize("options", [{"norm_obs": False}, {"norm_reward": False}])
def test_half_of_a_vec_normalize_is_enough(options):
    model = LDM("MlpLstmPolicy", VecNormalize(grid_vec_env(4), **options), seed=0, device="cpu", vae_batch_size=3)
    other = VecNormalize(grid_vec_env(4), **options)
    model.learn(4 * 12, MetaEvalCallback(other, ("train",)))
    trained_with = model.get_vec_normalize_env()
    assert other.ret_rms.var == trained_with.ret_rms.var and other.ret_rms.count > 1
    if other.norm_obs:
        np.testing.assert_array_equal(other.obs_rms.mean, trained_with.obs_rms.mean)


def test_the_last_evaluation_is_of_the_trained_agent(tmp_path):
    def drifts():
        return vec_env(lambda: Drift(end_probability=0.0), 4)

    model = RL2("MlpLstmPolicy", drifts(), seed=0, device="cpu", learning_rate=0.03)
    callback = MetaEvalCallback(drifts(), ("train",), 1, log_path=tmp_path)
    model.learn(3 * 4 * 8, callback)
    timesteps, returns = load_evaluations(tmp_path / "evaluations.csv").select("train", False).last_returns()
    assert timesteps.tolist() == [32, 64, 96]
    assert returns[-1] == pytest.approx(evaluate_meta(model, drifts(), "train").mean_returns[-1], abs=1e-4)


def test_the_callback_refuses_to_never_wait():
    with pytest.raises(ValueError, match="eval_freq=0"):
        MetaEvalCallback(vec_env(Bandit, 1), eval_freq=0)


@pytest.mark.parametrize("wrap", [lambda env: env, VecNormalize], ids=["plain", "normalised"])
@pytest.mark.parametrize("algorithm", [RL2, LDM])
def test_training_does_not_notice_evaluations(algorithm, wrap):
    models = []
    for evaluated in (False, True):
        model = algorithm("MlpLstmPolicy", wrap(vec_env(Drift, 4)), seed=1, device="cpu")
        # consecutive evaluations at the same time steps differ in the seed alone
        callback = MetaEvalCallback(wrap(vec_env(Drift, 2)), eval_freq=1, seed=7) if evaluated else None
        model.learn(4 * 24, callback=callback)
        models.append(model)
    assert differing(parameters(models[0]), parameters(models[1])) == []


def test_a_position_need_not_be_a_robots():
    env = grid_vec_env(2)
    assert not has_positions(env)
    for position, is_a_vector in ((0.5, False), (None, False), (np.zeros(2), True)):
        env.get_attr = lambda name, indices=None, position=position: [position]
        env.has_attr = lambda name: True
        assert has_positions(env) == is_a_vector


def test_coverage_wants_episodes_of_full_length():
    model, env = random_agent(vec_env(Drift, 2, 2, 5)), vec_env(Drift, 2, 2, 5)
    batch = record_meta(model, env, np.zeros((4, 1)))
    with pytest.raises(ValueError, match="less than 10 steps"):
        visited_probes(batch, env.observation_space.layout, TaskProbes(*(np.zeros((2, 2)) for _ in TaskProbes._fields)))


def test_paths_hold_where_the_robot_was_before_each_step(tmp_path):
    """Also under a VecNormalize, on fewer sub-environments than tasks, and with early ends."""
    env = make_meta_vec_env("AntDirection-v0", 3, seed=0, env_kwargs={"horizon": 40})
    model = RL2("MlpLstmPolicy", VecNormalize(env), seed=0, policy_kwargs={"log_std_init": 0.0})
    model.learn(3 * 80)
    eval_env = VecNormalize(make_meta_vec_env("AntDirection-v0", 3, seed=0, env_kwargs={"horizon": 40}), training=False)
    before = deepcopy(eval_env.obs_rms.mean)
    save_paths(model, eval_env, tmp_path / "paths.npz", deterministic=False)
    saved = load_paths(tmp_path / "paths.npz")
    assert not saved.deterministic
    assert saved.paths.shape == (4, 2, 40, 2)
    # Start states are drawn from a box of 0.1 around the origin.
    assert np.abs(saved.paths[:, :, 0]).max() <= 0.1
    np.testing.assert_array_equal(saved.tasks, eval_env.get_attr("task_distribution", 0)[0].tasks("eval"))
    ended = np.isnan(saved.paths).any(-1)
    assert ended.any() and not ended[:, :, 0].any()
    # Once a path has ended it does not go on, and no step is longer than an ant can be fast.
    assert (np.diff(ended.astype(int), axis=-1) >= 0).all()
    assert np.nanmax(np.abs(np.diff(saved.paths, axis=2))) < 1.0
    assert model.get_vec_normalize_env().training and not np.array_equal(eval_env.obs_rms.mean, before)


class ManySplits(Bandit):
    """Names of splits that only differ after many letters."""

    names = ("outside_of_the_training_range_below", "outside_of_the_training_range_above", "test")

    def __init__(self):
        super().__init__()
        tasks = {"train": np.array([[0], [1]]), **{name: np.array([[2]]) for name in self.names}}
        self.set_tasks(FiniteTaskDistribution(tasks), "train")


def test_long_names_of_splits_have_keys_of_their_own(capsys):
    env = vec_env(ManySplits, 2, horizon=2)
    callback = MetaEvalCallback(env, splits=("train", *ManySplits.names), eval_freq=4)
    model = RL2("MlpLstmPolicy", vec_env(ManySplits, 2, horizon=2), device="cpu", verbose=1, batch_size=8)
    model.learn(16, callback)
    table = capsys.readouterr().out.split("eval/")[1].split("rollout/")[0]
    keys = [line.split("|")[1].strip() for line in table.splitlines()[1:] if line.count("|") == 3]
    assert len(keys) == len(set(keys)) == 4 * (2 + 1) and not any("..." in key for key in keys)
    assert {"train_return_1", "test_return_2", "test_reached"} <= set(keys)
    assert len({split_label(name) for name in ManySplits.names}) == 3
