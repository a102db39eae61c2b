"""What mixtures of the beliefs of a saved agent imagine: of all that are drawn, and of those that are chosen."""

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm import LDM
from sb3_ldm.algorithms.ldm.imagination import Imagination, ImaginationConfig
from sb3_ldm.algorithms.ldm.mixture_vec_env import transitions_to_compare
from sb3_ldm.data import MetaEpisodeBuffer, Transitions
from sb3_ldm.data.probes import get_probes, has_probes
from sb3_ldm.envs import make_meta_vec_env
from sb3_ldm.envs.tasks import TaskDistribution, TaskProbes, unseen_split
from sb3_ldm.inference import Bernoulli, RewardVAE
from sb3_ldm.inference.vae import NETWORK_OPTIONS
from sb3_ldm.on_policy import RecordingVecEnv
from sb3_ldm.zoo.trained import TrainedAgent, find_saved, load_agent, normalized

N_CANDIDATES = (1, 8, 32)  #: mixtures of which one is chosen
N_TASKS = 400  #: imaginary tasks to look at
N_TRANSITIONS = 4000  #: real ones that rewards are decoded for
N_SPREAD = 360  #: tasks that a decoded reward is compared with
N_HELD_OUT, N_ENVS, N_MIXTURE = 64, 64, 20
#: Slopes of decoded rewards against a task's own below which a task asks for nothing.
WEAK = 0.3


class RewardFamily(Protocol):
    """What an environment offers as ``domain`` if it can be said of any reward which task it is like."""

    def told_apart(self, states: np.ndarray, next_states: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        """See :meth:`sb3_ldm.envs.locomotion.Domain.told_apart`."""
        ...


class Likeness(NamedTuple):
    """Which task each of some reward functions is like."""

    tasks: np.ndarray  #: ``(n, task_dim)``
    slope: np.ndarray  #: of its rewards against the task's own, ``(n,)``
    fit: np.ndarray  #: share of its variance that the task's own rewards explain, ``(n,)``


def alike(rewards: np.ndarray, features: np.ndarray, tasks: np.ndarray, common: float = 0.0) -> Likeness:
    """
    The task whose own rewards are nearest, and a regression on them.

    :param rewards: of reward functions, ``(n, n_transitions)``
    :param features: the tasks' own rewards for the same transitions, ``(n_tasks, n_transitions)``
    :param tasks: ``(n_tasks, task_dim)``
    :param common: what rewards have on average besides, whatever the task
    :return: for each reward function
    """
    products = (rewards - common) @ features.T / rewards.shape[1]
    best = np.argmin(np.square(features).mean(1) - 2.0 * products, axis=1)
    rewards, nearest = (array - array.mean(1, keepdims=True) for array in (rewards, features[best]))
    covariance, of_features = (rewards * nearest).mean(1), np.maximum(np.square(nearest).mean(1), 1e-12)
    variance = np.maximum(np.square(rewards).mean(1), 1e-12)
    return Likeness(tasks[best], covariance / of_features, covariance**2 / (variance * of_features))


def agent_of(path: Path) -> tuple[str, TrainedAgent]:
    """
    :param path: folder of a run of LDM, or file of its agent
    :return: the environment's id, and the agent
    :raises ValueError: if there is none, or it is one of another algorithm
    """
    algo, env_id, agent, _ = find_saved(path)
    if algo != "ldm":
        raise ValueError(f"agent={str(path)!r} is one of {algo}, which has no imaginary tasks: expected one of ldm.")
    return env_id, agent


def study_agent(
    env_id: str,
    agent: TrainedAgent,
    buffer: Path | None,
    options: Mapping[str, Any],
    seed: int,
    n_meta_episodes: int,
    n_candidates: Sequence[int] = N_CANDIDATES,
) -> dict[str, Any]:
    """
    :param env_id: id of the environment
    :param agent: of LDM
    :param buffer: of its meta-episodes; None to play the agent on training tasks
    :param options: in place of the agent's: of imagination; and ``updates`` for a network that is trained anew on the buffer,
        of the network, with ``vae_batch_size`` and ``vae_learning_rate``
    :param seed: of everything
    :param n_meta_episodes: to play, or to use at most
    :param n_candidates: of how many mixtures one is chosen, one after another
    :return: what the network knows of the tasks of meta-episodes that it was not trained on (those of its buffer, if it is the
        agent's own), and what is imagined
    :raises ValueError: if an option is unknown
    """
    model = load_agent(agent, "ldm", "cpu", stand_ins=True)
    th.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), th.Generator().manual_seed(seed)
    env = normalized(make_meta_vec_env(env_id, N_ENVS, seed, env_kwargs=agent.env_kwargs), agent)
    try:
        meta_episodes = _load(buffer, model) if buffer is not None else _play(model, env, n_meta_episodes, seed)
        order = rng.permutation(len(meta_episodes))[:n_meta_episodes]
        if len(order) < 4:
            raise ValueError(f"buffer={str(buffer)!r} with {len(meta_episodes)} meta-episodes: at least 4 are needed.")
        n_held_out = min(N_HELD_OUT, len(order) // 4)
        held_out = meta_episodes.part(order[:n_held_out])
        vae, config, told = _network(model, meta_episodes.part(order[n_held_out:]), options, rng, generator)
        batch = held_out.get(np.arange(len(held_out)))
        told["explained_variance"] = vae.explained_variance(batch)
        imagined = _look(vae, config, held_out, env, rng, generator, n_candidates)
    finally:
        env.close()
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in (told | imagined).items()}


