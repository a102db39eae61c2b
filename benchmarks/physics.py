"""
How much of the physics' speed is left when an agent trains on it? Frames/s of LDM and RL2, each with its preset, against
stepping the same backend (physics and the tasks' rewards) with random actions and no meta-episodes around it, in turns in one
run: ``python -m benchmarks.physics [--quick] [--envs ENV ...] [--out DIR]``.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from benchmarks.measuring import (
    Record,
    describe_machine,
    frames_of,
    load_average,
    pytorch_threads,
    results_folder,
    spread,
    train_rollouts,
)
from sb3_ldm import LDM, RL2, make_meta_vec_env
from sb3_ldm.envs import BatchedMetaVecEnv
from sb3_ldm.envs.locomotion import DOMAINS, HORIZON
from sb3_ldm.on_policy import SequencePPO
from sb3_ldm.results.summary import markdown_table
from sb3_ldm.zoo.configs import read_preset

#: LDM's turn comes right after that of physics, which it is compared with.
ALGORITHMS: dict[str, type[SequencePPO]] = {"ldm": LDM, "rl2": RL2}
#: LDM's share of the physics' speed that is wanted, with both cores.
TARGETS = {"AntDirection-v0": 0.6, "AntGoal-v0": 0.6, "HalfCheetahVelocity-v0": 0.35}
#: Values of zoo_configs that are no parameters of the algorithm, or must hold from the start.
_NOT_PARAMETERS = ("n_envs", "n_timesteps", "policy", "normalize", "learning_rate", "imagination_starts")


@dataclass(frozen=True)
class Config:
    """
    What is measured, and how long.

    :param envs: domains
    :param threads: threads of physics and torch
    :param rounds: samples of each
    :param rollouts: rollouts in a sample
    """

    envs: tuple[str, ...] = tuple(DOMAINS)
    threads: int = 2
    rounds: int = 15
    rollouts: int = 1


QUICK = Config(rounds=2)


def make_env(env_id: str, n_envs: int) -> VecEnv:
    """
    :param env_id: a domain
    :param n_envs: number of environments
    :return: them, on the fastest backend that is installed
    """
    return make_meta_vec_env(env_id, n_envs, seed=0)


def make_model(algo: str, env_id: str) -> SequencePPO:
    """
    :param algo: name of the algorithm
    :param env_id: a domain
    :return: the algorithm with its preset, which imagines from the start
    """
    preset = read_preset(algo, env_id)
    parameters = {name: value for name, value in preset.items() if name not in _NOT_PARAMETERS}
    env = VecNormalize(make_env(env_id, preset["n_envs"]), gamma=preset["gamma"])
    model = ALGORITHMS[algo]("MlpLstmPolicy", env, learning_rate=1e-4, seed=0, device="cpu", **parameters)
    model.set_logger(Logger(None, []))
    return model


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


def measure(env_id: str, config: Config) -> Record:
    """
    :param env_id: a domain
    :param config: what is measured
    :return: seconds of every sample of physics and of each algorithm, and the frames in a sample
    """
    models = {algo: make_model(algo, env_id) for algo in ALGORITHMS}
    frames = config.rollouts * frames_of(models["ldm"])
    env = make_env(env_id, models["ldm"].n_envs)
    env.reset()
    shape = (frames // env.num_envs, env.num_envs, models["ldm"].layout.action_dim)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, shape).astype(np.float32)
    contestants = {"physics": functools.partial(step_randomly, env, actions)}
    rollouts = {algo: frames // frames_of(model) for algo, model in models.items()}
    assert all(rollouts[algo] * frames_of(model) == frames for algo, model in models.items()), "presets differ in their frames"
    contestants |= {algo: functools.partial(train_rollouts, model, rollouts[algo]) for algo, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    for _ in range(config.rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    backend = type(getattr(env, "backend", env)).__name__
    return {"env": env_id, "backend": backend, "n_envs": env.num_envs, "frames": frames, "seconds": seconds}


def run(config: Config) -> Record:
    """
    :param config: what is measured
    :return: all results, as they stand in the JSON
    """
    load = load_average()
    with pytorch_threads():
        th.set_num_threads(config.threads)
        domains = []
        for env_id in config.envs:
            print(f"{env_id}: physics and {len(ALGORITHMS)} algorithms take turns, {config.rounds} rounds", flush=True)
            domains.append(measure(env_id, config))
    machine = {**describe_machine(), "load_before": load}
    command = "python -m benchmarks.physics" + (" --quick" if replace(config, envs=QUICK.envs) == QUICK else "")
    if config.envs != Config().envs:
        command += f" --envs {' '.join(config.envs)}"
    return json.loads(json.dumps({"command": command, "config": asdict(config), "machine": machine, "domains": domains}))


def report(result: Record) -> str:
    """
    :param result: the JSON
    :return: a markdown page
    """
    rows = []
    for domain in result["domains"]:
        rates = {name: domain["frames"] / np.array(seconds) for name, seconds in domain["seconds"].items()}
        for name, rate in rates.items():
            share = spread(100 * rate / rates["physics"], tail=0.25)
            wanted = TARGETS[domain["env"]] if name == "ldm" else None
            verdict = "-" if wanted is None else f"{'pass' if share.median >= 100 * wanted else 'FAIL'} ({100 * wanted:.0f}%)"
            label = "physics, random actions" if name == "physics" else name.upper()
            rows.append([domain["env"], label, spread(rate, tail=0.25).text(0), f"{share.text(1)}%", verdict])
    config, machine = result["config"], result["machine"]
    backends = ", ".join(dict.fromkeys(domain["backend"] for domain in result["domains"]))
    return "\n".join(
        [
            "# Training against bare physics\n",
            f"Made by `{result['command']}` on {machine['cpu']} ({machine['n_cpus']} CPUs), commit "
            f"{machine['commit']}, {machine['date']}, {config['threads']} threads, backend {backends}; load average before: "
            f"{machine['load_before']}. Medians, with the quartiles of {config['rounds']} rounds in brackets; shares are of "
            "the same round.\n",
            markdown_table(["", "", "frames/s", "of the physics", "target"], rows),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """
    :param arguments: the command line, that of the process by default
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a glimpse: two rounds")
    parser.add_argument("--envs", nargs="+", choices=list(DOMAINS), default=list(DOMAINS), help="domains (default: all)")
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: benchmarks/results/physics, with --quick runs/physics_quick)"
    )
    options = parser.parse_args(arguments)
    out = results_folder("physics", options.out, options.quick)
    result: dict[str, Any] = run(replace(QUICK if options.quick else Config(), envs=tuple(options.envs)))
    out.mkdir(parents=True, exist_ok=True)
    (out / "physics.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "physics.md").write_text(report(result), encoding="utf-8")
    sys.stdout.write("\n" + report(result))


if __name__ == "__main__":
    main()
