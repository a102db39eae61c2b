"""The throughput benchmark, from a minimal run: what it is good for is measured elsewhere."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch as th

from benchmarks import throughput, throughput_report
from benchmarks.measuring import pytorch_threads
from benchmarks.throughput import Case, Config, Stopwatch
from benchmarks.throughput_report import IMAGINATION, OTHER, PARTS, VAE_UPDATE

TINY = Config(
    workers=(4,),
    threads=(1,),
    rounds=2,
    sample_s=0.0,
    profile_workers=4,
    profile_algos=("stock", "rl2", "ldm"),
    profile_rounds=2,
    scaling_workers=(2, 4),
    scaling_episodes=(1, 2),
    scaling_hidden=(8, 16),
    scaling_threads=(1,),
    scaling_rounds=1,
    memory_algos=(),  # processes of their own take too long here
    episodes=2,
    hidden=16,
    horizon=4,
)


@pytest.fixture(scope="module")
def result() -> dict:
    return throughput.run(TINY)


def test_json_holds_raw_samples(result):
    assert result["config"]["workers"] == [4] and result["env"] == "GridNavi-v0"
    assert {"cpu", "commit", "versions"} <= result["machine"].keys()
    assert result["algorithms"]["stock"]["policy_kwargs"]["features_extractor_class"] == "EmbeddingExtractor"
    assert [record["algo"] for record in result["throughput"]] == list(throughput.ALGORITHMS)
    for record in result["throughput"]:
        assert len(record["seconds"]) == len(record["train_seconds"]) == TINY.rounds
        assert all(0 < train < whole for train, whole in zip(record["train_seconds"], record["seconds"], strict=True))
        assert record["frames"] == record["rollouts"] * 4 * 2 * 4
        assert ("lstm_seconds" in record) == (record["algo"] == "rl2")
        # On so few units, the LSTM is a small part of the update.
        assert all(
            0 < lstm < train for lstm, train in zip(record.get("lstm_seconds", ()), record["train_seconds"], strict=False)
        )
    assert result["memory"]["vae_buffer_bytes"] < 40e6
    cases = [tuple(record[name] for name in ("algo", "n_envs", "episodes", "hidden")) for record in result["scaling"]]
    assert len(cases) == len(set(cases)) == 2 * 4
    assert all(len(throughput_report.scaling_along(result, axis)) == 2 * 2 for axis in throughput_report.AXES)


def test_breakdown_sums_to_one(result):
    assert [record["algo"] for record in result["breakdown"]] == list(TINY.profile_algos)
    for record in result["breakdown"]:
        shares = throughput_report.shares(record)
        assert list(shares) == list(PARTS) and sum(shares.values()) == pytest.approx(1.0)
        only_ldm = {IMAGINATION, VAE_UPDATE}
        assert all((share > 0) == (record["algo"] == "ldm" or part not in only_ldm) for part, share in shares.items())


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own():
    peaks = throughput.measure_memory(replace(TINY, memory_algos=("rl2",)))["peak_bytes"]
    assert peaks.keys() == {"imports", "rl2"} and peaks["rl2"] > peaks["imports"] > 1e7


def test_a_glimpse_replaces_no_results_that_are_kept(result, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(throughput, "run", lambda config: result)
    monkeypatch.setattr(throughput, "write_figures", lambda result, folder: None)
    asked = []
    monkeypatch.setattr("benchmarks.physics.main", asked.append)
    throughput.main(["--quick"])
    throughput.main(["--quick", "--physics"])
    throughput.main(["--quick", "--physics", "--out", "mine"])
    throughput.main([])
    found = {path.parent.as_posix() for path in Path().rglob("throughput.json")}
    assert found == {"runs/throughput_quick", "mine", "benchmarks/results/throughput"}
    assert asked == [["--quick"], ["--quick", "--out", "mine/physics"]]


def test_redraws_from_the_json_alone(result, tmp_path):
    (tmp_path / "throughput.json").write_text(json.dumps(result))
    throughput.main(["--redraw", "--out", str(tmp_path)])
    text = (tmp_path / "throughput.md").read_text()
    assert "not measured" in text and "RecurrentPPO" in text  # the targets are of 16 and 64 workers
    assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "throughput.json").read_text()) == result


def test_targets_are_judged_at_the_best_threads(result):
    def record(algo, n_envs, threads, seconds):
        case = {"algo": algo, "n_envs": n_envs, "threads": threads, "rollouts": 1, "frames": 100_000}
        return {**case, "seconds": [seconds] * 3, "train_seconds": [seconds / 2] * 3}

    made_up = [record("stock", n, threads, 40.0 / threads) for n in (16, 64) for threads in (1, 2)]
    made_up += [record("stock_two", n, 1, 60.0) for n in (16, 64)]
    made_up += [record(algo, n, threads, 6.0) for algo in ("rl2", "ldm") for n in (16, 64) for threads in (1, 2)]
    parts = [{part: 4.0 if part == OTHER else 1.0 for part in PARTS}]
    breakdown = [{"algo": "ldm", "n_envs": 64, "threads": 1, "frames": 100_000, "parts": parts}]
    found = throughput_report.targets({**result, "throughput": made_up, "breakdown": breakdown})
    assert [target.met for target in found] == [False, True, False, True, None, None, None, None, False, False, True]
    assert found[0].measured.startswith("3.33 ") and "1 against 2" in found[0].measured
    assert found[5].measured.startswith("10.00 ") and found[5].wanted == "-"


def test_stopwatch_does_not_count_twice_and_restores(monkeypatch):
    now = 0.0

    class Worker:
        def outer(self):
            nonlocal now
            now += 2.0
            self.inner()

        def inner(self):
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
    assert watch.seconds == {"a": 2.0, "b": 3.0, OTHER: 5.0} and watch.total == 10.0


def test_contestants_do_the_same_and_threads_are_left_alone():
    before = th.get_num_threads()
    sizes = {}
    for algo in ("stock", "rl2", "ldm"):
        model = throughput.make_model(Case(algo, 2, 1, 2, 16), horizon=4)
        sizes[algo] = {name: tuple(value.shape) for name, value in model.policy.named_parameters()}
        assert (model.n_epochs, model.n_steps, model.batch_size) == (4, 8, 8)
    assert sizes["stock"] == sizes["rl2"] == sizes["ldm"]
    two = throughput.make_model(Case("stock_two", 2, 1, 2, 16), horizon=4).policy
    assert set(sizes["stock"]) < {name for name, _ in two.named_parameters()} and two.lstm_critic is not None
    for algo in ("ldm", "ldm_zoo", "ldm_zoo_2"):
        model = throughput.make_model(Case(algo, 4, 1, 2, 16), horizon=4)
        assert model.imagination_starts == 0 and not model.require_goal
        assert model.vae_updates == (6 if algo == "ldm_zoo" else 2)
    with pytorch_threads():
        th.set_num_threads(before + 1)
    assert th.get_num_threads() == before
