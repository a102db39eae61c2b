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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from sb3_ldm.nets.sharding import backward_in_shards, n_shards, one_thread_per_operation
from sb3_ldm.on_policy import SequencePPO
from sb3_ldm.results.summary import markdown_table
from sb3_ldm.version import current_commit
from sb3_ldm.zoo.configs import read_preset

ENV_ID = "GridNavi-v0"
SPEED_FILE = RESULTS / "speed.csv"
QUICK_FILE = Path("runs", "speed.csv")  #: of glimpses, which must not be among results that are kept

#: ``stock_two`` has the critic's LSTM that is stock's default, ``ldm`` the paper's choices, ``ldm_zoo`` the preset's.
ALGORITHMS: dict[str, type[RecurrentPPO]] = {
    "stock": RecurrentPPO,
    "stock_two": RecurrentPPO,
    "rl2": RL2,
    "ldm": LDM,
    "ldm_zoo_2": LDM,
    "ldm_zoo": LDM,
}
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

ENVIRONMENT, POLICY, IMAGINATION = "environment", "policy forward", "belief and imagination"
PPO_UPDATE, VAE_UPDATE, OTHER = "PPO update", "VAE update", "other"
PARTS = (ENVIRONMENT, POLICY, IMAGINATION, PPO_UPDATE, VAE_UPDATE, OTHER)

Row = dict[str, Any]  #: of the table


@dataclass(frozen=True)
class Case:
    """One contestant; a rollout is one meta-episode of every worker."""

    algo: str  #: a key of :data:`ALGORITHMS`
    n_envs: int
    threads: int = 1
    episodes: int = 4  #: in a meta-episode
    hidden: int = 128  #: units of the LSTMs; ``ldm_zoo`` and ``ldm_zoo_2`` have those of their file


@dataclass(frozen=True)
class Config:
    """What is measured, and how long: a sample has at least one rollout, a round a sample of each contestant."""

    algos: tuple[str, ...] = tuple(ALGORITHMS)
    workers: tuple[int, ...] = (16, 64)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 7
    sample_s: float = 1.5
    #: Values of a case at which RL2 and LDM are timed, each varied alone.
    scaling: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("n_envs", (8, 16, 32, 64, 128, 256, 512)),
        ("episodes", (1, 2, 4, 8)),
        ("hidden", (32, 64, 128, 256)),
    )
    scaling_workers: int = 64
    scaling_rounds: int = 3
    physics_rounds: int = 15
    horizon: int = 30  #: steps in an episode


QUICK = Config(("stock", "rl2", "ldm"), threads=(2,), rounds=2, sample_s=0.2, scaling=(), physics_rounds=2)


class Stopwatch:
    """
    Where the wall time between ``with`` and its end goes, by methods that are watched meanwhile.

    The times do not overlap: a watched method that another one calls is left out of the caller's time. What no watched method
    takes belongs to :data:`OTHER`, so the parts sum to the whole.
    """

    def __init__(self) -> None:
        self.seconds = {OTHER: 0.0}
        self._running = [OTHER]
        self._restore: list[Callable[[], None]] = []

    def __enter__(self) -> "Stopwatch":
        self._last = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._charge()
        for restore in reversed(self._restore):
            restore()

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Time a method of an object until the end of the ``with``, which belongs to a part."""
        original, was_own = getattr(owner, method), method in vars(owner)
        self.seconds.setdefault(part, 0.0)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._charge()
            self._running.append(part)
            try:
                return original(*args, **kwargs)
            finally:
                self._charge()
                self._running.pop()

        setattr(owner, method, timed)
        restore = functools.partial(setattr, owner, method, original) if was_own else functools.partial(delattr, owner, method)
        self._restore.append(restore)

    def _charge(self) -> None:
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._last
        self._last = now


def watch_parts(watch: Stopwatch, model: RecurrentPPO) -> None:
    """Watch what a training loop spends its time on, in :data:`PARTS`."""
    for method in ("step_async", "step_wait"):
        watch.watch(model.env, method, ENVIRONMENT)
    for method in ("forward", "predict_values"):
        watch.watch(model.policy, method, POLICY)
    watch.watch(model, "train", PPO_UPDATE)
    if isinstance(model, LDM):
        assert model.mixture_env is not None
        for method in ("rewards", "observe", "new_tasks"):
            watch.watch(model.mixture_env.imagination, method, IMAGINATION)
        watch.watch(model.latent_dynamics, "update", VAE_UPDATE)
        # Batches of meta-episodes are put together by NumPy, which is no tensor arithmetic.
        watch.watch(model.replay_buffer, "sample", OTHER)


def hyperparameters(case: Case) -> dict[str, Any]:
    """:return: its algorithm's keyword arguments, without those that depend on the env"""
    network = {"net_arch": [32], "lstm_hidden_size": case.hidden}
    if case.algo in ("stock", "stock_two"):
        shared = case.algo == "stock"
        network |= {"shared_lstm": shared, "enable_critic_lstm": not shared, "features_extractor_class": EmbeddingExtractor}
        return {**PPO, "policy_kwargs": network}
    if case.algo == "rl2":
        return {**PPO, "policy_kwargs": network}
    if case.algo == "ldm":
        return {**PPO, **GRID_LDM, "policy_kwargs": network, "vae_kwargs": {**GRID_VAE, "encoder_hidden_size": case.hidden}}
    zoo = {name: value for name, value in read_preset("ldm", ENV_ID).items() if name not in _NOT_FROM_ZOO}
    if case.algo == "ldm_zoo_2":
        zoo["vae_updates"] = GRID_LDM["vae_updates"]
    return {**PPO, **zoo}


