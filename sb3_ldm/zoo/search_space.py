"""What Optuna varies: names that are chosen of an algorithm's search space, and values that rl_zoo3 understands."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from sb3_ldm.registry import algorithms, get_algorithm


def check_names(algo: str, names: Sequence[str] | None) -> tuple[str, ...]:
    """
    :param algo: name of an algorithm
    :param names: parameters to vary, None for the default ones
    :return: the parameters
    :raises ValueError: if one cannot be varied
    """
    spec = get_algorithm(algo)
    known = spec.load_search_space()
    if not known:
        able = [name for name, one in algorithms().items() if one.search_space]
        raise ValueError(f"algo={algo!r} has no search space: its AlgorithmSpec may name one, as of {', '.join(able)}.")
    chosen = (spec.tuned or tuple(known)) if names is None else tuple(names)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise ValueError(f"tune={', '.join(unknown) or 'nothing'} of {algo}: choose of {', '.join(known)}.")
    return chosen


def suggest(trial: optuna.Trial, algo: str, names: Sequence[str]) -> dict[str, Any]:
    """
    :param trial: a trial
    :param algo: name of an algorithm
    :param names: parameters to vary
    :return: their values
    """
    known = get_algorithm(algo).load_search_space()
    return {name: known[name](trial) for name in names}


def to_hyperparameters(values: Mapping[str, Any], meta_episode_steps: int, n_envs: int, n_steps: int | None) -> dict[str, Any]:
    """
    :param values: of :func:`suggest`
    :param meta_episode_steps: steps in a meta-episode
    :param n_envs: number of environments
    :param n_steps: steps of a rollout and environment, where they are not varied; None for one meta-episode
    :return: hyperparameters in the RL Zoo's format
    """
    given = dict(values)
    meta_episodes, sequences = given.pop("meta_episodes_per_rollout", None), given.pop("sequences_per_minibatch", None)
    if meta_episodes is not None:
        n_steps = given["n_steps"] = meta_episodes * meta_episode_steps
    if sequences is not None:
        given["batch_size"] = min(sequences, n_envs) * (n_steps or meta_episode_steps)
    if "learning_rate" in given:
        given["learning_rate"] = f"lin_{given['learning_rate']}"  # to zero, as in all of zoo_configs
    return given
