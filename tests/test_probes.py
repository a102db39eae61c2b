"""Which tasks were visited, and how many."""

import numpy as np
from helpers import grid_vec_env
from stable_baselines3.common.logger import Logger

from sb3_ldm import RL2
from sb3_ldm.data.probes import coverage, get_probes, visited_probes
from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.evaluation import record_meta
from sb3_ldm.evaluation.callbacks import MetaEvalCallback


class Scripted(RL2):
    """Goes up all the time, whatever it has learned."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full(len(observation), 1), state


def test_coverage_counts_different_probes_up_to_each_episode() -> None:
    visited = np.array([[[0, 1, 1], [0, 2, 3]], [[0, 0, 0], [0, 0, 0]]])
    np.testing.assert_array_equal(coverage(visited, 5), [(2 + 1) / 2, (4 + 1) / 2])


def test_visited_probes_are_the_cells_of_a_known_walk() -> None:
    env = grid_vec_env(3, episodes=2, horizon=4)
    model = Scripted("MlpLstmPolicy", env)
    tasks = env.get_attr("task_distribution", 0)[0].tasks("test")
    batch = record_meta(model, env, tasks)
    probes = get_probes(env)
    cells = probes.tasks[visited_probes(batch, observation_layout(env.observation_space), probes)]
    assert cells.shape == (len(tasks), 2, 5, 2)
    np.testing.assert_array_equal(cells, np.broadcast_to(np.array([[0, y] for y in range(5)]), cells.shape))


def test_evaluation_logs_the_coverage_of_a_walk() -> None:
    model = Scripted("MlpLstmPolicy", grid_vec_env(3, episodes=2, horizon=4))
    model.set_logger(Logger(None, []))
    callback = MetaEvalCallback(grid_vec_env(3, episodes=2, horizon=4))
    callback.init_callback(model)
    callback.evaluate()
    logged = model.logger.name_to_value
    assert [logged[f"eval/{split}_coverage_{k}"] for split in ("train", "test") for k in (1, 2)] == [5.0] * 4


def test_sub_environments_that_fill_up_a_round_are_not_counted(monkeypatch) -> None:
    """Ten environments for 18 tasks: the second round has two too many."""
    model = Scripted("MlpLstmPolicy", grid_vec_env(3, episodes=2, horizon=4))
    model.set_logger(Logger(None, []))
    counted = []
    monkeypatch.setattr(MetaEvalCallback, "_log_coverage", lambda _, __, batch: counted.append(batch.rewards.shape[1]))
    callback = MetaEvalCallback(grid_vec_env(10, episodes=2, horizon=4), splits=("train",))
    callback.init_callback(model)
    callback.evaluate()
    assert counted == [18]
