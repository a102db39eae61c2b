"""
How fast do stock RecurrentPPO, RL2 and LDM train, on the same meta-episodes and with the same network? And, with
``--physics``, how much of the speed of bare physics (the backend stepped with random actions) is left when LDM and RL2 train?

``python -m benchmarks.throughput [--physics [ENV ...]] [--quick]`` measures in one run, the contestants taking turns (A B C,
A B C, ...), prints what it found and adds it to ``benchmarks/results/speed.csv``: a row for each quantity, with its median and
the extremes of the rounds (of physics the quartiles). Ratios, which are of the same round, are worth more than the figures
that they are made of: those are of one machine.
"""

import argparse
import functools
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch as th
import yaml
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from benchmarks.tables import RESULTS
from sb3_ldm import LDM, RL2, make_meta_vec_env
from sb3_ldm.envs import BatchedMetaVecEnv
from sb3_ldm.envs.locomotion import DOMAINS, HORIZON
from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.nets.embedding import EmbeddingExtractor
from sb3_ldm.on_policy import SequencePPO
from sb3_ldm.version import current_commit
from sb3_ldm.zoo.configs import read_preset

ENV_ID = "GridNavi-v0"
SPEED_FILE = RESULTS / "speed.csv"
QUICK_FILE = Path("runs", "speed.csv")  #: of glimpses, which must not be among results that are kept

#: ``stock_two`` has the critic's LSTM that is stock's default, ``ldm`` the paper's choices, ``ldm_zoo`` the preset's.
ALGORITHMS: dict[str, type[RecurrentPPO]] = dict.fromkeys(("stock", "stock_two"), RecurrentPPO)
ALGORITHMS |= {"rl2": RL2, "ldm": LDM, "ldm_zoo_2": LDM, "ldm_zoo": LDM}
#: Of all, and what LDM does besides with the paper's choices at the sizes of the gridworld. They are not read from presets, so
#: that results stay comparable.
GIVEN: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))
PPO, GRID_LDM, GRID_VAE = GIVEN["ppo"], GIVEN["ldm"], GIVEN["vae_kwargs"]
N_MINIBATCHES = 2
#: Values of zoo_configs that are of no matter here or must be the same for all; and imagination, which costs time, is measured
#: from the start and in all mixture workers, whatever the decoder knows.
_NOT_FROM_ZOO = ("n_envs", "n_timesteps", "policy", "learning_rate", "batch_size", "imagination_starts", "require_goal")
#: Of the presets of robots, what is no parameter of the algorithm or must hold from the start.
_NOT_FOR_ROBOTS = ("n_envs", "n_timesteps", "policy", "normalize", "learning_rate", "imagination_starts")


@dataclass(frozen=True)
class Case:
    """One contestant; a rollout is one meta-episode of every worker."""

    algo: str  #: a key of :data:`ALGORITHMS`
    workers: int
    threads: int = 1
    episodes: int = 4  #: in a meta-episode
    hidden: int = 128  #: units of the LSTMs; ``ldm_zoo`` and ``ldm_zoo_2`` have those of their file


CASE = [field.name for field in fields(Case)]


@dataclass(frozen=True)
class Config:
    """What is measured, and how long: a sample has at least one rollout, a round a sample of each contestant."""

    algos: tuple[str, ...] = tuple(ALGORITHMS)
    workers: tuple[int, ...] = (16, 64)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 7
    sample_s: float = 1.5
    horizon: int = 30  #: steps in an episode


QUICK = Config(("stock", "rl2", "ldm"), threads=(2,), rounds=2, sample_s=0.2)


def hyperparameters(case: Case) -> dict[str, Any]:
    """:return: its algorithm's keyword arguments, without those that depend on the env"""
    network: dict[str, Any] = {"net_arch": [32], "lstm_hidden_size": case.hidden}
    own: dict[str, Any] = {}
    if ALGORITHMS[case.algo] is RecurrentPPO:
        shared = case.algo == "stock"
        network |= {"shared_lstm": shared, "enable_critic_lstm": not shared, "features_extractor_class": EmbeddingExtractor}
    elif case.algo == "ldm":
        own = {**GRID_LDM, "vae_kwargs": {**GRID_VAE, "encoder_hidden_size": case.hidden}}
    elif case.algo != "rl2":
        own = {name: value for name, value in read_preset("ldm", ENV_ID).items() if name not in _NOT_FROM_ZOO}
        own |= {"imagination_starts": 0, "require_goal": False}
    if case.algo == "ldm_zoo_2":
        own["vae_updates"] = GRID_LDM["vae_updates"]
    return {**PPO, "policy_kwargs": network, **own}


