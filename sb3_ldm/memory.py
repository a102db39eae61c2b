"""Whether arrays fit into memory, asked before they fill it: zeros are allocated lazily, and processes are killed late."""

import os
from pathlib import Path

from sb3_ldm.checks import warn_user

_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """:return: bytes that this process may still use, a container's limit included; None where the system does not tell"""
    known = [one for one in (_of_machine(), _of_container()) if one is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    try:
        import psutil
    except ImportError:
        pass
    else:
        return int(psutil.virtual_memory().available)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _of_container() -> int | None:
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return max(0, limit - int(used["anon"]))  # what files take is given back
    except (OSError, ValueError, KeyError):  # no container, or one without a limit
        return None


def warn_if_too_large(what: str, n_bytes: int, remedy: str) -> None:
    """
    :param what: the parameter that decides, with its value, and what it is the size of
    :param n_bytes: memory that is needed when it is full
    :param remedy: what to do about it
    """
    available = available_memory()
    if available is not None and n_bytes > available:
        warn_user(
            f"{what} needs {gigabytes(n_bytes)} when it is full, and {gigabytes(available)} are available: the process may be "
            f"killed hours later. {remedy}"
        )


def gigabytes(n_bytes: int) -> str:
    """:return: a number of bytes to read"""
    return f"{n_bytes / 1e9:.3g} GB ({n_bytes:,} bytes)"


def fitting(n_bytes: int) -> int:
    """
    :param n_bytes: size of one of something
    :return: how many fit into half of what is available; at least 1
    """
    return max(1, (available_memory() or 0) // 2 // n_bytes)
