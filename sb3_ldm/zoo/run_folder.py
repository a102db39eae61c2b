"""The folder that a run writes to, which is its own, and what the run has cost so far."""

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import torch as th
from filelock import BaseFileLock

from sb3_ldm.files import PARTIAL, lock_folder
from sb3_ldm.results.evaluation_table import EVALUATIONS_FILE
from sb3_ldm.version import __version__, current_commit


class RunFolder:
    """A folder that one process writes to at a time."""

    def __init__(self) -> None:
        self._lock: BaseFileLock | None = None
        self._made: list[Path] = []  #: folders made by this run, its own one first

    def claim(self, folder: Path) -> bool:
        """
        :param folder: where a run is to begin
        :return: whether it is this process's now; it is not if there was one already
        """
        self._made = [one for one in (folder, *folder.parents) if not one.exists()]
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            return False
        self._lock = lock_folder(folder)
        return True

    def continue_in(self, folder: Path) -> None:
        """
        :param folder: of a run that goes on
        """
        self._lock = lock_folder(folder)
        for partial in folder.rglob(f"{PARTIAL}*"):  # of a process that was killed
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()

    def leave(self, folder: Path, failed: bool) -> None:
        """
        :param folder: the run's
        :param failed: whether the run did not come to its end; then it leaves no folder that has nothing in it
        """
        if failed and self._made and not (any(folder.glob("*.zip")) or (folder / EVALUATIONS_FILE).is_file()):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # others may have runs there
                for parent in self._made[1:]:
                    parent.rmdir()
        if self._lock is not None:
            self._lock.release()


class Spent:
    """What a run has taken since it began, in all processes that it went on in, and the code that trained it."""

    def __init__(self) -> None:
        self._commit = current_commit()
        self._started, self._cpu_started = time.time(), time.process_time()
        self._wall_time_before = self._cpu_time_before = 0.0
        self._commits_before: list[str] = []

    def add(self, before: dict[str, Any]) -> None:
        """
        :param before: ``run.json`` of the run that goes on
        """
        commits = [*before.get("commits_before", []), before.get("commit")]
        self._commits_before = [one for one in dict.fromkeys(commits) if one not in (None, self._commit)]
        self._wall_time_before = before["wall_time_s"]
        self._cpu_time_before = before.get("cpu_time_s", before["wall_time_s"] * before.get("threads", 1))

    def described(self) -> dict[str, Any]:
        """:return: for ``run.json``"""
        return {
            "wall_time_s": round(self._wall_time_before + time.time() - self._started, 1),
            # Tells the cost on a machine that does other things besides; processes of environments are not counted.
            "cpu_time_s": round(self._cpu_time_before + time.process_time() - self._cpu_started, 1),
            "threads": th.get_num_threads(),
            "version": __version__,
            "commit": self._commit,
            "commits_before": self._commits_before,
        }
