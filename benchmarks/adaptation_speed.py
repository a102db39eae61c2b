"""
What do gradient-based algorithms spend their time on?

``python -m benchmarks.adaptation_speed`` measures, on one thread, how much faster the policy of 40 sets of parameters is in
one stacked call than in a call for each, taking turns; and what share of an iteration of MAML and of ProMP (40 tasks, 20
episodes of 200 steps) is physics. It adds rows to ``benchmarks/results/speed.csv``, as ``benchmarks.throughput`` does.
"""

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks.throughput import SPEED_FILE, add_rows, machine, spread
from sb3_ldm import MAML, ProMP, make_meta_vec_env
from sb3_ldm.envs import BatchedMetaVecEnv
from sb3_ldm.gradient import AdaptivePolicy, GradientAdaptation
from sb3_ldm.zoo.configs import load_preset

ENV_ID = "HalfCheetahVelocity-v0"
N_TASKS, N_EPISODES, HORIZON = 40, 20, 200
ALGORITHMS: dict[str, type[GradientAdaptation]] = {"maml": MAML, "promp": ProMP}


def seconds_of(take_turn: Callable[[], Any], times: int = 1) -> float:
    """
    :param take_turn: what is measured
    :param times: how often it is called
    :return: seconds of one call, on average
    """
    start = time.perf_counter()
    for _ in range(times):
        take_turn()
    return (time.perf_counter() - start) / times


def stacked_against_single(policy: AdaptivePolicy, obs: th.Tensor, rounds: int) -> pd.DataFrame:
    """
    :param policy: of which each environment has its own parameters
    :param obs: an observation of each, ``(n, obs_dim)``
    :param rounds: turns of each contestant
    :return: a row for each round: how many times as fast one stacked call is as one for each set
    """
    stacked = {name: one.detach().clone() for name, one in policy.stacked(len(obs)).items()}
    sets = [{name: one[i] for name, one in stacked.items()} for i in range(len(obs))]

    def one_by_one() -> None:
        for parameters, seen in zip(sets, obs, strict=True):
            th.func.functional_call(policy, parameters, (seen[None],))

    rows = []
    with th.no_grad():
        for _ in range(rounds):
            single = seconds_of(one_by_one, 10)
            together = seconds_of(functools.partial(policy.outputs, stacked, obs[:, None]), 100)
            rows.append({"algo": "stacked", "workers": len(obs), "threads": 1, "times single calls": single / together})
    return pd.DataFrame(rows)


def share_of_physics(model: GradientAdaptation, rounds: int) -> list[float]:
    """
    :param model: on environments that step at once
    :param rounds: iterations to measure, after one that is not
    :return: share of each iteration that its environments' physics took
    """
    assert model.env is not None and isinstance(model.env.unwrapped, BatchedMetaVecEnv)
    backend, physics = model.env.unwrapped.backend, 0.0
    step = backend.step

    def timed(actions: Any) -> Any:
        nonlocal physics
        start = time.perf_counter()
        result = step(actions)
        physics += time.perf_counter() - start
        return result

    shares = []
    with mock.patch.object(backend, "step", timed):
        for _ in range(rounds + 1):
            physics = 0.0
            seconds = seconds_of(functools.partial(model.learn, 1, reset_num_timesteps=False))
            shares.append(physics / seconds)
    return shares[1:]


def main(arguments: Sequence[str] | None = None) -> None:
    """:param arguments: of the command line, those of the process if None"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=N_EPISODES, help="of an iteration (default: %(default)s)")
    parser.add_argument("--horizon", type=int, default=HORIZON, help="steps of an episode (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=SPEED_FILE, help="table that rows are added to (default: %(default)s)")
    options = parser.parse_args(arguments)
    where = machine()
    th.set_num_threads(1)
    tables: list[pd.DataFrame] = []
    for algo, cls in ALGORITHMS.items():
        env_kwargs = {"episodes_per_task": options.episodes, "horizon": options.horizon}
        env = VecNormalize(make_meta_vec_env(ENV_ID, N_TASKS, seed=0, env_kwargs=env_kwargs))
        preset = {name: value for name, value in load_preset(algo, ENV_ID).items() if name != "policy"}
        model = cls("MlpPolicy", env, seed=0, device="cpu", **preset)
        model.set_logger(Logger(None, []))
        if not tables:
            obs = th.randn(N_TASKS, model.layout.dim)
            ratios = stacked_against_single(model.policy, obs, 5 * options.rounds)
            tables.append(spread(ratios, ["algo", "workers", "threads"]))
        names = {"algo": algo, "workers": N_TASKS, "threads": 1, "episodes": options.episodes}
        shares = pd.DataFrame({**names, "share of time in physics": share_of_physics(model, options.rounds)})
        tables.append(spread(shares, list(names)))
    rows = pd.concat(tables).assign(env=ENV_ID)
    add_rows(options.out, rows, where)
    print(f"{rows.to_string(index=False, na_rep='', float_format='{:,.3g}'.format)}\nThis is in {options.out}, too.")


if __name__ == "__main__":
    main()
