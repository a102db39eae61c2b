"""
How fast do stock RecurrentPPO, RL2 and LDM train, on the same meta-episodes and with the same network?

``python -m benchmarks.throughput [--quick] [--out DIR]`` measures all of it in one run, the contestants taking turns (A B C,
A B C, ...), and writes ``throughput.json`` with every raw sample, ``throughput.md`` and ``throughput.png``. ``--redraw`` makes
the latter two from the JSON again. Ratios are worth more than the figures they are made of: those are of one machine.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import sb3_contrib
import stable_baselines3
import torch as th
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.logger import Logger

import sb3_ldm
from sb3_ldm import LDM, RL2, make_meta_vec_env
from sb3_ldm.common.embedding import EmbeddingExtractor
from sb3_ldm.common.latent_dynamics import MetaEpisodeBuffer
from sb3_ldm.common.meta_episode import observation_layout
from sb3_ldm.common.sharding import backward_in_shards, n_shards, one_thread_per_operation
from sb3_ldm.figures import COLOURS
from sb3_ldm.zoo.configs import load_preset

ENV_ID = "GridNavi-v0"
DEFAULT_OUT = "benchmarks/results/throughput"

ALGORITHMS: dict[str, type[RecurrentPPO]] = {
    "stock": RecurrentPPO,
    "stock_two": RecurrentPPO,
    "rl2": RL2,
    "ldm": LDM,
    "ldm_zoo": LDM,
}
NAMES = {
    "stock": "RecurrentPPO (sb3-contrib)",
    "stock_two": "RecurrentPPO, critic with an LSTM of its own (its default)",
    "rl2": "RL2",
    "ldm": "LDM",
    "ldm_zoo": "LDM, zoo_configs",
}

#: The same for all; a minibatch is half of a rollout.
PPO: dict[str, Any] = {
    "learning_rate": 1e-3,
    "n_epochs": 4,
    "gamma": 0.95,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.05,
    "seed": 0,
    "device": "cpu",
}
N_MINIBATCHES = 2
#: What LDM does besides, at the sizes of the gridworld. They are not read from elsewhere, so that results stay comparable.
GRID_LDM: dict[str, Any] = {
    "mixture_ratio": 0.25,
    "imagination_starts": 0,
    "vae_updates": 2,
    "vae_batch_size": 25,
    "vae_buffer_size": 20_000,
    "latent_dim": 32,
    "dropout_rate": 0.7,
    "kl_weight": 10.0,
    "n_elbo_terms": 24,
    "reward_likelihood": "bernoulli",
    "bernoulli_rewards": (-0.1, 1.0),
    "decoder_inputs": ("next_state",),
}
GRID_VAE: dict[str, Any] = {"encoder_embeddings": (32, 0, 8), "decoder_embeddings": (32, 16), "decoder_layers": (32, 32)}
#: Values of zoo_configs that are of no matter here or must be the same for all; and imagination, which costs time, is measured
#: from the start.
_NOT_FROM_ZOO = ("n_envs", "n_timesteps", "policy", "learning_rate", "batch_size", "imagination_starts")

ENVIRONMENT, POLICY, IMAGINATION = "environment", "policy forward", "belief and imagination"
PPO_UPDATE, VAE_UPDATE, OTHER = "PPO update", "VAE update", "other"
PARTS = (ENVIRONMENT, POLICY, IMAGINATION, PPO_UPDATE, VAE_UPDATE, OTHER)

BUFFER_SIZE = 20_000  #: meta-episodes in the VAE buffer whose memory is told
MEMORY_ROLLOUTS = 2

Record = dict[str, Any]  #: of throughput.json


@dataclass(frozen=True)
class Config:
    """
    What is measured, and how long.

    :param algos: algorithms that are compared, stock among them
    :param workers: numbers of workers at which they are compared
    :param threads: numbers of threads at which they are
    :param rounds: samples of each, one a round
    :param sample_s: seconds that a sample should take; it has at least one rollout
    :param profile_workers: workers of the breakdown, of the memory and of the scaling along other axes
    :param profile_algos: algorithms of the breakdown
    :param profile_rounds: samples of the breakdown
    :param scaling_workers: numbers of workers of the scaling
    :param scaling_episodes: episodes in a meta-episode of the scaling
    :param scaling_hidden: hidden sizes of the scaling, of the policy's LSTM and of encoder-v's
    :param scaling_threads: numbers of threads of the scaling
    :param scaling_rounds: samples of the scaling
    :param memory_algos: algorithms whose peak memory is measured, in a process each
    :param episodes: episodes in a meta-episode, where it is not varied
    :param hidden: hidden size, where it is not varied
    :param horizon: steps in an episode
    """

    algos: tuple[str, ...] = tuple(ALGORITHMS)
    workers: tuple[int, ...] = (16, 64)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 7
    sample_s: float = 1.5
    profile_workers: int = 64
    profile_algos: tuple[str, ...] = tuple(ALGORITHMS)
    profile_rounds: int = 5
    scaling_workers: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    scaling_episodes: tuple[int, ...] = (1, 2, 4, 8)
    scaling_hidden: tuple[int, ...] = (32, 64, 128, 256)
    scaling_threads: tuple[int, ...] = (1, 2)
    scaling_rounds: int = 3
    memory_algos: tuple[str, ...] = tuple(ALGORITHMS)
    episodes: int = 4
    hidden: int = 128
    horizon: int = 30


QUICK = Config(
    algos=("stock", "stock_two", "rl2", "ldm"),
    rounds=2,
    sample_s=0.2,
    profile_algos=("ldm",),
    profile_rounds=2,
    scaling_workers=(8, 64),
    scaling_episodes=(4,),
    scaling_hidden=(128,),
    scaling_threads=(1,),
    scaling_rounds=1,
    memory_algos=(),
)


@dataclass(frozen=True)
class Case:
    """
    One contestant.

    :param algo: a key of :data:`ALGORITHMS`
    :param n_envs: number of workers
    :param threads: of PyTorch
    :param episodes: episodes in a meta-episode; a rollout is one meta-episode of every worker
    :param hidden: units of the LSTMs; ``ldm_zoo`` has those of its file
    """

    algo: str
    n_envs: int
    threads: int
    episodes: int
    hidden: int


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

    @property
    def total(self) -> float:
        """All seconds so far."""
        return sum(self.seconds.values())

    def watch(self, owner: Any, method: str, part: str) -> None:
        """
        :param owner: the object whose method is to be timed until the end of the ``with``
        :param method: name of the method
        :param part: what its time belongs to
        """
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
    """
    Watch what a training loop spends its time on, in :data:`PARTS`.

    :param watch: the stopwatch
    :param model: the algorithm
    """
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


@contextlib.contextmanager
def pytorch_threads() -> Iterator[None]:
    """Leave PyTorch's number of threads as it was."""
    before = th.get_num_threads()
    try:
        yield
    finally:
        th.set_num_threads(before)