def make_model(case: Case, horizon: int) -> RecurrentPPO:
    """:return: its algorithm, with an env of its own"""
    env = make_meta_vec_env(ENV_ID, case.n_envs, 0, env_kwargs={"episodes_per_task": case.episodes, "horizon": horizon})
    n_steps = observation_layout(env.observation_space).meta_episode_steps
    batch_size = max(1, case.n_envs // N_MINIBATCHES) * n_steps
    given = hyperparameters(case)
    return _silent(ALGORITHMS[case.algo]("MlpLstmPolicy", env, n_steps=n_steps, batch_size=batch_size, **given))


def _silent(model: Any) -> Any:
    model.set_logger(Logger(None, []))
    return model


@contextmanager
def pytorch_threads() -> Iterator[None]:
    """Leave PyTorch's number of threads as it was."""
    before = th.get_num_threads()
    try:
        yield
    finally:
        th.set_num_threads(before)


def frames_of(model: RecurrentPPO) -> int:
    """:return: frames in a rollout of all workers"""
    return model.n_envs * model.n_steps


def train_rollouts(model: RecurrentPPO, rollouts: int) -> None:
    model.learn(rollouts * frames_of(model), reset_num_timesteps=False)


def spread(values: Any, tail: float = 0.0) -> Row:
    """
    :param tail: share of them to leave out on each side
    :return: their median and the extremes of the others
    """
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return {"median": float(np.median(values)), "low": float(low), "high": float(high), "rounds": len(values)}


Samples = dict[str, np.ndarray]  #: of a case, shape ``(rounds,)`` each: ``frames``, and seconds by what took them


def total_seconds(took: Samples) -> np.ndarray:
    """:return: seconds of the whole loop"""
    return np.sum([took[part] for part in PARTS], axis=0)


def train_seconds(took: Samples) -> np.ndarray:
    """:return: seconds of ``train()``"""
    return took[PPO_UPDATE] + took[VAE_UPDATE]


def measure(cases: Sequence[Case], rounds: int, config: Config) -> dict[Case, Samples]:
    """
    :param cases: who takes turns, so that whatever else the machine does meets all of them
    :return: what each took in every round, in :data:`PARTS`; of RL2 what its LSTM alone takes (``lstm``), too
    """
    models: dict[Case, RecurrentPPO] = {}
    rollouts: dict[Case, int] = {}
    for case in {replace(case, threads=1): None for case in cases}:  # those that differ in their threads share an algorithm
        models[case] = make_model(case, config.horizon)
        th.set_num_threads(1)
        start = time.perf_counter()
        train_rollouts(models[case], 1)
        rollouts[case] = min(max(1, int(config.sample_s / (time.perf_counter() - start))), 100)
    samples: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    for case in [*cases] * rounds:
        alone = replace(case, threads=1)
        model, n_rollouts = models[alone], rollouts[alone]
        th.set_num_threads(case.threads)
        with Stopwatch() as watch:
            watch_parts(watch, model)
            train_rollouts(model, n_rollouts)
        took = {"frames": n_rollouts * frames_of(model), **{part: watch.seconds.get(part, 0.0) for part in PARTS}}
        samples[case].append(took | ({"lstm": time_lstm(model, n_rollouts, case.threads)} if case.algo == "rl2" else {}))
    return {case: {name: np.array([one[name] for one in own]) for name in own[0]} for case, own in samples.items()}


def time_lstm(model: Any, rollouts: int, threads: int) -> float:
    """
    :return: seconds of what ``train()`` can at best be bound by: its LSTM alone, forwards and backwards through as many
        sequences of random inputs, in the same shards on the same threads
    """
    lstm = model.policy.lstm_actor
    n_sequences = model.batch_size // model.n_steps
    shift = th.zeros(lstm.input_size, requires_grad=True)  # makes the inputs' gradients needed, as those of embeddings
    inputs = th.randn(model.n_steps, n_sequences, lstm.input_size)
    shards = inputs.split(-(-n_sequences // n_shards(n_sequences, threads)), dim=1)
    start = time.perf_counter()
    with one_thread_per_operation() as n_threads:
        for _ in range(rollouts * model.n_epochs * (model.n_envs // n_sequences)):
            parameters = [shift, *lstm.parameters()]
            backward_in_shards(lambda shard: (lstm(shard + shift)[0].sum(), None), shards, parameters, n_threads)
    return time.perf_counter() - start


def case_rows(measured: Mapping[Case, Samples]) -> list[Row]:
    """:return: frames/s of each, milliseconds of ``train()`` for 1000 frames, and the shares of what takes the time"""
    rows = []
    for case, took in measured.items():
        own = {"algo": case.algo, "workers": case.n_envs, "threads": str(case.threads)}
        own |= {"episodes": case.episodes, "hidden": case.hidden}
        quantities = {"frames/s": took["frames"] / total_seconds(took)}
        quantities |= {"train(), ms a 1000 frames": 1e6 * train_seconds(took) / took["frames"]}
        quantities |= {f"share: {part}": took[part] / total_seconds(took) for part in PARTS}
        quantities |= {"share of train(): nn.LSTM": took["lstm"] / train_seconds(took)} if "lstm" in took else {}
        rows += [{"quantity": name, **own, **spread(values)} for name, values in quantities.items()]
    return rows


def ratio_rows(measured: Mapping[Case, Samples]) -> list[Row]:
    """:return: how much faster than stock each algorithm is, in the same round, each with the threads that suit it best"""
    rows: list[Row] = []

    def fastest(algo: str, n_envs: int, seconds: Callable[[Samples], np.ndarray]) -> Case | None:
        rates = {c: np.median(t["frames"] / seconds(t)) for c, t in measured.items() if (c.algo, c.n_envs) == (algo, n_envs)}
        return max(rates, key=lambda case: rates[case], default=None)

    for quantity, stock, seconds in (
        ("times stock", "stock", total_seconds),
        ("times stock, train() alone", "stock", train_seconds),
        ("times stock with two LSTMs", "stock_two", total_seconds),
    ):
        for algo, n_envs in dict.fromkeys((case.algo, case.n_envs) for case in measured if case.algo != stock):
            own, other = fastest(algo, n_envs, seconds), fastest(stock, n_envs, seconds)
            if own is not None and other is not None:
                rates = [measured[case]["frames"] / seconds(measured[case]) for case in (own, other)]
                threads = f"{own.threads} against {other.threads}"
                found = {"quantity": quantity, "algo": algo, "workers": n_envs, "threads": threads}
                rows.append(found | spread(rates[0] / rates[1]))
    return rows


def compare(config: Config) -> list[Row]:
    """:return: rows of the comparison with stock, and of the scaling"""
    cases = [Case(algo, n_envs, n) for n_envs in config.workers for n in config.threads for algo in config.algos]
    measured = measure(cases, config.rounds, config)
    rows = [*ratio_rows(measured), *case_rows(measured)]
    bases = [Case(algo, config.scaling_workers, n) for n in config.threads for algo in ("rl2", "ldm")]
    varied: list[Mapping[str, Any]] = [{name: value} for name, values in config.scaling for value in values]
    along = [replace(base, **one) for one in varied for base in bases]
    scaling = case_rows(measure(list(dict.fromkeys(along)), config.scaling_rounds, config)) if along else []
    return rows + [{**row, "quantity": "frames/s, scaling"} for row in scaling if row["quantity"] == "frames/s"]


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
    env = VecNormalize(make_meta_vec_env(env_id, preset["n_envs"], seed=0), gamma=preset["gamma"])
    return _silent(ALGORITHMS[algo]("MlpLstmPolicy", env, learning_rate=1e-4, seed=0, device="cpu", **parameters))


def measure_physics(env_id: str, rounds: int) -> list[Row]:
    """:return: rows"""
    models = {algo: make_robot_model(algo, env_id) for algo in ("ldm", "rl2")}
    frames = frames_of(models["ldm"])
    env = make_meta_vec_env(env_id, models["ldm"].n_envs, seed=0)
    env.reset()
    shape = (frames // env.num_envs, env.num_envs, models["ldm"].layout.action_dim)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, shape).astype(np.float32)
    contestants: dict[str, Callable[[], None]] = {"physics": functools.partial(step_randomly, env, actions)}
    for algo, model in models.items():
        assert frames % frames_of(model) == 0, "presets differ in their frames"
        contestants[algo] = functools.partial(train_rollouts, model, frames // frames_of(model))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for taken in range(-1, rounds):  # the first turn is not counted
        for name, take_turn in contestants.items():
            start = time.perf_counter()
            take_turn()
            seconds[name] += [time.perf_counter() - start] if taken >= 0 else []
    return physics_rows(env_id, env.num_envs, frames, seconds)


def physics_rows(env_id: str, n_envs: int, frames: int, seconds: Mapping[str, Sequence[float]]) -> list[Row]:
    """
    :param seconds: of the rounds of physics and each algorithm
    :return: frames/s, and the share of the physics' speed in the same round
    """
    rows = []
    for name, own in seconds.items():
        quantities = {"frames/s": frames / np.array(own), "share of physics": np.array(seconds["physics"]) / np.array(own)}
        told = {"env": env_id, "algo": name, "workers": n_envs, "threads": str(th.get_num_threads())}
        rows += [{"quantity": what, **told, **spread(values, tail=0.25)} for what, values in quantities.items()]
    return rows


# The table


def machine() -> Row:
    """:return: what the figures depend on besides the configuration"""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.processor() or platform.machine()
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"date": time.strftime("%Y-%m-%d"), "commit": current_commit(), "cpu": cpu, "load": load}


def add_rows(path: Path, rows: Sequence[Row], where: Row) -> None:
    """:param where: :func:`machine`, before it was"""
    new = pd.DataFrame([{"env": ENV_ID, **where, **row} for row in rows])
    columns = ["date", "commit", "cpu", "load", "env", "quantity", "algo", "workers", "threads", "episodes", "hidden"]
    new = new.reindex(columns=[*columns, "rounds", "median", "low", "high"]).astype({"episodes": "Int64", "hidden": "Int64"})
    path.parent.mkdir(parents=True, exist_ok=True)
    header = not path.is_file()
    new.to_csv(path, mode="a", header=header, index=False, float_format="%.5g", lineterminator="\n")


def table(rows: Sequence[Row]) -> str:
    """:return: it, as Markdown"""
    cells = []
    for row in rows:
        setting = ", ".join(f"{row[name]} {name}" for name in ("workers", "threads", "episodes", "hidden") if name in row)
        numbers = "{median:,.4g} ({low:,.4g} to {high:,.4g})".format_map(row)
        cells.append([row["quantity"], row.get("env", ENV_ID), row["algo"], setting, numbers])
    return markdown_table(["", "environment", "", "", "median and spread"], cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """:param arguments: of the command line, those of the process if None"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"a glimpse, in a minute, that goes to {QUICK_FILE}")
    parser.add_argument(
        "--physics", nargs="*", choices=list(DOMAINS), metavar="ENV", help="these or all MuJoCo domains instead"
    )
    parser.add_argument("--out", type=Path, help=f"table that rows are added to (default: {SPEED_FILE})")
    options = parser.parse_args(arguments)
    config, where = QUICK if options.quick else Config(), machine()
    if (where["load"] or 0.0) > 0.5:
        # A thread that waits for one without a core spins: two threads can then be a hundred times slower than one.
        print(f"WARNING: the load average is {where['load']}. Results with several threads are of no use on a busy machine.")
    with pytorch_threads():
        if options.physics is None:
            rows = compare(config)
        else:
            th.set_num_threads(2)
            rows = [row for env in options.physics or DOMAINS for row in measure_physics(env, config.physics_rounds)]
    out = options.out or (QUICK_FILE if options.quick else SPEED_FILE)
    add_rows(out, rows, where)
    print(f"{table(rows)}\nThis is in {out}, too.")


if __name__ == "__main__":
    main()
