"""Files that are whole at any time, whatever happens while they are written."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from sb3_ldm.checks import warn_user

PARTIAL = "partial_"  #: how names of files begin that are being written
LOCK_FILE = ".lock"  #: in a folder that a process writes to: who it is


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    Put a file in the place of another in one step, at the end of the ``with``, when it is on the disk; if that fails, the
    other one stays, and nothing else does.

    :param path: the file
    :return: where to write what replaces it
    :raises OSError: if it cannot be written, naming the file
    """
    partial = path.with_name(PARTIAL + path.name)
    try:
        partial.unlink(missing_ok=True)  # of a process that was killed
        yield partial
        _flush(partial)
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        cause = _error_of_disk(error)
        if cause is None:
            raise
        raise type(cause)(cause.errno, f"{path} cannot be written, what was there stays: {cause.strerror}") from error
    _flush_folder(path.parent)


def _error_of_disk(error: BaseException | None) -> OSError | None:
    """What is behind an error, as torch and zipfile raise others while they write to a full disk."""
    seen = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _flush(path: Path) -> None:
    """Wait until a file is on the disk, where a crash of the machine leaves it."""
    descriptor = os.open(path, os.O_RDWR)  # Windows flushes no file that is open for reading alone
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk, where the system can."""
    with contextlib.suppress(OSError):  # Windows opens no folders, and some network drives flush none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def finished_lines(path: Path) -> list[str]:
    """
    :param path: a text file in UTF-8
    :return: its lines with their ends, without a last one that is still being written or whose writer was killed
    """
    lines = path.read_bytes().decode().splitlines(keepends=True)
    return lines if not lines or lines[-1].endswith("\n") else lines[:-1]


def _finished_size(path: Path) -> int:
    """Bytes of a file's finished lines."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if file.read(1) in (b"", b"\n"):
            return size
    return sum(len(line.encode()) for line in finished_lines(path))


def append_lines(path: Path, lines: str, header: str = "", flush: bool = True) -> None:
    """
    Append lines to a text file in one step, since others may be reading: all of them, or none where that fails.

    :param path: the file, made if there is none; a last line that was cut when its writer was killed is taken out
    :param lines: each with its end
    :param header: what a file begins with that is new, or of which nothing whole was written
    :param flush: whether to wait until they are on the disk; else a crash of the machine may lose them
    :raises OSError: if they cannot be written, naming the file
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        kept = _finished_size(path)
        file.truncate(kept)
        rest = memoryview(((header if kept == 0 else "") + lines).encode())
        try:
            while rest:
                rest = rest[file.write(rest) :]  # a disk that fills up takes a part
            if flush:
                os.fsync(file.fileno())
        except OSError as error:
            file.truncate(kept)
            raise type(error)(error.errno, f"{path} cannot be written, what was there stays: {error.strerror}") from error


def lock_folder(folder: Path) -> filelock.BaseFileLock:
    """
    Claim a folder for this process, until it releases the lock or ends in whatever way.

    :param folder: the folder
    :return: the lock, to be released
    :raises ValueError: if another process has it, naming both
    """
    path = folder / LOCK_FILE
    lock = filelock.FileLock(path, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ValueError(
            f"{folder} is being written by another run{_owner(path)}: wait until it has ended, or stop it; two of them would "
            "mix their results."
        ) from None
    except OSError as error:
        warn_user(f"{folder} cannot be locked ({error}): see to it that no other process writes to it.")
        return lock
    with contextlib.suppress(OSError):  # what is locked cannot be written again on Windows
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
    return lock


def _owner(path: Path) -> str:
    """Who has written a lock file, as far as that can be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if text := path.read_text(encoding="utf-8").strip():
            return f" ({text})"
    return ""


def save_arrays(path: Path, **arrays: Any) -> None:
    """
    :param path: the npz file
    :param arrays: what it holds, by name
    """
    with replacing(path) as partial:
        np.savez_compressed(partial, **arrays)