def hyperparameters(case: Case) -> dict[str, Any]:
    """
    :param case: a contestant
    :return: its algorithm's keyword arguments, without those that depend on the env
    """
    network = {"net_arch": [32], "lstm_hidden_size": case.hidden}
    if case.algo in ("stock", "stock_two"):
        shared = case.algo == "stock"
        same_network = {
            "shared_lstm": shared,
            "enable_critic_lstm": not shared,
            "features_extractor_class": EmbeddingExtractor,
        }
        return {**PPO, "policy_kwargs": {**network, **same_network}}
    if case.algo == "rl2":
        return {**PPO, "policy_kwargs": network}
    if case.algo == "ldm":
        return {**PPO, **GRID_LDM, "policy_kwargs": network, "vae_kwargs": {**GRID_VAE, "encoder_hidden_size": case.hidden}}
    zoo = load_preset("ldm", ENV_ID)
    return {**PPO, **{name: value for name, value in zoo.items() if name not in _NOT_FROM_ZOO}}


def make_model(case: Case, horizon: int) -> RecurrentPPO:
    """
    :param case: a contestant
    :param horizon: steps in an episode
    :return: its algorithm, with an env of its own
    """
    env_kwargs = {"episodes_per_task": case.episodes, "horizon": horizon}
    env = make_meta_vec_env(ENV_ID, case.n_envs, seed=0, env_kwargs=env_kwargs)
    n_steps = observation_layout(env.observation_space).meta_episode_steps
    batch_size = max(1, case.n_envs // N_MINIBATCHES) * n_steps
    parameters = hyperparameters(case)
    model = ALGORITHMS[case.algo]("MlpLstmPolicy", env, n_steps=n_steps, batch_size=batch_size, **parameters)
    model.set_logger(Logger(None, []))
    return model


def frames_of(model: RecurrentPPO) -> int:
    """:return: frames in a rollout of all workers"""
    return model.n_envs * model.n_steps


def train_rollouts(model: RecurrentPPO, rollouts: int) -> None:
    """
    :param model: the algorithm to train further
    :param rollouts: how many rollouts, each with its updates
    """
    model.learn(rollouts * frames_of(model), reset_num_timesteps=False)


class Contestant(NamedTuple):
    """A case and what runs it."""

    case: Case
    model: RecurrentPPO
    rollouts: int  #: in a sample

    def record(self, **samples: Any) -> Record:
        """:return: the case's entry in the JSON"""
        return {**asdict(self.case), "rollouts": self.rollouts, "frames": self.rollouts * frames_of(self.model), **samples}


def prepare(cases: Sequence[Case], config: Config, prepared: dict[Case, Contestant]) -> list[Contestant]:
    """
    Make the algorithms and train each for a rollout, which also tells how many rollouts a sample needs.

    :param cases: the cases; those that differ in their threads share an algorithm
    :param config: what is measured
    :param prepared: algorithms that are already there, by their case with one thread; new ones are added
    :return: the contestants
    """
    for case in cases:
        alone = replace(case, threads=1)
        if alone not in prepared:
            model = make_model(case, config.horizon)
            th.set_num_threads(1)
            start = time.perf_counter()
            train_rollouts(model, 1)
            rollouts = int(config.sample_s / (time.perf_counter() - start))
            prepared[alone] = Contestant(alone, model, max(1, min(rollouts, 100)))
    return [prepared[replace(case, threads=1)]._replace(case=case) for case in cases]


def take_turns(contestants: Sequence[Contestant], rounds: int, sample: Callable[[Contestant], Any]) -> list[list[Any]]:
    """
    :param contestants: who takes turns, so that whatever else the machine does meets all of them
    :param rounds: turns of each
    :param sample: measures one turn
    :return: the samples of each contestant
    """
    samples: list[list[Any]] = [[] for _ in contestants]
    for _ in range(rounds):
        for contestant, own in zip(contestants, samples, strict=True):
            th.set_num_threads(contestant.case.threads)
            own.append(sample(contestant))
    return samples


def sample_speed(contestant: Contestant) -> dict[str, float]:
    """
    :param contestant: whose turn it is
    :return: ``seconds`` of the whole loop, ``train_seconds`` of ``train()`` in it and, of RL2, ``lstm_seconds``
    """
    with Stopwatch() as watch:
        watch.watch(contestant.model, "train", "train")
        train_rollouts(contestant.model, contestant.rollouts)
    times = {"seconds": watch.total, "train_seconds": watch.seconds["train"]}
    return times | ({"lstm_seconds": sample_lstm(contestant)} if contestant.case.algo == "rl2" else {})


def sample_lstm(contestant: Contestant) -> float:
    """
    What a training loop can at best be bound by: its LSTM alone, forwards and backwards through as many sequences.

    :param contestant: whose turn it is
    :return: seconds of that part of ``train()``, with random inputs, in the same shards on the same threads
    """
    model: Any = contestant.model
    lstm = model.policy.lstm_actor
    n_sequences = model.batch_size // model.n_steps
    shift = th.zeros(lstm.input_size, requires_grad=True)  # makes the inputs' gradients needed, as those of embeddings
    inputs = th.randn(model.n_steps, n_sequences, lstm.input_size)
    shards = inputs.split(-(-n_sequences // n_shards(n_sequences, contestant.case.threads)), dim=1)
    parameters = [shift, *lstm.parameters()]
    n_minibatches = contestant.rollouts * model.n_epochs * (model.n_envs // n_sequences)
    start = time.perf_counter()
    with one_thread_per_operation() as n_threads:
        for _ in range(n_minibatches):
            backward_in_shards(lambda shard: (lstm(shard + shift)[0].sum(), None), shards, parameters, n_threads)
    return time.perf_counter() - start


def sample_parts(contestant: Contestant) -> dict[str, float]:
    """
    :param contestant: whose turn it is
    :return: seconds of each of :data:`PARTS`
    """
    with Stopwatch() as watch:
        watch_parts(watch, contestant.model)
        train_rollouts(contestant.model, contestant.rollouts)
    return {part: watch.seconds.get(part, 0.0) for part in PARTS}


def measure_speed(contestants: Sequence[Contestant], rounds: int) -> list[Record]:
    """
    :param contestants: who takes turns
    :param rounds: samples of each
    :return: an entry for each with what :func:`sample_speed` gives, of every sample
    """
    records = []
    for contestant, samples in zip(contestants, take_turns(contestants, rounds, sample_speed), strict=True):
        records.append(contestant.record(**{name: [sample[name] for sample in samples] for name in samples[0]}))
    return records


def measure_parts(contestants: Sequence[Contestant], rounds: int) -> list[Record]:
    """
    :param contestants: who takes turns
    :param rounds: samples of each
    :return: an entry for each with the ``parts`` of every sample
    """
    turns = take_turns(contestants, rounds, sample_parts)
    return [contestant.record(parts=samples) for contestant, samples in zip(contestants, turns, strict=True)]


def comparison_cases(config: Config) -> list[Case]:
    """:return: every algorithm at every number of workers and threads"""
    return [
        Case(algo, n_envs, threads, config.episodes, config.hidden)
        for n_envs in config.workers
        for threads in config.threads
        for algo in config.algos
    ]


def profile_cases(config: Config) -> list[Case]:
    """:return: the cases of the breakdown"""
    return [
        Case(algo, config.profile_workers, threads, config.episodes, config.hidden)
        for threads in config.threads
        for algo in config.profile_algos
    ]


def scaling_cases(config: Config) -> list[Case]:
    """:return: the cases of the scaling, each once though several axes may share it"""
    base = Case("rl2", config.profile_workers, 1, config.episodes, config.hidden)
    along = [
        *(replace(base, n_envs=n) for n in config.scaling_workers),
        *(replace(base, episodes=n) for n in config.scaling_episodes),
        *(replace(base, hidden=n) for n in config.scaling_hidden),
    ]
    variants = [(threads, algo) for threads in config.scaling_threads for algo in ("rl2", "ldm")]
    return list(dict.fromkeys(replace(case, threads=threads, algo=algo) for case in along for threads, algo in variants))


def peak_memory(algo: str | None, config: Config) -> int:
    """
    :param algo: an algorithm to train for some rollouts; None for none
    :param config: what is measured
    :return: peak resident memory of this process in bytes
    """
    # Not on every platform, and not needed to redraw.
    import resource

    if algo is not None:
        th.set_num_threads(1)
        case = Case(algo, config.profile_workers, 1, config.episodes, config.hidden)
        train_rollouts(make_model(case, config.horizon), MEMORY_ROLLOUTS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_memory(config: Config) -> Record:
    """
    To be called before this process has grown: on Linux a child's peak begins with what its parent has.

    :param config: what is measured
    :return: peak memory of a process for each algorithm and of one that only imports them, and the VAE buffer's memory
    """
    algos = [None, *config.memory_algos] if config.memory_algos else []
    peaks: list[int] = []
    if algos:
        with multiprocessing.get_context("spawn").Pool(min(2, len(algos)), maxtasksperchild=1) as pool:
            peaks = pool.starmap(peak_memory, [(algo, config) for algo in algos], chunksize=1)
    env = make_meta_vec_env(ENV_ID, 1)
    buffer = MetaEpisodeBuffer(BUFFER_SIZE, observation_layout(env.observation_space), 1)
    return {
        "n_envs": config.profile_workers,
        "rollouts": MEMORY_ROLLOUTS,
        "peak_bytes": {"imports" if algo is None else algo: peak for algo, peak in zip(algos, peaks, strict=True)},
        "vae_buffer_size": BUFFER_SIZE,
        "vae_buffer_bytes": buffer.nbytes,
    }


def cpu_name() -> str:
    """:return: the processor's model name"""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def load_average() -> float | None:
    """:return: how many processes run, averaged over the last minute; None where the system does not tell"""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe_machine() -> Record:
    """:return: what the figures depend on besides the configuration"""
    # Imports much of the zoo, which would count as memory of every algorithm.
    from sb3_ldm.zoo.experiment import current_commit

    return {
        "cpu": cpu_name(),
        "n_cpus": os.cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "system": platform.system(),
        "commit": current_commit(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {
            "python": platform.python_version(),
            "torch": str(th.__version__),
            "numpy": np.__version__,
            "stable_baselines3": stable_baselines3.__version__,
            "sb3_contrib": sb3_contrib.__version__,
            "sb3_ldm": sb3_ldm.__version__,
        },
    }


def run(config: Config) -> Record:
    """
    :param config: what is measured
    :return: all results, as they stand in the JSON
    """
    start = time.perf_counter()

    def announce(text: str) -> None:
        print(f"{time.perf_counter() - start:6.1f} s  {text}", flush=True)

    prepared: dict[Case, Contestant] = {}
    load = load_average()
    if load is not None and load > 0.5:
        # A thread that waits for one without a core spins: two threads can then be a hundred times slower than one.
        print(f"WARNING: the load average is {load:.1f}. Results with several threads are of no use on a busy machine.")
    with pytorch_threads():
        announce("peak memory")
        memory = measure_memory(config)
        cases = comparison_cases(config)
        announce(f"frames/s: {len(cases)} cases take turns, {config.rounds} rounds")
        throughput = measure_speed(prepare(cases, config, prepared), config.rounds)
        cases = profile_cases(config)
        announce(f"where the time goes: {len(cases)} cases take turns, {config.profile_rounds} rounds")
        breakdown = measure_parts(prepare(cases, config, prepared), config.profile_rounds)
        cases = scaling_cases(config)
        announce(f"scaling: {len(cases)} cases take turns, {config.scaling_rounds} rounds")
        scaling = measure_speed(prepare(cases, config, prepared), config.scaling_rounds)
    announce("done")
    base = Case("stock", config.profile_workers, 1, config.episodes, config.hidden)
    result = {
        "command": "python -m benchmarks.throughput" + (" --quick" if config == QUICK else ""),
        "config": asdict(config),
        "env": ENV_ID,
        "n_minibatches": N_MINIBATCHES,
        "algorithms": {algo: hyperparameters(replace(base, algo=algo)) for algo in config.algos},
        "machine": {**describe_machine(), "load_before": load},
        "seconds": time.perf_counter() - start,
        "memory": memory,
        "throughput": throughput,
        "breakdown": breakdown,
        "scaling": scaling,
    }
    return json.loads(json.dumps(result, default=lambda value: getattr(value, "__name__", str(value))))


# From here on, everything is made of the JSON alone.


class Spread(NamedTuple):
    """A median over the rounds, and the extremes."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """:return: for a table"""
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def spread(values: Sequence[float] | np.ndarray) -> Spread:
    """
    :param values: of all rounds
    :return: their median and extremes
    """
    return Spread(float(np.median(values)), float(np.min(values)), float(np.max(values)))


def frame_rates(record: Record) -> np.ndarray:
    """:return: frames/s of the whole loop in every round"""
    return record["frames"] / np.array(record["seconds"])


def train_rates(record: Record) -> np.ndarray:
    """:return: frames/s of ``train()`` alone in every round"""
    return record["frames"] / np.array(record["train_seconds"])


def select(records: Sequence[Record], **values: Any) -> list[Record]:
    """
    :param records: entries of the JSON
    :param values: what they must hold
    :return: those that do
    """
    return [record for record in records if all(record[name] == value for name, value in values.items())]


def fastest(records: Sequence[Record], rates: Callable[[Record], np.ndarray]) -> Record | None:
    """
    :param records: the same case with different threads
    :param rates: the speed that counts
    :return: the fastest by its median, None of none
    """
    return max(records, key=lambda record: float(np.median(rates(record))), default=None)


def shares(record: Record) -> dict[str, float]:
    """
    :param record: an entry of the breakdown
    :return: share of each part in the time of all rounds, summing to 1
    """
    seconds = {part: sum(sample[part] for sample in record["parts"]) for part in PARTS}
    total = sum(seconds.values())
    return {part: value / total for part, value in seconds.items()}


def part_spread(record: Record, part: str) -> Spread:
    """
    :param record: an entry of the breakdown
    :param part: one of :data:`PARTS`
    :return: its share over the rounds
    """
    return spread([sample[part] / sum(sample.values()) for sample in record["parts"]])


class Target(NamedTuple):
    """Something that should be reached, and what was."""

    name: str
    wanted: str
    measured: str
    met: bool | None  #: None if it was not measured, or is no target


def speed_target(
    result: Record,
    name: str,
    algo: str,
    n_envs: int,
    least: float | None,
    rates: Callable[[Record], np.ndarray] = frame_rates,
    stock_algo: str = "stock",
) -> Target:
    """
    Compare with stock in the same round, each with the number of threads that suits it best.

    :param result: the JSON
    :param name: what is compared
    :param algo: whose speed
    :param n_envs: number of workers
    :param least: the least ratio wanted, None if none is
    :param rates: the speed that counts
    :param stock_algo: what it is compared with
    :return: the target
    """
    wanted = "-" if least is None else f"at least {least:g}x"
    own, stock = (fastest(select(result["throughput"], algo=a, n_envs=n_envs), rates) for a in (algo, stock_algo))
    if own is None or stock is None:
        return Target(name, wanted, "not measured", None)
    ratio = spread(rates(own) / rates(stock))
    measured = f"{ratio.text()}x with {own['threads']} against {stock['threads']} thread(s)"
    return Target(name, wanted, measured, None if least is None else ratio.median >= least)


def targets(result: Record) -> list[Target]:
    """
    :param result: the JSON
    :return: all targets, judged by the medians
    """
    found = [
        speed_target(result, "RL2, `train()` alone, 16 workers", "rl2", 16, 5.0, train_rates),
        speed_target(result, "RL2, whole loop, 16 workers", "rl2", 16, 3.0),
        speed_target(result, "RL2, whole loop, 64 workers", "rl2", 64, 4.0),
        speed_target(result, "LDM, whole loop, 64 workers", "ldm", 64, 3.0),
        *(
            speed_target(result, f"{NAMES[algo]}, 64 workers, against two LSTMs", algo, 64, None, stock_algo="stock_two")
            for algo in ("rl2", "ldm")
        ),
    ]
    ldm = fastest(select(result["throughput"], algo="ldm", n_envs=64), frame_rates)
    name, wanted = "LDM, 64 workers (an aim)", "25,000 frames/s"
    if ldm is None:
        found.append(Target(name, wanted, "not measured", None))
    else:
        rate = spread(frame_rates(ldm))
        found.append(Target(name, wanted, f"{rate.text(0)} with {ldm['threads']} thread(s)", rate.median >= 25_000))
    name, wanted = "LDM, 64 workers, neither tensor arithmetic nor environment", "at most 25%"
    threads = None if ldm is None else ldm["threads"]
    parts = select(result["breakdown"], algo="ldm", n_envs=64, threads=threads)
    if not parts:
        found.append(Target(name, wanted, "not measured", None))
    else:
        share = part_spread(parts[0], OTHER)
        percent = Spread(*(100 * value for value in share))
        found.append(Target(name, wanted, f"{percent.text(1)}% with {threads} thread(s)", share.median <= 0.25))
    memory = result["memory"]
    megabytes = memory["vae_buffer_bytes"] / 1e6
    name = f"VAE buffer, {memory['vae_buffer_size']:,} grid meta-episodes"
    return [*found, Target(name, "at most 40 MB", f"{megabytes:.1f} MB", megabytes <= 40.0)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    :param header: names of the columns
    :param rows: cells
    :return: a Markdown table
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def target_table(result: Record) -> str:
    """:return: the targets, as Markdown"""
    verdicts = {True: "pass", False: "FAIL", None: "-"}
    rows = [[target.name, target.wanted, target.measured, verdicts[target.met]] for target in targets(result)]
    return table(["", "target", "median (extremes)", ""], rows)


def speed_table(result: Record) -> str:
    """:return: the comparison, as Markdown"""
    rows = []
    for record in result["throughput"]:
        same = {"n_envs": record["n_envs"], "threads": record["threads"]}
        [stock] = select(result["throughput"], algo="stock", **same)
        one = select(result["throughput"], algo=record["algo"], n_envs=record["n_envs"], threads=1)
        against_one = spread(frame_rates(record) / frame_rates(one[0])).text() if one else "-"
        rows.append(
            [
                str(record["n_envs"]),
                str(record["threads"]),
                NAMES[record["algo"]],
                spread(frame_rates(record)).text(0),
                spread(frame_rates(record) / frame_rates(stock)).text(),
                spread(1e3 * np.array(record["train_seconds"]) / record["rollouts"]).text(1),
                spread(train_rates(record) / train_rates(stock)).text(),
                against_one,
            ]
        )
    header = ["workers", "threads", "", "frames/s", "x stock", "`train()`, ms", "x stock's", "x one thread"]
    return table(header, rows)


def hardware_table(result: Record) -> str:
    """:return: how much of the update is the LSTM's arithmetic, as Markdown"""
    ppo, rows = result["algorithms"]["rl2"], []
    for record in select(result["throughput"], algo="rl2"):
        lstm = np.array(record["lstm_seconds"])
        steps = record["frames"] * ppo["n_epochs"]
        share = spread(100 * lstm / np.array(record["train_seconds"]))
        rows.append([str(record["n_envs"]), str(record["threads"]), spread(steps / lstm).text(0), f"{share.text(0)}%"])
    return table(["workers", "threads", "`nn.LSTM` alone, steps/s forwards and backwards", "share of `train()`"], rows)


def breakdown_table(result: Record) -> str:
    """:return: where the time goes, as Markdown"""
    rows = []
    for record in result["breakdown"]:
        per_frame = 1e6 * np.array([sum(sample.values()) for sample in record["parts"]]) / record["frames"]
        percents = [f"{100 * share:.1f}%" for share in shares(record).values()]
        rows.append([NAMES[record["algo"]], str(record["threads"]), f"{np.median(per_frame):.1f}", *percents])
    return table(["", "threads", "us/frame", *PARTS], rows)


def memory_table(result: Record) -> str:
    """:return: peak memory, as Markdown"""
    peaks = result["memory"]["peak_bytes"]
    rows = [
        [NAMES.get(name, "imports alone"), f"{peak / 1e6:.0f}", f"{(peak - peaks['imports']) / 1e6:.0f}"]
        for name, peak in peaks.items()
    ]
    return table(["", "peak, MB", "above the imports, MB"], rows)


#: Axes of the scaling: name in the JSON, name for people.
AXES = {"n_envs": "workers", "episodes": "episodes in a meta-episode", "hidden": "hidden size"}


def scaling_along(result: Record, axis: str) -> list[Record]:
    """
    :param result: the JSON
    :param axis: a key of :data:`AXES`
    :return: the entries that differ from the base case along this axis only, in its order
    """
    config = result["config"]
    base = {"n_envs": config["profile_workers"], "episodes": config["episodes"], "hidden": config["hidden"]}
    base.pop(axis)
    wanted = {"n_envs": "scaling_workers", "episodes": "scaling_episodes", "hidden": "scaling_hidden"}[axis]
    records = [record for record in select(result["scaling"], **base) if record[axis] in config[wanted]]
    return sorted(records, key=lambda record: record[axis])


def scaling_table(result: Record, axis: str) -> str:
    """
    :param result: the JSON
    :param axis: a key of :data:`AXES`
    :return: frames/s along the axis, as Markdown
    """
    records = scaling_along(result, axis)
    columns = list(dict.fromkeys((record["algo"], record["threads"]) for record in records))
    rows = []
    for value in dict.fromkeys(record[axis] for record in records):
        cells = (select(records, algo=algo, threads=threads, **{axis: value}) for algo, threads in columns)
        rows.append([str(value), *(spread(frame_rates(found[0])).text(0) if found else "-" for found in cells)])
    return table([AXES[axis], *(f"{NAMES[algo]}, {threads} thread(s)" for algo, threads in columns)], rows)


def report(result: Record) -> str:
    """
    :param result: the JSON
    :return: all tables, as Markdown
    """
    config, machine, memory = result["config"], result["machine"], result["memory"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    steps = config["episodes"] * config["horizon"]
    ppo = result["algorithms"]["stock"]
    return "\n".join(
        [
            "# Throughput\n",
            f"Made by `{result['command']}` on {machine['cpu']} ({machine['n_cpus']} CPUs), commit {machine['commit']}, "
            f"{machine['date']}; {versions}; load average before: {machine['load_before']}. "
            "Every sample is in `throughput.json`.\n",
            f"All train on {result['env']} with {steps} steps per worker and rollout, {ppo['n_epochs']} epochs of "
            f"{result['n_minibatches']} minibatches, hidden size {config['hidden']}, and take turns in one run: medians, with "
            f"the extremes of {config['rounds']} rounds in brackets. Ratios are of the same round.\n",
            "## Targets\n",
            "Each algorithm with the number of threads that suits it best.\n",
            target_table(result),
            "## Frames per second\n",
            "Ratios to stock are at the same number of threads.\n",
            speed_table(result),
            "## How near to the matrix unit\n",
            "What the LSTM's own arithmetic takes, measured in the same rounds on as many sequences of random inputs: RL2's "
            "`train()` cannot be faster than this.\n",
            hardware_table(result),
            f"## Where the time goes, {config['profile_workers']} workers\n",
            "Shares of the loop. *Other* is what is neither a network call, nor an update, nor the environment: Python, "
            "NumPy, filling the buffers, putting the VAE's batches together, advantages, callbacks.\n",
            breakdown_table(result),
            f"## Memory, {memory['n_envs']} workers\n",
            f"Peak resident memory of a process after {memory['rollouts']} rollouts.\n",
            memory_table(result),
            "## Scaling, frames per second\n",
            *(scaling_table(result, axis) for axis in AXES),
        ]
    )


#: In figures, where there is little room.
_SHORT_NAMES = {**NAMES, "stock": "RecurrentPPO", "stock_two": "RecurrentPPO, two LSTMs"}
_COLOUR = {"stock": "#8c8c8c", "stock_two": "#c4c4c4", "rl2": COLOURS["rl2"], "ldm": COLOURS["ldm"], "ldm_zoo": "#e8a0a9"}
_PART_COLOUR = dict(zip(PARTS, ("#3a8f6b", "#2e6f9e", "#8d5fa8", "#d1495b", "#c98b1b", "#bdbdbd"), strict=True))
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "savefig.dpi": 160,
    "savefig.facecolor": "white",
}
_LINES: tuple[Any, ...] = ("-", "--", ":", "-.")


def draw(result: Record) -> Figure:
    """
    :param result: the JSON
    :return: the comparison, the breakdown and the scaling
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(12.0, 7.0), layout="constrained")
        axes = figure.subplots(2, 3)
        workers = result["config"]["workers"]
        for axis, n_envs in zip(axes[0, :2], workers, strict=False):
            draw_speed(axis, result, n_envs)
        axes[0, min(len(workers), 2) - 1].legend(fontsize=7, loc="upper left")
        for axis in axes[0, len(workers) : 2]:
            axis.set_axis_off()
        draw_breakdown(axes[0, 2], result)
        for axis, name in zip(axes[1], AXES, strict=True):
            draw_scaling(axis, result, name)
    return figure


def draw_speed(axis: Axes, result: Record, n_envs: int) -> None:
    """
    Bars of frames/s, with the ratio to stock above each.

    :param axis: where to draw
    :param result: the JSON
    :param n_envs: number of workers
    """
    algos = result["config"]["algos"]
    width = 0.8 / len(algos)
    for group, threads in enumerate(result["config"]["threads"]):
        here = select(result["throughput"], n_envs=n_envs, threads=threads)
        [stock] = select(here, algo="stock")
        for i, algo in enumerate(algos):
            [record] = select(here, algo=algo)
            rate, x = spread(frame_rates(record)), group + (i - (len(algos) - 1) / 2) * width
            error = [[rate.median - rate.low], [rate.high - rate.median]]
            label = _SHORT_NAMES[algo] if group == 0 else None
            axis.bar(x, rate.median, 0.92 * width, yerr=error, color=_COLOUR[algo], ecolor="#2b2b2b", label=label)
            ratio = spread(frame_rates(record) / frame_rates(stock)).median
            axis.annotate(f"{ratio:.1f}x", (x, rate.high), (0, 2), textcoords="offset points", ha="center", fontsize=7)
    names = [f"{threads} thread{'s' if threads > 1 else ''}" for threads in result["config"]["threads"]]
    axis.set_xticks(range(len(names)), names)
    axis.set_title(f"Training loop, {n_envs} workers")
    axis.set_ylabel("frames/s")
    axis.grid(axis="y")
    axis.margins(y=0.12)


def draw_breakdown(axis: Axes, result: Record) -> None:
    """
    Stacked bars of the parts' shares.

    :param axis: where to draw
    :param result: the JSON
    """
    names = []
    for y, record in enumerate(result["breakdown"]):
        left = 0.0
        for part, share in shares(record).items():
            axis.barh(y, share, 0.7, left=left, color=_PART_COLOUR[part], label=part if y == 0 else None)
            left += share
        names.append(f"{_SHORT_NAMES[record['algo']]}, {record['threads']} thr.")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlim(0.0, 1.0)
    axis.set_title(f"Where the time goes, {result['config']['profile_workers']} workers")
    axis.set_xlabel("share of the loop")
    axis.legend(fontsize=7, loc="upper right", bbox_to_anchor=(1.0, -0.15), ncols=3)


def draw_scaling(axis: Axes, result: Record, name: str) -> None:
    """
    Frames/s along an axis of the scaling.

    :param axis: where to draw
    :param result: the JSON
    :param name: a key of :data:`AXES`
    """
    records = scaling_along(result, name)
    threads = result["config"]["scaling_threads"]
    for algo in ("rl2", "ldm"):
        for style, number in zip(_LINES, threads, strict=False):
            line = select(records, algo=algo, threads=number)
            if not line:
                continue
            rates = [spread(frame_rates(record)) for record in line]
            medians = np.array([rate.median for rate in rates])
            error = np.abs(np.array([[rate.low, rate.high] for rate in rates]).T - medians)
            values = [record[name] for record in line]
            axis.errorbar(values, medians, error, color=_COLOUR[algo], linestyle=style, marker="o", markersize=3)
    values = sorted({record[name] for record in records})
    axis.set_xscale("log", base=2)
    axis.set_xticks(values, [str(value) for value in values])
    axis.minorticks_off()
    axis.set_ylim(bottom=0.0)
    axis.grid()
    axis.set_title(f"Frames/s and {AXES[name]}")
    axis.set_xlabel(AXES[name])
    axis.set_ylabel("frames/s")
    handles = [Line2D([], [], color=_COLOUR[algo], label=NAMES[algo]) for algo in ("rl2", "ldm")]
    styles = zip(_LINES, threads, strict=False)
    handles += [Line2D([], [], color="#2b2b2b", linestyle=style, label=f"{number} thread(s)") for style, number in styles]
    axis.legend(handles=handles, fontsize=7)


def write_figures(result: Record, out: Path) -> None:
    """
    :param result: the JSON
    :param out: folder for ``throughput.md`` and ``throughput.png``
    """
    (out / "throughput.md").write_text(report(result), encoding="utf-8")
    draw(result).savefig(out / "throughput.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Measure, or only redraw.

    :param arguments: of the command line, those of the process if None
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a glimpse, in less than a minute")
    parser.add_argument(
        "--physics", action="store_true", help="then the MuJoCo domains against bare physics (benchmarks.physics)"
    )
    parser.add_argument("--redraw", action="store_true", help="measure nothing, draw what --out holds")
    parser.add_argument("--out", type=Path, default=Path(DEFAULT_OUT), help="folder of the results (default: %(default)s)")
    options = parser.parse_args(arguments)
    file = options.out / "throughput.json"
    if options.redraw:
        result = json.loads(file.read_text(encoding="utf-8"))
    else:
        result = run(QUICK if options.quick else Config())
        options.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_figures(result, options.out)
    print(f"\n{target_table(result)}\nAll results are in {options.out}")
    if options.physics and not options.redraw:
        from benchmarks import physics  # it uses this module

        physics.main(["--quick"] * options.quick)


if __name__ == "__main__":
    main()
