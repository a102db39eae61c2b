"""One row of a Monitor file for each meta-episode, for SB3's plots."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import grid_vec_env
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.results_plotter import ts2xy
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm import RL2, make_meta_vec_env
from sb3_ldm.envs import backend_of, monitor_of

SHORT = {"episodes_per_task": 2, "horizon": 5}


def make(folder: Path, backend: str = "auto", n_envs: int = 3) -> VecEnv:
    return make_meta_vec_env("GridNavi-v0", n_envs, seed=0, backend=backend, env_kwargs=SHORT, monitor_dir=folder)


def run(env: VecEnv, n_steps: int) -> list[dict]:
    """Random actions; what was said of the meta-episodes that ended."""
    env.reset()
    rng, ended = np.random.default_rng(0), []
    for _ in range(n_steps):
        _, _, dones, infos = env.step(rng.integers(5, size=env.num_envs))
        ended += [info for done, info in zip(dones, infos, strict=True) if done]
    return ended


@pytest.mark.parametrize("backend", ["batched", "dummy", "subproc"])
def test_each_meta_episode_has_a_row(backend: str, tmp_path: Path) -> None:
    env = make(tmp_path, backend)
    ended = run(env, 25)
    results = load_results(str(tmp_path))  # not closed: it can be looked at while it runs
    assert backend_of(env) == backend and len(ended) == 2 * 3
    assert results.r.tolist() == [info["episode"]["r"] for info in ended] and set(results.l) == {10}
    assert results.is_success.tolist() == [int(info["is_success"]) for info in ended]
    assert results.timesteps.tolist() == [30] * 3 + [60] * 3
    assert ts2xy(results, "timesteps")[0].tolist() == [10, 20, 30, 40, 50, 60]
    env.close()
    about = json.loads((tmp_path / "monitor.csv").read_text().splitlines()[0].removeprefix("#"))
    assert about["env_id"] == "GridNavi-v0"
    run(make(tmp_path, n_envs=2), 10)  # a new one takes its place, as SB3's do
    assert len(load_results(str(tmp_path))) == 2


def test_what_goes_on_keeps_the_rows_up_to_there(tmp_path: Path) -> None:
    run(make(tmp_path), 30)
    with open(tmp_path / "monitor.csv", "a") as file:
        file.write("1.0,1")  # its writer was killed
    before = load_results(str(tmp_path)).dropna()
    env = make(tmp_path)
    monitor = monitor_of(env)
    assert monitor is not None
    monitor.continue_from(60)
    run(env, 10)
    results = load_results(str(tmp_path))
    assert results.timesteps.tolist() == [30] * 3 + [60] * 3 + [90] * 3
    assert results.r.tolist()[:6] == before.r.tolist()[:6] and results.t.is_monotonic_increasing


def test_a_file_of_another_program_is_named(tmp_path: Path) -> None:
    monitor = monitor_of(make(tmp_path))
    assert monitor is not None
    for text in ("", "#{}\nr,l,t\n", '#{"t_start": 1}\nr,l,t\n1,2,3\n'):
        (tmp_path / "monitor.csv").write_text(text)
        with pytest.raises(ValueError, match=r"monitor\.csv is damaged or of another program"):
            monitor.continue_from(0)


def test_training_is_the_same_with_a_monitor_file_and_copies_write_none(tmp_path: Path) -> None:
    agents = []
    for env in (make(tmp_path), grid_vec_env(3, 2, 5)):
        model = RL2("MlpLstmPolicy", env, seed=0, device="cpu", batch_size=30).learn(90)
        agents.append([value.detach().clone() for value in model.policy.parameters()])
    assert all(bool((one == other).all()) for one, other in zip(*agents, strict=True))
    run(copy.deepcopy(make(tmp_path / "copied")), 10)
    assert len(load_results(str(tmp_path))) == 9 and not (tmp_path / "copied").exists()
