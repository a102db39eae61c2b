"""Commands on the nodes of a Ray cluster; what they write there is copied back while they run."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from sb3_ldm.files import PARTIAL, replacing
from sb3_ldm.version import __version__, current_commit

SYNC_S = 5.0  #: between looks at what a command has written
MAX_LOSSES = 3  #: a command that was lost so often, with no progress in between, is given up
LOST = -1  #: return code of a command that was given up or terminated

Files = dict[str, bytes]  #: names relative to a folder, and contents


@dataclass(frozen=True)
class Cluster:
    """
    Trials on the nodes of the connected Ray cluster.

    :param n_trials: at a time
    :param n_cpus: that a trial needs
    :param n_gpus: that a trial needs
    """

    n_trials: int
    n_cpus: float = 1.0
    n_gpus: float = 0.0


class Update(NamedTuple):
    """
    What a command did since the last one.

    :param files: new and changed files
    :param removed: names of files that are gone
    :param output: what it printed
    :param returncode: None while it runs
    """

    files: Files
    removed: list[str]
    output: bytes
    returncode: int | None


def connect(address: str | None) -> None:
    """
    Connect this process to a Ray cluster, if it is not connected to one already.

    :param address: ``HOST:PORT`` of a Ray cluster that this machine belongs to; empty or None for that in ``RAY_ADDRESS``, and
        without one Ray is started on this machine
    :raises ImportError: if Ray is not installed
    :raises ValueError: if the address is one of Ray Client, which does not stream results
    :raises ConnectionError: if there is no cluster
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("ray_address needs Ray: pip install 'sb3_ldm[ray]'") from error
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("ray://"):
        raise ValueError(f"ray_address={address}: start this on a node of the cluster, and give HOST:PORT or auto.")
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)