def _load(path: Path, model: LDM) -> MetaEpisodeBuffer:
    with path.open("rb") as file:
        buffer = MetaEpisodeBuffer.load(file, path)
    if buffer.layout != model.layout:
        raise ValueError(f"buffer={str(path)!r} holds no meta-episodes of the agent's layout {model.layout}.")
    return buffer


def _play(model: LDM, env: VecEnv, n_meta_episodes: int, seed: int) -> MetaEpisodeBuffer:
    """Meta-episodes of the agent on training tasks."""
    buffer = MetaEpisodeBuffer(n_meta_episodes, model.layout, env.num_envs)
    recording = RecordingVecEnv(env, buffer, lambda rewards: None)
    model.set_random_seed(seed)
    obs: Any = recording.reset()
    state, starts = None, np.ones(env.num_envs, dtype=bool)
    while len(buffer) < n_meta_episodes:
        actions, state = model.predict(obs, state, starts)
        obs, _, starts, _ = recording.step(actions)
    return buffer


def _network(
    model: LDM, buffer: MetaEpisodeBuffer, options: Mapping[str, Any], rng: np.random.Generator, generator: th.Generator
) -> tuple[RewardVAE, ImaginationConfig, dict[str, Any]]:
    """The agent's network, or one that is trained anew; and how it imagines."""
    given = dict(options)
    config = replace(
        model.imagination_config,
        mixture_time="final",
        **{name: given.pop(name) for name in ImaginationConfig.__dataclass_fields__ if name in given},
    )
    updates = int(given.pop("updates", 0))
    if updates == 0:
        if given:
            raise ValueError(f"params: {', '.join(given)} need updates, for a network that is trained anew.")
        return model.vae, config, {}
    batch_size, rate = given.pop("vae_batch_size", model.vae_batch_size), given.pop("vae_learning_rate", 1e-3)
    names = [name for name in inspect.signature(RewardVAE).parameters if hasattr(model, name) and name != "layout"]
    settings = {name: getattr(model, name) for name in names if name != "learning_rate"} | model.vae_kwargs
    unknown = given.keys() - settings.keys() - set(NETWORK_OPTIONS)
    if unknown:
        raise ValueError(f"params: {', '.join(sorted(unknown))}: no options of imagination or of the network.")
    vae = RewardVAE(model.layout, **{**settings, **given}, learning_rate=rate)
    start = time.time()
    parts = vae.update(buffer, batch_size, updates, rng, generator)
    return vae, config, parts | {"ms_of_an_update": 1000.0 * (time.time() - start) / updates}


