"""Runs on a Ray cluster: nodes share no files, and may be lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

import sb3_ldm
from benchmarks import run
from benchmarks.experiment_file import load_experiment
from sb3_ldm import cluster
from sb3_ldm.cluster import RemoteProcess, connect, n_at_once, package_version, run_in_copy, write_files
from sb3_ldm.tune import main as tune
from sb3_ldm.zoo.tuning import open_storage

#: Counts to 30 in a file, from where it was; the file is replaced in one step, as checkpoints are.
COUNT = """
import os, time
from pathlib import Path
number = int(Path("a/number").read_text())
print("from", number, flush=True)
while number < 30:
    number += 1
    Path("a/partial_number").write_text(str(number))
    os.replace("a/partial_number", "a/number")
    time.sleep(0.1)
Path("b").write_text("end")
Path("a/number").unlink()
"""


def test_a_command_runs_in_a_copy_and_tells_what_it_changes(tmp_path):
    updates = list(run_in_copy(["-c", COUNT], {"a/number": b"15", "other": b"x"}, package_version(), 0.3))
    assert updates[0] == cluster.Update({}, [], b"", None)
    assert all(update.returncode is None for update in updates[:-1]) and updates[-1].returncode == 0
    numbers = [int(update.files["a/number"]) for update in updates if "a/number" in update.files]
    assert len(numbers) > 2 and numbers == sorted(numbers)
    assert [name for update in updates for name in update.removed] == ["a/number"]
    assert not any("other" in update.files for update in updates)
    assert [update.files["b"] for update in updates if "b" in update.files] == [b"end"]
    assert b"".join(update.output for update in updates) == b"from 15\n"


def test_the_exit_status_and_the_package_are_those_of_here(tmp_path):
    script = "import sys, sb3_ldm; print(sb3_ldm.__version__); sys.exit(7)"
    updates = list(run_in_copy(["-c", script], {}, package_version(), 0.2))
    assert updates[-1].returncode == 7
    assert b"".join(update.output for update in updates).decode().strip() == sb3_ldm.__version__


def test_a_node_with_another_version_refuses(tmp_path):
    with pytest.raises(RuntimeError, match=r"sb3_ldm .* is installed on this node, .*0.0.0.* is needed"):
        next(run_in_copy(["-c", "1"], {}, ("0.0.0", None), 0.1))
    with pytest.raises(RuntimeError, match=r"other-commit.* is needed"):
        next(run_in_copy(["-c", "1"], {}, (sb3_ldm.__version__, "other-commit"), 0.1))


def test_an_abandoned_command_ends(tmp_path):
    updates = run_in_copy(
        ["-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"], {}, package_version(), 0.2
    )
    output = b""
    while not output:
        output = next(updates).output
    updates.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(output), 0)


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        ({}, 8),
        ({"n_cpus": 3}, 2),  # one on each node: what is left on both is not one more
        ({"n_gpus": 1.0}, 2),
        ({"n_gpus": 0.6}, 2),  # nor is what is left of two GPUs
        ({"n_gpus": 0.5}, 4),
        ({"n_cpus": 2, "n_gpus": 0.5}, 2),
    ],
)
def test_a_command_fits_on_one_node(monkeypatch, needed, expected):
    ray = pytest.importorskip("ray")
    there = [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 4.0}]
    nodes = [{"Alive": True, "Resources": one} for one in there] + [{"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert n_at_once(**needed) == expected
    for too_much in ({"n_cpus": 8}, {"n_gpus": 3.0}):
        with pytest.raises(ValueError, match="nodes have 4 and 2, 4 and 0"):
            n_at_once(**too_much)


def test_ray_client_is_refused():
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match="ray_address=ray://head:10001: start this on a node"):
        connect("ray://head:10001")


def test_files_are_replaced_in_one_step(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("old")
    write_files(tmp_path, {"a": b"1", "b/c": b"new", "d/e/f": b"2"})
    assert (tmp_path / "b" / "c").read_bytes() == b"new" and (tmp_path / "d" / "e" / "f").read_bytes() == b"2"
    assert not list(tmp_path.rglob("partial_*"))


# On two nodes of one machine


@pytest.fixture
def two_nodes(monkeypatch):
    """A cluster whose head runs nothing, and its two nodes of one processor each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(cluster, "SYNC_S", 0.5)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    made.wait_for_nodes()
    connect(made.address)
    yield made, nodes
    ray.shutdown()
    made.shutdown()


