"""Files that are whole at any time: full disks, kills, other processes."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from helpers import grid_vec_env

from sb3_ldm import RL2
from sb3_ldm.files import append_lines, finished_lines, lock_folder, replacing
from sb3_ldm.zoo.tuning import write_study

resource = pytest.importorskip("resource", reason="full disks are imitated by a limit on the size of files")


@pytest.fixture
def full_disk():
    """A limit that stops writing as a full disk does, with an OSError or a part of what was to be written."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def write_text(path: Path) -> None:
    path.write_text("x" * 100_000)


def write_arrays(path: Path) -> None:
    np.savez_compressed(path, a=np.random.default_rng(0).random(100_000))


def write_model(path: Path) -> None:
    RL2("MlpLstmPolicy", grid_vec_env(1), device="cpu").save(path)


@pytest.mark.parametrize("write", [write_text, write_arrays, write_model])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(write, tmp_path, full_disk):
    path = tmp_path / ("a.npz" if write is write_arrays else "a.zip")
    path.write_text("old")
    full_disk(50_000)
    with (
        pytest.raises(OSError, match=rf"{path} cannot be written, what was there stays: ") as raised,
        replacing(path) as partial,
    ):
        write(partial)
    assert raised.value.errno == errno.EFBIG
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_what_fails_for_another_reason_leaves_the_old_file_too(error, tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(type(error)), replacing(path) as partial:
        partial.write_text("new")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_replaces_another(tmp_path, monkeypatch):
    """In this order, or a crash of the machine leaves an empty file under the name."""
    path, calls, flush, put = tmp_path / "a", [], os.fsync, os.replace
    path.write_text("old")

    def fsync(descriptor):
        calls.append("flush " + ("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"))
        flush(descriptor)

    def replace(*args):
        calls.append("replace")
        put(*args)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with replacing(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    expected = ["flush file", "replace", "flush folder"]
    assert calls == (expected if os.path.isdir("/proc/self/fd") else [call.replace("folder", "file") for call in expected])


def test_lines_are_appended_behind_a_cut_one(tmp_path):
    path = tmp_path / "new" / "a.csv"
    append_lines(path, "1,2\r\n", header="a,b\r\n")
    append_lines(path, "3,4\r\n", header="a,b\r\n")
    with path.open("ab") as file:
        file.write(b"5,")  # as a killed process leaves it
    append_lines(path, "6,7\r\n", header="a,b\r\n")
    assert path.read_bytes() == b"a,b\r\n1,2\r\n3,4\r\n6,7\r\n"
    for rest in (b"", b"a,"):
        path.write_bytes(rest)
        append_lines(path, "1,2\r\n", header="a,b\r\n")
        assert path.read_bytes() == b"a,b\r\n1,2\r\n"


def test_a_full_disk_takes_all_lines_or_none(tmp_path, full_disk):
    path = tmp_path / "a.csv"
    append_lines(path, "1,2\n")
    full_disk(50)
    with pytest.raises(OSError, match=rf"{path} cannot be written, what was there stays"):
        append_lines(path, "3,4\n" * 100)  # a part of it would fit
    assert path.read_text() == "1,2\n"


def test_finished_lines_are_those_with_an_end(tmp_path):
    path = tmp_path / "a"
    path.write_bytes("ä,1\nb,2\r\nc,".encode())
    assert finished_lines(path) == ["ä,1\n", "b,2\r\n"]


def test_a_folder_belongs_to_one_process_until_it_is_killed(tmp_path):
    code = "import sys, time; from pathlib import Path; from sb3_ldm.files import lock_folder\n"
    code += "lock = lock_folder(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=rf"{tmp_path} is being written by another run \(process {other.pid} on .*\)"):
            lock_folder(tmp_path)
    finally:
        other.kill()
        other.wait()
    lock = lock_folder(tmp_path)
    with pytest.raises(ValueError, match=rf"process {os.getpid()} on "):
        lock_folder(tmp_path)
    lock.release()
    lock_folder(tmp_path).release()


def test_a_full_disk_leaves_the_files_of_a_study(tmp_path, full_disk):
    study = optuna.create_study()
    for value in range(50):
        trial = study.ask()
        trial.suggest_float("gamma", 0.0, 1.0)
        trial.set_user_attr("hyperparameters", json.dumps({"gamma": value / 100}))
        study.tell(trial, float(value))
    write_study(study, tmp_path, "rl2", "GridNavi-v0", "rl2", plots=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"trials.csv", "best.yml"}
    full_disk(100)
    with pytest.raises(OSError, match=r"trials\.csv cannot be written, what was there stays: "):
        write_study(study, tmp_path, "rl2", "GridNavi-v0", "rl2", plots=False)
    full_disk(len(before["trials.csv"]))
    study.add_trial(optuna.trial.create_trial(value=99.0, user_attrs={"hyperparameters": "{}"}))
    with pytest.raises(OSError, match="cannot be written, what was there stays: "):
        write_study(study, tmp_path, "rl2", "GridNavi-v0", "rl2", plots=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