def n_at_once(n_cpus: float = 1.0, n_gpus: float = 0.0) -> int:
    """
    :param n_cpus: processors that a command needs
    :param n_gpus: GPUs that it needs
    :return: how many commands the connected cluster can run at a time
    :raises ValueError: if it can run none
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = sum(_n_on_node(there, n_cpus, n_gpus) for there in nodes)
    if fitting < 1:
        most = ", ".join(f"{there.get('CPU', 0.0):g} and {there.get('GPU', 0.0):g}" for there in nodes)
        raise ValueError(f"A run needs {n_cpus:g} processors and {n_gpus:g} GPUs; the cluster's nodes have {most}.")
    return fitting


def _n_on_node(there: Mapping[str, float], n_cpus: float, n_gpus: float) -> int:
    """How many commands fit on a node, none of which gets a part of one GPU and a part of another."""
    of_cpus = int(there.get("CPU", 0.0) / n_cpus) if n_cpus > 0 else sys.maxsize
    n_there = there.get("GPU", 0.0)
    of_gpus = sys.maxsize if n_gpus == 0 else int(n_there / n_gpus) if n_gpus >= 1 else int(n_there) * int(1.0 / n_gpus)
    return min(of_cpus, of_gpus)


class RemoteProcess:
    """
    A command on some node of a Ray cluster, to be used like ``subprocess.Popen``. It starts in a copy of a folder, and what it
    changes there is changed here too, so the nodes need not share a file system. When it is killed or its node is lost, it is
    started again, from what has been copied back. Call ``poll`` every few seconds. Nodes need this package, the same version.

    :param command: makes the command line, from the folder as it is now, for a working directory that is a copy of it. The
        first word, the interpreter, is replaced by the node's
    :param folder: where it starts, and what comes back
    :param output: where what it prints goes, None to drop it
    :param keep: names of files in the folder that are not sent
    :param progress: name of a file that tells progress, wherever it is in the folder; None for any file
    :param n_cpus: processors that it needs
    :param n_gpus: GPUs that it needs
    """

    def __init__(
        self,
        command: Callable[[], Sequence[str]],
        folder: Path,
        output: IO[bytes] | None = None,
        keep: Sequence[str] = (),
        progress: str | None = None,
        n_cpus: float = 1.0,
        n_gpus: float = 0.0,
    ):
        self.command = command
        self.folder = folder
        self.output = output
        self.keep = frozenset(keep)
        self.progress = progress
        self.resources = {"num_cpus": n_cpus, "num_gpus": n_gpus}
        self.returncode: int | None = None
        self.is_started = False  #: False while it waits for a node
        self.n_losses = 0
        self._losses_in_a_row = 0
        self._updates: Any = None
        self._submit()

    def _submit(self) -> None:
        import ray

        # Ray would start anew what it retries itself.
        task = ray.remote(run_in_copy).options(max_retries=0, **self.resources)
        files = {name: (self.folder / name).read_bytes() for name in _snapshot(self.folder) if name not in self.keep}
        self._updates = task.remote(list(self.command())[1:], files, package_version(), SYNC_S)

    def poll(self) -> int | None:
        """:return: the return code, None while it runs or waits for a node"""
        import ray
        from ray import exceptions as lost

        while self.returncode is None and ray.wait([self._updates], timeout=0)[0]:
            try:
                update = ray.get(next(self._updates))
            except (lost.WorkerCrashedError, lost.NodeDiedError, lost.ObjectLostError, lost.OutOfMemoryError) as error:
                ray.cancel(self._updates)  # if but an update was lost, it still runs
                self._lose(str(error).splitlines()[0])
            except (StopIteration, lost.RayError) as error:
                self._print(f"{error}\n".encode())
                self.returncode = 1
            else:
                self._apply(update)
        return self.returncode

    def _lose(self, why: str) -> None:
        self.n_losses += 1
        self._losses_in_a_row += 1
        self._print(f"Lost: {why}\n".encode())
        self.is_started = False
        if self._losses_in_a_row >= MAX_LOSSES:
            self.returncode = LOST
        else:
            self._submit()

    def _apply(self, update: Update) -> None:
        self.is_started = True
        if any(self.progress in (None, Path(name).name) for name in update.files):
            self._losses_in_a_row = 0
        write_files(self.folder, update.files)
        for name in update.removed:
            (self.folder / name).unlink(missing_ok=True)
        self._print(update.output)
        if update.returncode is not None and update.returncode < 0:  # the system kills who takes too much memory
            self._lose(f"killed by signal {-update.returncode}")
        else:
            self.returncode = update.returncode

    def _print(self, text: bytes) -> None:
        if self.output is not None:
            self.output.write(text)
            self.output.flush()

    def terminate(self) -> None:
        """End it; what it wrote since the last ``poll`` is lost."""
        import ray

        if self.returncode is None:
            ray.cancel(self._updates)
            self.returncode = LOST

    def wait(self) -> int:
        """:return: the return code, as soon as there is one"""
        while self.poll() is None:
            time.sleep(SYNC_S / 10)
        assert self.returncode is not None
        return self.returncode


def package_version() -> tuple[str, str | None]:
    """:return: version of the package, and the commit where it is known"""
    return __version__, current_commit()


def _is_same(version: tuple[str, str | None], other: tuple[str, str | None]) -> bool:
    return version[0] == other[0] and (None in (version[1], other[1]) or version[1] == other[1])


def run_in_copy(words: Sequence[str], files: Files, version: tuple[str, str | None], sync_s: float) -> Iterator[Update]:
    """
    Run Python in a new folder: the task of a node.

    :param words: of the command line, without the interpreter
    :param files: content of the folder
    :param version: :func:`package_version` where this was asked for
    :param sync_s: seconds between updates
    :return: at once an empty update, then what changes, at last with the return code
    :raises RuntimeError: if another version of the package is installed here
    """
    if not _is_same(package_version(), version):
        raise RuntimeError(f"sb3_ldm {package_version()} is installed on this node, {version} is needed")
    with tempfile.TemporaryDirectory(prefix="sb3_ldm_", ignore_cleanup_errors=True) as name:
        folder = Path(name) / "folder"
        folder.mkdir()
        write_files(folder, files)
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # of the driver, too
        environment = {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
        with open(Path(name) / "output", "w+b") as output:
            command = [*_die_with_me(), sys.executable, *words]
            seen, printed = _snapshot(folder), 0
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
            try:
                yield Update({}, [], b"", None)
                returncode = None
                while returncode is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(sync_s)
                    returncode = process.poll()
                    now = _snapshot(folder)
                    changed = _read(folder, [name for name in now if now[name] != seen.get(name)])
                    text = os.pread(output.fileno(), 2**24, printed)
                    printed += len(text)
                    removed = [name for name in seen if name not in now]
                    seen = now
                    if changed or removed or text or returncode is not None:
                        yield Update(changed, removed, text, returncode)
            finally:
                process.kill()
                process.wait()


def _die_with_me() -> list[str]:
    """A prefix for commands that end when this process is killed, where there is one."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Names of files, with what tells whether they have changed; the oldest first, as they were written."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and not path.name.startswith(PARTIAL):
                status = path.stat()
                found[path.relative_to(folder).as_posix()] = (status.st_mtime_ns, status.st_size)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _read(folder: Path, names: Sequence[str]) -> Files:
    contents = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            contents[name] = (folder / name).read_bytes()
    return contents


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """
    :param folder: where to write
    :param files: names and contents; each file is replaced in one step
    """
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(content)