def kill_one_worker() -> None:
    found = subprocess.run(["pgrep", "-f", "^ray::run_in_copy"], capture_output=True, text=True, check=True)
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes with pgrep")
def test_what_a_killed_worker_did_is_not_lost(two_nodes, tmp_path):
    write_files(tmp_path, {"a/number": b"0"})
    with (tmp_path / "log").open("ab") as log:
        process = RemoteProcess(lambda: [sys.executable, "-c", COUNT], tmp_path, log, keep=["log"])
        while process.poll() is None and process.n_losses == 0:
            if int((tmp_path / "a" / "number").read_text()) > 5:
                kill_one_worker()
                while process.n_losses == 0:
                    process.poll()
            time.sleep(0.1)
        assert process.wait() == 0 and process.n_losses == 1
    starts = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("from")]
    assert starts[0] == "from 0" and 5 < int(starts[1].split()[1]) < 30
    assert (tmp_path / "b").read_text() == "end" and not (tmp_path / "a" / "number").exists()


@pytest.mark.slow
def test_a_command_that_loses_every_node_is_given_up(two_nodes, tmp_path):
    """Whether it takes the worker with it, or is killed itself; what it writes before is no progress."""
    script = "import os, signal; open(str(os.getpid()), 'w').close(); os.kill(os.get{}pid(), signal.SIGKILL)"
    for who in ("p", ""):
        process = RemoteProcess(
            lambda who=who: [sys.executable, "-c", script.format(who)], tmp_path, progress="checkpoint.zip"
        )
        assert process.wait() == cluster.LOST and process.n_losses == cluster.MAX_LOSSES
    assert n_at_once() == 2 and n_at_once(n_cpus=0.5) == 4
    with pytest.raises(ValueError, match=r"needs 1 processors and 1 GPUs; the cluster's nodes have .*1 and 0"):
        n_at_once(n_gpus=1.0)


@pytest.mark.slow
def test_an_experiment_survives_the_loss_of_a_node(two_nodes, tmp_path, monkeypatch):
    made, nodes = two_nodes
    variants = {"rl2": {"hyperparameters": {"policy_kwargs": {"lstm_hidden_size": 16}}}}
    data = {"title": "t", "source": "s", "env": "GridNavi-v0", "n_timesteps": 6.0e5, "seeds": [0, 1], "variants": variants}
    (tmp_path / "tiny.yml").write_text(yaml.safe_dump(data))
    jobs = run.make_jobs(load_experiment("tiny", tmp_path), tmp_path / "runs", tmp_path / "results")
    update, removed = run.Job.update, []

    def updated(job):
        update(job)
        if not removed and all(one.checkpoint() is not None for one in jobs):
            removed.append(nodes[0])
            made.remove_node(nodes[0], allow_graceful=False)

    monkeypatch.setattr(run.Job, "update", updated)
    assert run.run_jobs(jobs, 2, launch=run.launch_on_cluster) == []
    assert removed and [job.state for job in jobs] == ["done", "done"]
    assert sum(job.process.n_losses for job in jobs) == 1
    logs = [job.log_path.read_text() for job in jobs]
    assert sum("Continuing after" in log for log in logs) == 1
    for job in jobs:
        state = job.run.kept(job.results)
        assert state is not None
        assert state["finished"] and state["frames"] >= 600_000
        assert job.checkpoint() is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes with pgrep")
def test_a_study_survives_the_loss_of_a_worker(two_nodes, tmp_path, monkeypatch):
    poll, killed = RemoteProcess.poll, []

    def polled(process):
        if not killed and list(process.folder.glob("*/*/checkpoint.zip")):
            killed.append(process)
            kill_one_worker()
        return poll(process)

    monkeypatch.setattr(RemoteProcess, "poll", polled)
    words = ["--algo", "rl2", "--env", "GridNavi-v0", "-f", str(tmp_path), "-n", "400000", "--n-evaluations", "4"]
    tune([*words, "--n-trials", "2", "--pruner", "none", "--ray-address", two_nodes[0].address])
    assert killed
    storage = open_storage(str(tmp_path / "rl2" / "tune" / "rl2_GridNavi-v0.log"))
    study = optuna.load_study(study_name="rl2_GridNavi-v0", storage=storage)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    folder = tmp_path / "rl2" / "tune" / "rl2_GridNavi-v0"
    assert sum("Continuing after" in path.read_text() for path in folder.glob("trials/*/log.txt")) == 1
    assert len(list(folder.glob("trials/*/rl2/*/evaluations.csv"))) == 2 and (folder / "best.yml").is_file()
    assert not list(Path(folder).rglob("*.zip"))
