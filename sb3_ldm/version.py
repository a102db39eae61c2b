"""Which code this is."""

import functools
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parent
#: What results depend on, relative to the clone.
SOURCES = ("sb3_ldm", "zoo_configs", "benchmarks/*.py")

__version__ = (PACKAGE / "version.txt").read_text().strip()


@functools.cache
def current_commit() -> str | None:
    """
    What the clone becomes while a run goes on is not what the run is of: the first answer holds for the whole process.

    :return: the commit of the clone that the package runs from, marked ``-dirty`` if code or hyperparameters are changed; None
        outside of a clone
    """
    try:
        _git("ls-files", "--error-unmatch", "sb3_ldm/version.py")  # the package may lie in somebody else's repository
        commit, changed = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "--", *SOURCES)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
