"""
What do mixtures of beliefs imagine, without any reinforcement learning?

Train the latent dynamics network on scripted explore-then-exploit meta-episodes of the gridworld, then count where the reward
maps of many random mixtures peak: ``python -m benchmarks.imagination -p updates:2000 kl_weight:10 n_partners:14``. In an
experiment, its variants have ``algo: imagination``.

With ``--agent`` the network is that of a saved agent of LDM, in any domain, and chosen mixtures are looked at, too; with
``--buffer`` and ``-p updates:2000`` one is trained anew on the meta-episodes that a run has saved (``--save-replay-buffer``):
settings can be compared without training a policy.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from rl_zoo3.utils import StoreDict

from benchmarks.mixtures import agent_of, study_agent
from sb3_ldm.algorithms.ldm.imagination import Imagination, ImaginationConfig
from sb3_ldm.algorithms.ldm.reward_maps import RewardMaps, decode_mixtures, write_reward_maps
from sb3_ldm.data import MetaEpisodeBuffer
from sb3_ldm.data.probes import get_probes
from sb3_ldm.env_ids import GRID_IDS as ENV_IDS
from sb3_ldm.envs import make_meta_vec_env
from sb3_ldm.envs.gridworld import MOVES, SIZE
from sb3_ldm.envs.steps import StepReader
from sb3_ldm.envs.tasks import TaskProbes
from sb3_ldm.files import replacing
from sb3_ldm.inference import RewardVAE
from sb3_ldm.nets.sharding import one_thread_per_operation
from sb3_ldm.results import REWARD_MAPS_FILE, RUN_FILE
from sb3_ldm.version import current_commit
from sb3_ldm.zoo.pretrained import find_pretrained

IMAGINATION = "imagination"  #: stands for an algorithm where there is none
#: Results that are shares of mixtures or workers.
SHARES = ("in_test", "in_test1", "in_test2", "in_train", "no_goal", "own_task_right", "unseen_task_right")
N_TIMESTEPS = 4096 * 120
N_NORMAL = 48  #: workers whose beliefs are mixed
UPDATES, MAPS = 2000, 400  #: gradient steps of the network, and mixtures to look at
NETWORK: dict[str, Any] = {"latent_dim": 32, "dropout_rate": 0.7, "kl_weight": 10.0, "n_elbo_terms": 24}
NETWORK |= {"n_decoded_steps": None, "reward_likelihood": "bernoulli", "bernoulli_rewards": (-0.1, 1.0)}
NETWORK |= {"decoder_inputs": ("next_state",), "encoder_embeddings": (32, 0, 8), "decoder_layers": (32, 32)}


def settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """:return: they and the others, as they stand in its file of results"""
    return json.loads(json.dumps({"updates": UPDATES, "maps": MAPS, **NETWORK, **options}))


class ScriptedAgents:
    """
    Search the training goals in a random nearest-first order until the reward comes, then go there directly and stay.

    :param n_envs: number of agents
    :param goals: cells to search, ``(n_goals, 2)``
    :param rng: source of randomness
    :param noise: probability of a random action
    """

    def __init__(self, n_envs: int, goals: np.ndarray, rng: np.random.Generator, noise: float = 0.1):
        self.goals, self.rng, self.noise = goals, rng, noise
        self.found: list[np.ndarray | None] = [None] * n_envs
        self.open = [self._shuffled() for _ in range(n_envs)]

    def _shuffled(self) -> np.ndarray:
        return self.goals[self.rng.permutation(len(self.goals))].astype(float) + self.rng.normal(0, 0.7, self.goals.shape)

    def act(self, positions: np.ndarray) -> np.ndarray:
        """:return: an action for each agent at its cell, ``(n_envs,)``"""
        return np.array([self._act(i, position) for i, position in enumerate(positions)])

    def _act(self, i: int, position: np.ndarray) -> int:
        if self.rng.random() < self.noise:
            return int(self.rng.integers(len(MOVES)))
        target = self.found[i]
        if target is None:
            if len(self.open[i]) == 0:
                self.open[i] = self._shuffled()
            # Goals were moved by noise, so that agents search in different orders; the cell itself is the rounded one.
            target = self.open[i][np.abs(self.open[i] - position).sum(-1).argmin()].round().clip(0, SIZE - 1)
        difference = target - position
        if not difference.any():
            return 0
        axis = int(self.rng.choice(np.flatnonzero(difference)))
        step = np.zeros(2)
        step[axis] = np.sign(difference[axis])
        return int((step == MOVES).all(-1).argmax())

    def observe(self, positions: np.ndarray, rewards: np.ndarray, dones: np.ndarray) -> None:
        """Learn from what the last actions led to."""
        for i, position in enumerate(positions):
            if dones[i]:
                self.found[i], self.open[i] = None, self._shuffled()
            elif rewards[i] > 0:
                self.found[i] = position
            else:
                self.open[i] = self.open[i][(self.open[i].round().clip(0, SIZE - 1) != position).any(-1)]


def collect(
    buffer: MetaEpisodeBuffer, n_meta_episodes: int, seed: int, imagination: Imagination | None, split: str, env_id: str
) -> list:
    """Fill the buffer with scripted meta-episodes; ``imagination`` follows them if given. Returns the last tasks."""
    n_envs, layout = buffer.n_workers, buffer.layout
    env = make_meta_vec_env(env_id, n_envs, seed=seed, env_kwargs={"task_split": split})
    tasks = env.get_attr("task_distribution", 0)[0].tasks(split)
    agents = ScriptedAgents(n_envs, tasks, np.random.default_rng(seed))
    obs: Any = env.reset()
    reader = StepReader(layout, n_envs)
    reader.start(env, obs)
    last_tasks: list[Any] = [None] * n_envs
    for _ in range(-(-n_meta_episodes // n_envs) * layout.meta_episode_steps):
        actions = agents.act(obs[:, layout.state])
        obs, rewards, dones, infos = env.step(actions)
        step = reader.read(env, actions, obs, rewards, dones, infos)
        buffer.add(step)
        if imagination is not None:
            imagination.observe(step.next_states, layout.encode_actions(actions), rewards, dones)
        agents.observe(step.next_states, rewards, dones)
        for i in np.flatnonzero(dones):
            last_tasks[i] = step.tasks[i]
    return last_tasks


def study(
    options: Mapping[str, Any], seed: int, n_timesteps: int = N_TIMESTEPS, env_id: str = ENV_IDS[0]
) -> tuple[dict[str, Any], RewardMaps]:
    """
    :param options: of the network and of imagination, ``updates``, which are the network's gradient steps, and ``maps``, how
        many mixtures to look at
    :param n_timesteps: of the scripted agents in the network's training data
    :return: where the maps peak and how high, with the training's last ELBO parts; and the maps
    """
    th.manual_seed(seed)
    given = settings(options)
    updates, n_maps = given.pop("updates"), given.pop("maps")
    chosen = {name: given.pop(name) for name in ImaginationConfig.__dataclass_fields__ if name in given}
    env = make_meta_vec_env(env_id, 1)
    layout, probes, tasks = env.get_attr("layout")[0], get_probes(env), env.get_attr("task_distribution", 0)[0]
    model = RewardVAE(layout, **given)
    generator = th.Generator().manual_seed(seed)
    parts = train_network(model, updates, n_timesteps, seed, generator, env_id)

    imagination = Imagination(model, N_NORMAL, 8, ImaginationConfig(**chosen), generator)
    own_tasks = follow_agents(imagination, seed + 1, "train", env_id)
    decoded = decode_mixtures(imagination, own_tasks, probes, n_maps, generator)
    goals = {split: tasks.tasks(split) for split in ("train", "test", "test1", "test2") if split in tasks.splits}
    result = {name: round(value, 3) for name, value in parts.items()} | where_rewards_are(decoded, goals)
    result["own_task_right"] = round(task_right(imagination, probes, own_tasks, generator), 3)
    # The same agents on unseen tasks: does the network know a task that it was not trained on? (paper, Appendix B)
    unseen_tasks = follow_agents(imagination, seed + 2, "test", env_id)
    result["unseen_task_right"] = round(task_right(imagination, probes, unseen_tasks, generator), 3)
    return result, decoded


def train_network(
    model: RewardVAE, updates: int, n_timesteps: int, seed: int, generator: th.Generator, env_id: str
) -> dict[str, float]:
    """
    :param updates: gradient steps
    :param n_timesteps: of the agents together
    :return: parts of the last ELBO
    """
    n_meta_episodes = -(-n_timesteps // model.layout.meta_episode_steps)
    buffer, rng = MetaEpisodeBuffer(n_meta_episodes, model.layout, 64), np.random.default_rng(seed)
    collect(buffer, n_meta_episodes, seed, None, "train", env_id)
    parts: dict[str, float] = {}
    for done in range(0, updates, 100):
        parts = model.update(buffer, 25, min(100, updates - done), rng, generator)
    return parts


def follow_agents(imagination: Imagination, seed: int, split: str, env_id: str) -> list:
    """
    :param imagination: begins anew and follows one meta-episode of each of its normal workers
    :return: their tasks
    """
    imagination.start()
    buffer = MetaEpisodeBuffer(imagination.n_normal, imagination.vae.layout, imagination.n_normal)
    return collect(buffer, imagination.n_normal, seed, imagination, split, env_id)


def where_rewards_are(decoded: RewardMaps, goals: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """
    :param goals: of the tasks of each split, ``(n, 2)``
    :return: shares of the maps whose largest reward is on a goal of a split (``in_<split>``), how large it is, and how many
        cells have any
    """
    largest, peaks = decoded.maps.max(1), decoded.peaks()
    on = {split: (peaks[:, None] == cells[None]).all(-1) for split, cells in goals.items()}
    on_test, rewarded = on["test"], (decoded.maps > 0.45).sum(1)
    return {
        **{f"in_{split}": round(float(is_on.any(1).mean()), 3) for split, is_on in on.items()},
        "distinct_test": int(on_test.any(0).sum()),
        "peak": round(float(largest.mean()), 3),
        "peak_in_test": round(float(largest[on_test.any(1)].mean()), 3) if on_test.any() else None,
        "cells_above_half": np.round(np.quantile(rewarded, [0.1, 0.5, 0.9]), 1).tolist(),
        "no_goal": round(float((rewarded == 0).mean()), 3),
    }


def task_right(imagination: Imagination, probes: TaskProbes, tasks: list, generator: th.Generator) -> float:
    """:return: share of the normal workers for whose own goal the network predicts most after their final belief"""
    network = imagination.vae
    transitions = (probes.states, network.layout.encode_actions(probes.actions), probes.next_states)
    own = network.predict(imagination.final_means, transitions, generator).cpu().numpy()
    return float((probes.tasks[own.argmax(1)] == np.array(tasks)).all(-1).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """:param arguments: the command line, that of the process by default"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of everything (default: %(default)s)")
    parser.add_argument("--env", choices=ENV_IDS, default=ENV_IDS[0], help="(default: %(default)s)")
    parser.add_argument("-n", "--n-timesteps", type=int, default=N_TIMESTEPS, help="of training data (default: %(default)s)")
    parser.add_argument("--save", type=Path, help="folder for the result and the reward maps, of which Figure 4 is drawn")
    parser.add_argument(
        "-p", "--params", nargs="*", action=StoreDict, default={}, help="name:value, as in zoo_configs; updates and maps, too"
    )
    parser.add_argument("--agent", type=Path, help="run of LDM, or file of its agent, instead of scripted agents")
    parser.add_argument("--pretrained", action="store_true", help="the agent of LDM that comes with the package")
    parser.add_argument("--buffer", type=Path, help="the run's meta-episodes; else the agent is played on training tasks")
    parser.add_argument(
        "--meta-episodes", type=int, default=2000, help="of the agent, to play or use at most (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.pretrained or options.agent is not None:
        env_id, agent = (options.env, find_pretrained("ldm", options.env)) if options.pretrained else agent_of(options.agent)
        with one_thread_per_operation():
            found = study_agent(env_id, agent, options.buffer, options.params, options.seed, options.meta_episodes)
        print(json.dumps({"params": options.params, **found}))
        return
    start, start_cpu = time.time(), time.process_time()
    with one_thread_per_operation():
        result, maps = study(options.params, options.seed, options.n_timesteps, options.env)
    spent = {"wall_time_s": round(time.time() - start, 1), "cpu_time_s": round(time.process_time() - start_cpu, 1)}
    if options.save is not None:
        options.save.mkdir(parents=True, exist_ok=True)
        write_reward_maps(maps, options.save / REWARD_MAPS_FILE)
        told = {"hyperparameters": settings(options.params), "commit": current_commit(), **spent, "result": result}
        run = {"algo": IMAGINATION, "env": options.env, "seed": options.seed, "frames": options.n_timesteps}
        run |= {"episodes_per_task": 4, **told}
        with replacing(options.save / RUN_FILE) as path:
            path.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({"params": options.params, **result, **spent}))


if __name__ == "__main__":
    main()
