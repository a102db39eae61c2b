"""
How fast do stock RecurrentPPO, RL2 and LDM train, on the same meta-episodes and with the same network?

``python -m benchmarks.throughput [--quick] [--out DIR]`` measures all of it in one run, the contestants taking turns (A B C,
A B C, ...), and writes ``throughput.json`` with every raw sample, ``throughput.md`` and ``throughput.png``. ``--redraw`` makes
the latter two from the JSON again. Ratios are worth more than the figures they are made of: those are of one machine.
"""

import argparse
import functools
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.logger import Logger

from benchmarks.measuring import (
    Record,
    describe_machine,
    frames_of,
    load_average,
    pytorch_threads,
    results_folder,
    train_rollouts,
)
from benchmarks.throughput_report import (
    ENVIRONMENT,
    IMAGINATION,
    OTHER,
    PARTS,
    POLICY,
    PPO_UPDATE,
    VAE_UPDATE,
    target_table,
    write_figures,
)
from sb3_ldm import LDM, RL2, make_meta_vec_env
from sb3_ldm.data import MetaEpisodeBuffer
from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.nets.embedding import EmbeddingExtractor
from sb3_ldm.nets.sharding import backward_in_shards, n_shards, one_thread_per_operation
from sb3_ldm.zoo.configs import read_preset

ENV_ID = "GridNavi-v0"

ALGORITHMS: dict[str, type[RecurrentPPO]] = {
    "stock": RecurrentPPO,
    "stock_two": RecurrentPPO,
    "rl2": RL2,
    "ldm": LDM,
    "ldm_zoo_2": LDM,
    "ldm_zoo": LDM,
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
#: What LDM does besides, with the paper's choices and at the sizes of the gridworld. They are not read from elsewhere, so that
#: results stay comparable.
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
    "n_decoded_steps": None,
    "reward_likelihood": "bernoulli",
    "bernoulli_rewards": (-0.1, 1.0),
    "decoder_inputs": ("next_state",),
}
GRID_VAE: dict[str, Any] = {"encoder_embeddings": (32, 0, 8), "decoder_embeddings": (32, 16), "decoder_layers": (32, 32)}
#: Values of zoo_configs that are of no matter here or must be the same for all; and imagination, which costs time, is measured
#: from the start and in all mixture workers, whatever the decoder knows.
_NOT_FROM_ZOO = ("n_envs", "n_timesteps", "policy", "learning_rate", "batch_size", "imagination_starts", "require_goal")

BUFFER_SIZE = 20_000  #: meta-episodes in the VAE buffer whose memory is told
MEMORY_ROLLOUTS = 2


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
    algos=("stock", "rl2", "ldm_zoo_2"),
    threads=(2,),
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
    :param hidden: units of the LSTMs; ``ldm_zoo`` and ``ldm_zoo_2`` have those of their file
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
    zoo = {name: value for name, value in read_preset("ldm", ENV_ID).items() if name not in _NOT_FROM_ZOO}
    if case.algo == "ldm_zoo_2":
        zoo["vae_updates"] = GRID_LDM["vae_updates"]
    return {**PPO, **zoo}


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
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results (default: benchmarks/results/throughput, with --quick runs/throughput_quick)",
    )
    options = parser.parse_args(arguments)
    out = results_folder("throughput", options.out, options.quick)
    file = out / "throughput.json"
    if options.redraw:
        result = json.loads(file.read_text(encoding="utf-8"))
    else:
        result = run(QUICK if options.quick else Config())
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_figures(result, out)
    print(f"\n{target_table(result)}\nAll results are in {out}")
    if options.physics and not options.redraw:
        from benchmarks import physics  # whose imports would count as memory of every algorithm

        own_folder = [] if options.out is None else ["--out", str(options.out / "physics")]
        physics.main(["--quick"] * options.quick + own_folder)


if __name__ == "__main__":
    main()
