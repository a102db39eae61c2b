"""The benchmark of training against bare physics."""

import json
from pathlib import Path

import pytest

from benchmarks import physics


def test_shares_are_of_the_same_round() -> None:
    seconds = {"physics": [1.0, 2.0, 1.0], "rl2": [2.0, 4.0, 2.0], "ldm": [2.0, 8.0, 2.5]}
    domain = {"env": "HalfCheetahVelocity-v0", "backend": "B", "n_envs": 2, "frames": 1000, "seconds": seconds}
    machine = {"cpu": "c", "n_cpus": 2, "commit": "0", "date": "today", "load_before": 0.0}
    page = physics.report({"command": "c", "config": {"threads": 2, "rounds": 3}, "machine": machine, "domains": [domain]})
    assert "| 40.0 (32.5 to 45.0)% | pass (35%) |" in page
    assert "| 50.0 (50.0 to 50.0)% | - |" in page


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    physics.main(["--quick", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "physics.json").read_text())
    assert [domain["env"] for domain in result["domains"]] == list(physics.TARGETS)
    assert all(len(seconds) == 2 for domain in result["domains"] for seconds in domain["seconds"].values())
