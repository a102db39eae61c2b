"""The throughput benchmark, from a minimal run: what it is good for is measured elsewhere."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch as th

from benchmarks import throughput
from benchmarks.throughput import IMAGINATION, OTHER, PARTS, PPO_UPDATE, VAE_UPDATE, Case, Config, Samples, Stopwatch, spread

SCALING = (("n_envs", (2, 4)), ("hidden", (8,)))
TINY = Config(("stock", "rl2", "ldm"), (4,), (1,), 2, 0.0, SCALING, scaling_workers=4, scaling_rounds=1, horizon=4)


@pytest.fixture(scope="module")
def rows() -> list[throughput.Row]:
    return throughput.compare(TINY)


def test_every_quantity_of_every_contestant_is_a_row(rows: list[throughput.Row], tmp_path: Path) -> None:
    found = {(row["quantity"], row["algo"]) for row in rows}
    assert {("frames/s", algo) for algo in TINY.algos} | {
        ("times stock", "rl2"),
        ("times stock, train() alone", "ldm"),
    } <= found
    assert ("share of train(): nn.LSTM", "rl2") in found and ("times stock with two LSTMs", "rl2") not in found
    assert all(row["low"] <= row["median"] <= row["high"] for row in rows)
    scaling = [(row["algo"], row["workers"], row["hidden"]) for row in rows if row["quantity"] == "frames/s, scaling"]
    assert scaling == [(algo, *one) for one in ((2, 128), (4, 128), (4, 8)) for algo in ("rl2", "ldm")]
    where = throughput.machine()
    for _ in range(2):
        throughput.add_rows(tmp_path / "speed.csv", rows, where)
    kept = pd.read_csv(tmp_path / "speed.csv")
    assert len(kept) == 2 * len(rows) and set(kept["commit"]) == {where["commit"]} and set(kept["env"]) == {"GridNavi-v0"}
    np.testing.assert_allclose(kept["median"][: len(rows)], [row["median"] for row in rows], rtol=1e-4)
    assert "| frames/s | GridNavi-v0 | ldm | 4 workers, 1 threads, 4 episodes, 128 hidden |" in throughput.table(rows)


def test_shares_sum_to_one_and_are_of_what_there_is(rows: list[throughput.Row]) -> None:
    for algo in TINY.algos:
        medians = {row["quantity"]: row["median"] for row in rows if row["algo"] == algo}
        shares = {part: medians[f"share: {part}"] for part in PARTS}
        assert sum(shares.values()) == pytest.approx(1.0)  # medians of two rounds are means
        assert all((share > 0) == (algo == "ldm" or part not in (IMAGINATION, VAE_UPDATE)) for part, share in shares.items())


def test_ratios_are_of_the_same_round_and_the_best_threads() -> None:
    def took(seconds: list[float]) -> Samples:
        half = np.array(seconds) / 2
        return {**dict.fromkeys(PARTS, 0.0 * half), "frames": np.full(3, 1000), PPO_UPDATE: half, OTHER: half}

    measured = {
        Case("stock", 16, 1): took([4.0, 8.0, 4.0]),
        Case("stock", 16, 2): took([8.0, 8.0, 8.0]),
        Case("rl2", 16, 1): took([2.0, 2.0, 2.0]),
        Case("rl2", 16, 2): took([1.0, 1.0, 2.0]),
    }
    (loop, train) = throughput.ratio_rows(measured)
    assert (loop["quantity"], loop["threads"]) == ("times stock", "2 against 1")
    assert (loop["median"], loop["low"], loop["high"], loop["rounds"]) == (4.0, 2.0, 8.0, 3)
    assert (train["quantity"], train["median"]) == ("times stock, train() alone", 4.0)


def test_shares_of_physics_are_of_the_same_round() -> None:
    seconds = {"physics": [1.0, 2.0, 1.0], "rl2": [2.0, 4.0, 2.0], "ldm": [2.0, 8.0, 2.5]}
    rows = throughput.physics_rows("HalfCheetahVelocity-v0", 2, 1000, seconds)
    ldm, rl2 = (next(row for row in rows if (row["algo"], row["quantity"]) == (a, "share of physics")) for a in ("ldm", "rl2"))
    assert (ldm["median"], ldm["low"], ldm["high"]) == pytest.approx((0.4, 0.325, 0.45)) and rl2["low"] == rl2["high"] == 0.5
    assert spread([1.0, 5.0, 2.0])["high"] == 5.0


@pytest.mark.slow
def test_physics_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    throughput.main(["--quick", "--physics", "HalfCheetahVelocity-v0", "--out", str(tmp_path / "speed.csv")])
    kept = pd.read_csv(tmp_path / "speed.csv")
    assert kept["algo"].tolist() == ["physics", "physics", "ldm", "ldm", "rl2", "rl2"] and set(kept["rounds"]) == {2}


def test_a_glimpse_is_not_among_results_that_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(throughput, "compare", lambda config: [])
    monkeypatch.setattr(throughput, "SPEED_FILE", Path("kept.csv"))
    asked = []
    monkeypatch.setattr(throughput, "add_rows", lambda path, *_: asked.append(path))
    for words in (["--quick"], [], ["--out", "mine.csv"]):
        throughput.main(words)
    assert asked == [throughput.QUICK_FILE, Path("kept.csv"), Path("mine.csv")]


def test_stopwatch_does_not_count_twice_and_restores(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Worker:
        def outer(self) -> None:
            nonlocal now
            now += 2.0
            self.inner()

        def inner(self) -> None:
            nonlocal now
            now += 3.0
            raise KeyError

    worker = Worker()
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: now)
        with Stopwatch() as watch:
            watch.watch(worker, "outer", "a")
            watch.watch(worker, "inner", "b")
            with pytest.raises(KeyError):
                worker.outer()
            now += 5.0
    assert vars(worker) == {}
    assert watch.seconds == {"a": 2.0, "b": 3.0, OTHER: 5.0}


def test_contestants_do_the_same_and_threads_are_left_alone() -> None:
    before = th.get_num_threads()
    sizes = {}
    for algo in ("stock", "rl2", "ldm"):
        model = throughput.make_model(Case(algo, 2, 1, 2, 16), horizon=4)
        sizes[algo] = {name: tuple(value.shape) for name, value in model.policy.named_parameters()}
        assert (model.n_epochs, model.n_steps, model.batch_size) == (4, 8, 8)
    assert sizes["stock"] == sizes["rl2"] == sizes["ldm"]
    two: th.nn.Module = throughput.make_model(Case("stock_two", 2, 1, 2, 16), horizon=4).policy
    assert set(sizes["stock"]) < {name for name, _ in two.named_parameters()} and two.lstm_critic is not None
    for algo in ("ldm", "ldm_zoo", "ldm_zoo_2"):
        ldm = throughput.make_model(Case(algo, 4, 1, 2, 16), horizon=4)
        assert isinstance(ldm, throughput.LDM) and ldm.imagination_starts == 0 and not ldm.imagination_config.require_goal
        assert ldm.vae_updates == (6 if algo == "ldm_zoo" else 2)
    with throughput.pytorch_threads():
        th.set_num_threads(before + 1)
    assert th.get_num_threads() == before
