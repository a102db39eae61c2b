"""The throughput benchmark, from a minimal run: what it is good for is measured elsewhere."""

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch as th

from benchmarks import throughput
from benchmarks.throughput import Case, Config, spread

TINY = Config(("stock", "rl2", "ldm"), (4,), (1,), 2, 0.0, horizon=4)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return throughput.compare(TINY)


def test_every_quantity_of_every_contestant_is_a_row(rows: pd.DataFrame, tmp_path: Path) -> None:
    found = set(zip(rows["quantity"], rows["algo"], strict=True))
    assert {("frames/s", algo) for algo in TINY.algos} | {
        ("times stock", "rl2"),
        ("times stock, train() alone", "ldm"),
    } <= found
    assert ("times stock with two LSTMs", "rl2") not in found
    assert (rows["low"] <= rows["median"]).all() and (rows["median"] <= rows["high"]).all()
    where = throughput.machine()
    for _ in range(2):
        throughput.add_rows(tmp_path / "speed.csv", rows, where)
    kept = pd.read_csv(tmp_path / "speed.csv")
    assert len(kept) == 2 * len(rows) and set(kept["commit"]) == {where["commit"]} and set(kept["env"]) == {"GridNavi-v0"}
    np.testing.assert_allclose(kept["median"][: len(rows)], rows["median"], rtol=1e-4)
    assert kept["hidden"].isna().equals(kept["quantity"].str.startswith("times")), "ratios are of two numbers of threads"


def test_ratios_are_of_the_same_round_and_the_best_threads() -> None:
    def took(algo: str, threads: int, seconds: list[float]) -> pd.DataFrame:
        took = {"frames": 1000, "seconds": seconds, "train()": [one / 2 for one in seconds]}
        return pd.DataFrame({**asdict(Case(algo, 16, threads)), "round": range(3), **took})

    measured = [
        took("stock", 1, [4.0, 8.0, 4.0]),
        took("stock", 2, [8.0, 8.0, 8.0]),
        took("rl2", 1, [2.0, 2.0, 2.0]),
        took("rl2", 2, [1.0, 1.0, 2.0]),
    ]
    loop, train = throughput.ratios(pd.concat(measured)).to_dict("records")
    assert (loop["quantity"], loop["algo"], loop["threads"]) == ("times stock", "rl2", "2 against 1")
    assert (loop["median"], loop["low"], loop["high"], loop["rounds"]) == (4.0, 2.0, 8.0, 3)
    assert (train["quantity"], train["median"]) == ("times stock, train() alone", 4.0)


def test_shares_of_physics_are_of_the_same_round() -> None:
    seconds = pd.DataFrame({"physics": [1.0, 2.0, 1.0], "rl2": [2.0, 4.0, 2.0], "ldm": [2.0, 8.0, 2.5]})
    rows = throughput.physics_shares("HalfCheetahVelocity-v0", 2, 1000, seconds)
    shares = rows[rows["quantity"] == "share of physics"].set_index("algo")
    assert shares.loc["ldm", ["median", "low", "high"]].tolist() == pytest.approx([0.4, 0.325, 0.45])
    assert shares.loc["rl2", "low"] == shares.loc["rl2", "high"] == 0.5
    assert spread(pd.DataFrame({"algo": "a", "x": [1.0, 5.0, 2.0]}), ["algo"])["high"].tolist() == [5.0]


@pytest.mark.slow
def test_physics_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    throughput.main(["--quick", "--physics", "HalfCheetahVelocity-v0", "--out", str(tmp_path / "speed.csv")])
    kept = pd.read_csv(tmp_path / "speed.csv")
    assert kept["algo"].tolist() == ["physics", "physics", "ldm", "ldm", "rl2", "rl2"] and set(kept["rounds"]) == {5}


def test_a_glimpse_is_not_among_results_that_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(throughput, "compare", lambda config: pd.DataFrame())
    monkeypatch.setattr(throughput, "SPEED_FILE", Path("kept.csv"))
    asked = []
    monkeypatch.setattr(throughput, "add_rows", lambda path, *_: asked.append(path))
    for words in (["--quick"], [], ["--out", "mine.csv"]):
        throughput.main(words)
    assert asked == [throughput.QUICK_FILE, Path("kept.csv"), Path("mine.csv")]


def test_updates_are_a_part_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    model = throughput.make_model(Case("rl2", 4, 1, 2, 16), horizon=4)
    now = 0.0

    def train() -> None:
        nonlocal now
        now += 2.0

    monkeypatch.setattr(model, "train", train)
    monkeypatch.setattr(model, "dump_logs", lambda iteration=0: None)  # tells the time, too
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: now)
        assert throughput.train_rollouts(model, 3) == (6.0, 6.0)
    seconds, updates = throughput.train_rollouts(model, 1)
    assert updates < seconds and model.train is train


def test_contestants_do_the_same() -> None:
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
