"""What a run is judged by: the evaluation at its end, and what figures are drawn from."""

from pathlib import Path

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.data.probes import has_probes
from sb3_ldm.envs.tasks import SPLITS, VALIDATION, unseen_split
from sb3_ldm.evaluation import evaluate_meta, task_distribution_of
from sb3_ldm.files import replacing
from sb3_ldm.registry import get_algorithm
from sb3_ldm.results import FINAL_FILE, PATHS_FILE, TRAJECTORIES_FILE
from sb3_ldm.results.evaluation_table import EVALUATIONS_FILE, append_evaluation
from sb3_ldm.zoo.recordings import has_positions, save_paths, save_trajectories, save_zoo_evaluations


def evaluation_splits(env: VecEnv, final: bool = False) -> tuple[str, ...]:
    """
    :param env: vectorised meta-episode environments
    :param final: whether it is the evaluation at the end, which also samples the test tasks where they are infinitely many,
        and tells parts of the test tasks that have a name
    :return: the splits to evaluate on
    """
    tasks = task_distribution_of(env)
    unseen = unseen_split(tasks)
    if not final or unseen == VALIDATION:
        return ("train", unseen)
    named = tuple(split for split in tasks.splits if split not in SPLITS)
    return ("train", unseen, *(("test",) if unseen == "eval" else ()), *named)


def evaluate_finally(
    model: BaseAlgorithm, env: VecEnv, algo: str, folder: Path, splits: tuple[str, ...], n_repeats: int, seed: int
) -> None:
    """
    Evaluate with both kinds of actions, and record what the agent does: ``final_evaluation.csv``, ``evaluations.npz`` and,
    where there are any, ``trajectories.npz``, ``paths.npz`` and what the registry says of the algorithm.

    :param model: the agent
    :param env: environments to evaluate it on
    :param algo: its name
    :param folder: of the run
    :param splits: of tasks, training tasks first, unseen ones second
    :param n_repeats: meta-episodes on each of finitely many tasks with sampled actions
    :param seed: of the environments and of the agent's actions
    """
    tasks = task_distribution_of(env)
    # Instead of that of a run that was finished before, or interrupted.
    with replacing(folder / FINAL_FILE) as file:
        for deterministic in (False, True):
            for split in splits:
                # Of infinitely many tasks there are as many different ones as one likes.
                repeats = 1 if deterministic or not tasks.is_finite(split) else n_repeats
                result = evaluate_meta(model, env, split, n_repeats=repeats, deterministic=deterministic, seed=seed)
                append_evaluation(file, model.num_timesteps, split, deterministic, result)
                kind = "most likely" if deterministic else "sampled"
                reached = "" if result.n_reached is None else f", {result.n_reached:.1f} tasks solved in the last episode"
                print(f"{algo} on {split} tasks, {kind} actions: returns {np.round(result.mean_returns, 2)}{reached}")
    if has_probes(env):
        save_trajectories(model, env, folder / TRAJECTORIES_FILE, split=splits[1], seed=seed)
    get_algorithm(algo).record(model, env, folder, splits[1], seed)
    save_zoo_evaluations(folder / EVALUATIONS_FILE, folder / "evaluations.npz", splits[1])
    if has_positions(env):
        save_paths(model, env, folder / PATHS_FILE, split=splits[1], seed=seed)