def _look(
    vae: RewardVAE,
    config: ImaginationConfig,
    meta_episodes: MetaEpisodeBuffer,
    env: VecEnv,
    rng: np.random.Generator,
    generator: th.Generator,
    n_candidates: Sequence[int],
) -> dict[str, Any]:
    """Describe beliefs, mixtures as they are drawn, and those that are chosen."""
    batch = meta_episodes.get(np.arange(len(meta_episodes)))
    assert batch.tasks is not None
    with th.no_grad():
        means, logvars = vae.final_beliefs(batch)
    distribution = env.get_attr("task_distribution", 0)[0]
    judge: GridJudge | RewardJudge
    if has_probes(env) and isinstance(vae.likelihood, Bernoulli):
        judge = GridJudge(get_probes(env), distribution, vae)
    elif env.has_attr("domain"):
        drawn = meta_episodes.sample_transitions(N_TRANSITIONS, rng)
        judge = RewardJudge(env.get_attr("domain", 0)[0], distribution, drawn)
    else:
        raise ValueError("The environment offers neither task_probes nor a domain: it cannot be said what is imagined.")
    steps = judge.transitions.states, judge.transitions.actions, judge.transitions.next_states
    own = vae.predict(means, steps, generator).numpy()
    found = {f"own_{name}": value for name, value in judge.describe_own(own, batch.tasks.numpy()).items()}
    for number in n_candidates:
        of_number = replace(config, n_candidates=number, require_goal=config.require_goal and number > 1)
        imagination = Imagination(vae, len(means), N_MIXTURE, of_number, generator)
        finished = th.ones(len(means), dtype=th.bool)
        imagination.set_final_beliefs({"final_mu": means, "final_logvar": logvars, "finished": finished})
        maps, has_task = [], []
        for _ in range(N_TASKS // N_MIXTURE):
            experience = transitions_to_compare(meta_episodes, vae.likelihood, rng) if of_number.compares else None
            has_task.append(imagination.start(experience))
            maps.append(imagination.promises(judge.transitions, generator))
        chosen = np.concatenate(maps)[np.concatenate(has_task)]
        found[f"share_imagined_{number}"] = float(np.mean(has_task))
        found |= {f"{name}_{number}": value for name, value in judge.describe(chosen).items()}
    return found


class GridJudge:
    """
    Imaginary tasks of two rewards, by where they promise the higher one.

    :param probes: typical transitions of the tasks
    :param distribution: of the tasks
    :param vae: the network, which knows the two rewards
    """

    def __init__(self, probes: TaskProbes, distribution: TaskDistribution, vae: RewardVAE):
        assert isinstance(vae.likelihood, Bernoulli)
        self.middle, self.tasks = vae.likelihood.middle, probes.tasks
        n = len(probes.tasks)
        nothing = np.zeros(n, bool)
        actions = vae.layout.encode_actions(probes.actions)
        self.transitions = Transitions(probes.states, actions, np.zeros(n), probes.next_states, nothing, nothing, probes.tasks)
        unseen = distribution.tasks(unseen_split(distribution))
        self.is_unseen = (probes.tasks[:, None] == unseen[None]).all(-1).any(1)

    def describe_own(self, rewards: np.ndarray, tasks: np.ndarray) -> dict[str, float]:
        """:return: of beliefs: for how many the own goal is promised most"""
        return {"right": float((self.tasks[rewards.argmax(1)] == tasks).all(-1).mean())}

    def describe(self, rewards: np.ndarray) -> dict[str, float]:
        """:return: shares of imaginary tasks whose goals are all unseen, or none; and on how many unseen goals they are"""
        goals = rewards > self.middle
        only = goals.any(1) & ~goals[:, ~self.is_unseen].any(1)
        return {
            "unseen": float(only.mean()),
            "no_goal": float((~goals.any(1)).mean()),
            "distinct": int(goals[only].any(0).sum()),
        }


class RewardJudge:
    """
    Imaginary tasks of any rewards, by the true task that they are like.

    :param family: says what rewards of its tasks are
    :param distribution: of the tasks
    :param transitions: real ones, for which rewards are decoded
    """

    def __init__(self, family: RewardFamily, distribution: TaskDistribution, transitions: Transitions):
        self.distribution, self.transitions = distribution, transitions
        self.tasks = distribution.spread(N_SPREAD)
        self.family, self.common = family, 0.0
        self.features = self._features(self.tasks)

    def _features(self, tasks: np.ndarray) -> np.ndarray:
        return self.family.told_apart(self.transitions.states, self.transitions.next_states, tasks)

    def describe_own(self, rewards: np.ndarray, tasks: np.ndarray) -> dict[str, float]:
        """
        :return: of beliefs: the mean distance of the task that rewards are like to the true one, and how like they are; from
            then on it is known what rewards have on average besides the task, such as costs of actions
        """
        self.common = float((rewards - self._features(tasks)).mean())
        like = alike(rewards, self.features, self.tasks, self.common)
        error = self.distribution.distances(like.tasks, tasks)
        return {"error": float(error.mean()), "slope": float(like.slope.mean()), "fit": float(like.fit.mean())}

    def describe(self, rewards: np.ndarray) -> dict[str, float]:
        """:return: shares of imaginary tasks that are like unseen tasks or like training tasks, or ask for little"""
        like = alike(rewards, self.features, self.tasks, self.common)
        is_strong = like.slope > WEAK
        shares = {name: self.distribution.is_in(name, like.tasks) & is_strong for name in ("test", "train")}
        return {
            "unseen": float(shares["test"].mean()),
            "train": float(shares["train"].mean()),
            "weak": float((~is_strong).mean()),
            "fit": float(like.fit.mean()),
        }