def make_model(case: Case, horizon: int) -> RecurrentPPO:
    """:return: its algorithm, with an env of its own"""
    env = make_meta_vec_env(ENV_ID, case.workers, 0, env_kwargs={"episodes_per_task": case.episodes, "horizon": horizon})
    n_steps = observation_layout(env.observation_space).meta_episode_steps
    sizes: dict[str, Any] = {"n_steps": n_steps, "batch_size": max(1, case.workers // N_MINIBATCHES) * n_steps}
    return _silent(ALGORITHMS[case.algo]("MlpLstmPolicy", env, **sizes, **hyperparameters(case)))


def _silent(model: Any) -> Any:
    model.set_logger(Logger(None, []))
    return model


def frames_of(model: RecurrentPPO) -> int:
    """:return: frames in a rollout of all workers"""
    return model.n_envs * model.n_steps


def train_rollouts(model: RecurrentPPO, rollouts: int) -> tuple[float, float]:
    """:return: seconds of the whole loop, and of ``train()`` in it"""
    seconds_of_updates = 0.0

    def train() -> None:
        nonlocal seconds_of_updates
        start = time.perf_counter()
        update()
        seconds_of_updates += time.perf_counter() - start

    update, start = model.train, time.perf_counter()
    with mock.patch.object(model, "train", train):
        model.learn(rollouts * frames_of(model), reset_num_timesteps=False)
    return time.perf_counter() - start, seconds_of_updates


def measure(cases: Sequence[Case], config: Config) -> pd.DataFrame:
    """
    :param cases: who takes turns, so that whatever else the machine does meets all of them
    :return: a row for each case in each round: ``frames``, ``seconds`` of the whole loop, and of its ``train()``
    """
    models: dict[Case, RecurrentPPO] = {}
    rollouts: dict[Case, int] = {}
    for case in {replace(case, threads=1): None for case in cases}:  # those that differ in their threads share an algorithm
        models[case] = make_model(case, config.horizon)
        th.set_num_threads(1)
        seconds, _ = train_rollouts(models[case], 1)
        rollouts[case] = min(max(1, int(config.sample_s / seconds)), 100)
    rows = []
    for taken in range(config.rounds):
        for case in cases:
            alone = replace(case, threads=1)
            model, n_rollouts = models[alone], rollouts[alone]
            th.set_num_threads(case.threads)
            seconds, updates = train_rollouts(model, n_rollouts)
            took = {"frames": n_rollouts * frames_of(model), "seconds": seconds, "train()": updates}
            rows.append({**asdict(case), "round": taken, **took})
    return pd.DataFrame(rows)


def spread(found: pd.DataFrame, by: Sequence[str], tail: float = 0.0) -> pd.DataFrame:
    """
    :param found: a row for each round of each contestant, with its quantities
    :param by: columns that tell contestants apart
    :param tail: share of the rounds to leave out on each side
    :return: a row for each quantity of each contestant: its median, and the extremes of the other rounds
    """
    values = found.melt(by, var_name="quantity").groupby(["quantity", *by], sort=False)["value"]
    low, high = values.quantile(tail), values.quantile(1.0 - tail)
    return pd.DataFrame({"rounds": values.size(), "median": values.median(), "low": low, "high": high}).reset_index()


def speeds(samples: pd.DataFrame) -> pd.DataFrame:
    """:return: frames/s of each, and milliseconds of ``train()`` for 1000 frames"""
    quantities = {"frames/s": samples["frames"] / samples["seconds"]}
    quantities["train(), ms a 1000 frames"] = 1e6 * samples["train()"] / samples["frames"]
    return spread(samples[CASE].assign(**quantities), CASE)


def ratios(samples: pd.DataFrame) -> pd.DataFrame:
    """:return: how much faster than stock each algorithm is, in the same round, each with the threads that suit it best"""
    found = []
    for quantity, stock, seconds in (
        ("times stock", "stock", "seconds"),
        ("times stock, train() alone", "stock", "train()"),
        ("times stock with two LSTMs", "stock_two", "seconds"),
    ):
        rated = samples.assign(rate=samples["frames"] / samples[seconds])
        rates = rated.pivot(index="round", columns=["workers", "algo", "threads"], values="rate")
        fastest = rates.median().groupby(["workers", "algo"], sort=False).idxmax()
        for (workers, algo), own in fastest.items():
            other = fastest.get((workers, stock))
            if other is not None and own != other:
                names = {"algo": algo, "workers": workers, "threads": f"{own[2]} against {other[2]}"}
                ratio = pd.DataFrame({**names, quantity: rates[own] / rates[other]})
                found.append(spread(ratio, list(names)))
    return pd.concat(found)


def compare(config: Config) -> pd.DataFrame:
    """:return: rows of the comparison with stock"""
    cases = [Case(algo, workers, n) for workers in config.workers for n in config.threads for algo in config.algos]
    samples = measure(cases, config)
    return pd.concat([ratios(samples), speeds(samples)]).assign(env=ENV_ID)


# Physics


def step_randomly(env: VecEnv, actions: np.ndarray) -> None:
    """
    :param env: environments that have been reset; of a batched backend, the backend itself is stepped
    :param actions: shape ``(n_steps, n_envs, action_dim)``
    """
    if not isinstance(env, BatchedMetaVecEnv):
        bare = env.get_attr("unwrapped")  # gymnasium's own environments
        for n_steps, action in enumerate(actions, start=1):
            for one, its_action in zip(bare, action, strict=True):
                if one.step(its_action)[2] or n_steps % HORIZON == 0:
                    one.reset()
        return
    tasks = np.stack(env.get_attr("task"))
    for action in actions:
        step = env.backend.step(action)
        ended = np.flatnonzero(step.terminated | step.truncated)
        if len(ended):
            env.backend.reset(ended, tasks[ended])


def make_robot_model(algo: str, env_id: str) -> SequencePPO:
    """:return: the algorithm with its preset, which imagines from the start"""
    preset = read_preset(algo, env_id)
    parameters = {name: value for name, value in preset.items() if name not in _NOT_FOR_ROBOTS}
    if algo == "ldm":
        parameters |= {"imagination_starts": 0, "imagination_requires": None}
    env = VecNormalize(make_meta_vec_env(env_id, preset["n_envs"], seed=0), gamma=preset["gamma"])
    return _silent(ALGORITHMS[algo]("MlpLstmPolicy", env, learning_rate=1e-4, seed=0, device="cpu", **parameters))


def measure_physics(env_id: str, rounds: int) -> pd.DataFrame:
    """:return: rows of :func:`physics_shares`"""
    models = {algo: make_robot_model(algo, env_id) for algo in ("ldm", "rl2")}
    frames = frames_of(models["ldm"])
    env = make_meta_vec_env(env_id, models["ldm"].n_envs, seed=0)
    env.reset()
    shape = (frames // env.num_envs, env.num_envs, models["ldm"].layout.action_dim)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, shape).astype(np.float32)
    contestants: dict[str, Callable[[], object]] = {"physics": functools.partial(step_randomly, env, actions)}
    for algo, model in models.items():
        assert frames % frames_of(model) == 0, "presets differ in their frames"
        contestants[algo] = functools.partial(train_rollouts, model, frames // frames_of(model))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for taken in range(-1, rounds):  # the first turn is not counted
        for name, take_turn in contestants.items():
            start = time.perf_counter()
            take_turn()
            seconds[name] += [time.perf_counter() - start] if taken >= 0 else []
    return physics_shares(env_id, env.num_envs, frames, pd.DataFrame(seconds))


def physics_shares(env_id: str, workers: int, frames: int, seconds: pd.DataFrame) -> pd.DataFrame:
    """
    :param seconds: a row for each round, a column for physics and each algorithm
    :return: frames/s, and the share of the physics' speed in the same round; the extremes are quartiles
    """
    tables = []
    for algo, own in seconds.items():
        names = {"env": env_id, "algo": algo, "workers": workers, "threads": th.get_num_threads()}
        found = pd.DataFrame({**names, "frames/s": frames / own, "share of physics": seconds["physics"] / own})
        tables.append(spread(found, list(names), tail=0.25))
    return pd.concat(tables)


# The table


def machine() -> dict[str, Any]:
    """:return: what the figures depend on besides the configuration"""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.processor() or platform.machine()
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"date": time.strftime("%Y-%m-%d"), "commit": current_commit(), "cpu": cpu, "load": load}


def add_rows(path: Path, rows: pd.DataFrame, where: Mapping[str, Any]) -> None:
    """:param where: :func:`machine`, before the measurements"""
    columns = ["date", "commit", "cpu", "load", "env", "quantity", "algo", "workers", "threads", "episodes", "hidden"]
    new = rows.assign(**where).reindex(columns=[*columns, "rounds", "median", "low", "high"])
    new = new.astype({"episodes": "Int64", "hidden": "Int64"})
    path.parent.mkdir(parents=True, exist_ok=True)
    new.to_csv(path, mode="a", header=not path.is_file(), index=False, float_format="%.5g", lineterminator="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """:param arguments: of the command line, those of the process if None"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"a glimpse, in a minute, that goes to {QUICK_FILE}")
    parser.add_argument("--physics", nargs="*", choices=list(DOMAINS), metavar="ENV", help="these or all MuJoCo domains")
    parser.add_argument("--out", type=Path, help=f"table that rows are added to (default: {SPEED_FILE})")
    options = parser.parse_args(arguments)
    config, where = QUICK if options.quick else Config(), machine()
    if (where["load"] or 0.0) > 0.5:
        # A thread that waits for one without a core spins: two threads can then be a hundred times slower than one.
        print(f"WARNING: the load average is {where['load']}. Results with several threads are of no use on a busy machine.")
    if options.physics is None:
        rows = compare(config)
    else:
        th.set_num_threads(2)
        rows = pd.concat([measure_physics(env, 2 * config.rounds + 1) for env in options.physics or DOMAINS])
    out = options.out or (QUICK_FILE if options.quick else SPEED_FILE)
    add_rows(out, rows, where)
    print(f"{rows.to_string(index=False, na_rep='', float_format='{:,.4g}'.format)}\nThis is in {out}, too.")


if __name__ == "__main__":
    main()
