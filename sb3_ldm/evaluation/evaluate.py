"""One meta-evaluation for every algorithm: how an agent does on given tasks, episode by episode, without learning."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_ldm.data import MetaEpisodeBatch, MetaEpisodeBuffer
from sb3_ldm.envs import make_meta_vec_env
from sb3_ldm.envs.inspection import check_workers, refuse_gymnasium_vector_env
from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.envs.steps import StepReader, has_statistics, normalization_problem, normalizers
from sb3_ldm.envs.tasks import TaskDistribution
from sb3_ldm.evaluation.meta_learner import MetaLearner, SeesDifferently
from sb3_ldm.results.evaluation_table import MetaEvaluation

N_SAMPLED_TASKS = 20  #: that stand for a split of infinitely many
N_MADE = 16  #: sub-environments where an id is given


def task_distribution_of(env: VecEnv) -> TaskDistribution:
    """
    :param env: vectorised meta-episode environments
    :return: their task distribution
    :raises ValueError: if the env has no meta-episodes
    """
    observation_layout(env.observation_space)
    return env.get_attr("task_distribution", 0)[0]


def evaluation_tasks(env: VecEnv, split: str) -> np.ndarray:
    """
    :param env: vectorised meta-episode environments
    :param split: named split
    :return: the tasks that it is evaluated on, ``(n, task_dim)``
    """
    return task_distribution_of(env).representatives(split, N_SAMPLED_TASKS)


def as_vec_env(env: VecEnv | gym.Env | str) -> VecEnv:
    """
    :param env: environments, or one, or a registered id
    :return: the environments, or a ``DummyVecEnv`` of the one
    :raises ValueError: if it is something else, or sub-environments do not fit together
    """
    refuse_gymnasium_vector_env(env)
    if isinstance(env, str):
        return make_meta_vec_env(env, N_MADE)
    if not isinstance(env, (VecEnv, gym.Env)):
        raise ValueError(f"env={env!r} is no environment: give one, a VecEnv (see make_meta_vec_env) or a registered id")
    vec_env = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    check_workers(vec_env)
    return vec_env


def is_trained_on(model: MetaLearner, env: VecEnv) -> bool:
    """
    :param model: an agent
    :param env: environments
    :return: whether the agent is trained in these environments, wrapped in whatever way
    """
    training_env = _asked(model, "get_env")
    return training_env is not None and not _bare(training_env).isdisjoint(_bare(env))


def _bare(env: VecEnv) -> set[int]:
    """What tells environments apart that are wrapped in different ways, also in a VecEnv each."""
    vec_env = env.unwrapped
    return {id(vec_env), *(id(one.unwrapped) for one in getattr(vec_env, "envs", ()))}


def check_normalized(model: MetaLearner, env: VecEnv) -> None:
    """
    :param model: an agent
    :param env: environments to evaluate it on
    :raises ValueError: if the agent was trained with normalised observations and the environments have no ``VecNormalize``,
        or one without statistics; or the other way round
    """
    trained = getattr(model, "trained_normalized", None)  # known from the first call of learn on, and saved
    own = _own_normalizer(model)
    if trained is None and own is not None and own.norm_obs:
        trained = True
    if trained is None:
        return
    needs_statistics = _lender(model) is None and getattr(model, "num_timesteps", 1) > 0
    problem = normalization_problem(trained, env, needs_statistics)
    if problem is not None:
        raise ValueError(problem)


def _lender(model: MetaLearner) -> VecNormalize | None:
    """The ``VecNormalize`` of the training, unless it has nothing to lend, as one that a loaded model was just given."""
    own = _own_normalizer(model)
    return None if own is None or not has_statistics(own) else own


def _own_normalizer(model: MetaLearner) -> VecNormalize | None:
    return _asked(model, "get_vec_normalize_env")


def _asked(model: MetaLearner, method: str) -> Any:
    """What an agent answers that may have such a method, or not."""
    return getattr(model, method, lambda: None)()


def evaluate_meta(
    model: MetaLearner,
    env: VecEnv | gym.Env | str,
    split: str = "test",
    tasks: np.ndarray | None = None,
    n_repeats: int = 1,
    deterministic: bool = False,
    seed: int = 0,
    recorder: MetaEpisodeBuffer | None = None,
) -> MetaEvaluation:
    """
    Run meta-episodes on every task of a split (or on given tasks), several at a time.

    Nothing of the training changes: statistics of a ``VecNormalize`` are those of the model's and frozen, random streams are
    put back, no gradient step is taken. Works with everything that has ``predict``, as every SB3 model, recurrent or not, has.
    After an evaluation on the environments that it was trained on, which is for after :meth:`learn`, training goes on with a
    reset, in tasks that it has not met yet.

    :param model: the agent, see :class:`~sb3_ldm.evaluation.MetaLearner`
    :param env: meta-episode environments to run on, of any number; one that is no VecEnv is made one, a registered id several
    :param split: named split; all of its tasks are run, of infinitely many always the same 20
    :param tasks: run these instead, ``(n, task_dim)``
    :param n_repeats: meta-episodes per task
    :param deterministic: whether the agent takes its most likely actions
    :param seed: of the agent's random actions and of the environments
    :param recorder: gathers the meta-episodes in the order in which they end
    :return: returns, lengths and successes per task and episode index
    :raises ValueError: if the env has no meta-episodes, there is no task or one that is no vector of numbers, ``n_repeats`` is
        below 1, or the model was trained with normalised observations and ``env`` has others, or the other way round
    """
    if isinstance(env, str):
        made = as_vec_env(env)
        try:
            return evaluate_meta(model, made, split, tasks, n_repeats, deterministic, seed, recorder)
        finally:
            made.close()
    env = as_vec_env(env)
    observation_layout(env.observation_space)
    if n_repeats < 1:
        raise ValueError(f"n_repeats={n_repeats}: every task needs at least 1 meta-episode.")
    tasks = evaluation_tasks(env, split) if tasks is None else _checked_tasks(tasks, task_distribution_of(env).task_dim)
    queue = np.repeat(tasks, n_repeats, axis=0)
    results: list[dict[str, Any]] = []
    with _frozen(model, env, seed):
        env.seed(seed)
        for first in range(0, len(queue), env.num_envs):
            results += _run_meta_episodes(model, env, queue[first : first + env.num_envs], deterministic, recorder)
    # Environments that only tell of successes say nothing of a meta-episode without one.
    has_success = any("episode_successes" in info for info in results)
    failures = np.zeros(observation_layout(env.observation_space).episodes_per_task, dtype=bool)
    return MetaEvaluation(
        tasks=queue,
        returns=np.array([info["episode_returns"] for info in results]),
        lengths=np.array([info["episode_lengths"] for info in results]),
        successes=np.array([info.get("episode_successes", failures) for info in results]) if has_success else None,
    )


def _checked_tasks(tasks: Any, task_dim: int) -> np.ndarray:
    given = np.asarray(tasks)
    if given.size == 0:
        raise ValueError("tasks=[]: there is nothing to evaluate on.")
    if given.dtype.kind not in "uif" or given.ndim != 2 or given.shape[1] != task_dim:
        raise ValueError(
            f"tasks have shape {given.shape} and type {given.dtype}, expected numbers of shape (n, {task_dim}), one row each"
        )
    return given


def meta_episode_recorder(env: VecEnv, n_meta_episodes: int) -> MetaEpisodeBuffer:
    """
    :param env: vectorised meta-episode environments
    :param n_meta_episodes: how many will be run
    :return: a buffer that holds them
    """
    return MetaEpisodeBuffer(n_meta_episodes, observation_layout(env.observation_space), env.num_envs)


def record_meta(
    model: MetaLearner, env: VecEnv, tasks: np.ndarray, deterministic: bool = False, seed: int = 0
) -> MetaEpisodeBatch:
    """
    Record one meta-episode on each of some tasks; parameters as of :func:`evaluate_meta`.

    :return: the meta-episodes, in the order of the tasks where all are equally long
    """
    recorder = meta_episode_recorder(env, len(tasks))
    # What an encoder that shares the agent's eyes must be shown.
    recorder.agent_view = model.agent_view(env) if isinstance(model, SeesDifferently) else None
    evaluate_meta(model, env, tasks=tasks, deterministic=deterministic, seed=seed, recorder=recorder)
    return recorder.get(np.arange(len(tasks)), _device(model))


def _run_meta_episodes(
    model: MetaLearner, env: VecEnv, tasks: np.ndarray, deterministic: bool, recorder: MetaEpisodeBuffer | None
) -> list[dict[str, Any]]:
    """One meta-episode on each task, at most as many tasks as sub-environments; the infos of their last steps."""
    layout = observation_layout(env.observation_space)
    # Sub-environments without a task of their own repeat the last one and are not counted.
    padded = tasks[np.minimum(np.arange(env.num_envs), len(tasks) - 1)]
    env.set_options([{"task": task} for task in padded])
    obs = env.reset()
    reader = StepReader(layout, env.num_envs)
    reader.start(env, obs)
    state = None
    dones = np.ones(env.num_envs, dtype=bool)
    last_infos: list[dict[str, Any] | None] = [None] * len(tasks)
    while any(info is None for info in last_infos):
        actions, state = model.predict(obs, state=state, episode_start=dones, deterministic=deterministic)  # type: ignore[arg-type]
        obs, rewards, dones, infos = env.step(actions)
        step = reader.read(env, actions, obs, rewards, dones, infos)
        if recorder is not None:
            # Those that were not asked for fill up the sub-environments until the last one has ended.
            asked_for = np.array([info is None for info in last_infos] + [False] * (env.num_envs - len(tasks)))
            recorder.add(step._replace(at=step.at._replace(whole=step.at.whole & asked_for)))
        for i in np.flatnonzero(dones[: len(tasks)]):
            if last_infos[i] is None:
                last_infos[i] = infos[i]
    return [info for info in last_infos if info is not None]


@contextmanager
def _frozen(model: MetaLearner, env: VecEnv, seed: int) -> Iterator[None]:
    """Lend the model's normalisation statistics to the env, frozen, and put the global random streams back afterwards."""
    check_normalized(model, env)
    normalizer = unwrap_vec_normalize(env)
    trained_with = _lender(model)
    training = [(one, one.training) for one in normalizers(env)]
    numpy_state, python_state = np.random.get_state(), random.getstate()
    for one, _ in training:
        one.training = False
    if normalizer is not None and trained_with is not None and trained_with is not normalizer:
        # SB3's sync_envs_normalization wants the same wrappers around both; a recorder may be around this one.
        normalizer.ret_rms = deepcopy(trained_with.ret_rms)
        if hasattr(trained_with, "obs_rms"):  # observations are normalised, too
            normalizer.obs_rms = deepcopy(trained_with.obs_rms)
    try:
        with _random_stream(_device(model), seed):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        for one, was_training in training:
            one.training = was_training
        if is_trained_on(model, env):
            _leave_training_env(model)


def _device(model: MetaLearner) -> th.device:
    return th.device(getattr(model, "device", "cpu"))


@contextmanager
def _random_stream(device: th.device, seed: int) -> Iterator[None]:
    """Torch's random streams that actions are drawn from, begun at a seed and put back afterwards."""
    on_cuda, on_mps = device.type == "cuda", device.type == "mps"
    state = th.mps.get_rng_state() if on_mps else None
    with th.random.fork_rng(devices=[device] if on_cuda else []):
        th.default_generator.manual_seed(seed)
        if on_cuda:
            with th.cuda.device(device):
                th.cuda.manual_seed(seed)
        if on_mps:
            th.mps.manual_seed(seed)
        try:
            yield
        finally:
            if state is not None:
                th.mps.set_rng_state(state)


def _leave_training_env(model: Any) -> None:
    """Let training go on with a reset and other tasks than those of the evaluation, the same ones for the same seed."""
    entropy = None if model.seed is None else [model.seed, model.num_timesteps]
    assert model.env is not None
    model.env.seed(int(np.random.default_rng(entropy).integers(2**30)))
    model._last_obs = None
