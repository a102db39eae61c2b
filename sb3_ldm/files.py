"""Files that are whole at any time, whatever happens while they are written."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PARTIAL = "partial_"  #: how names of files begin that are being written


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    Put a file in the place of another in one step, at the end of the ``with``; if that fails, the other one stays.

    :param path: the file
    :return: where to write what replaces it
    """
    partial = path.with_name(PARTIAL + path.name)
    partial.unlink(missing_ok=True)  # of a process that was killed
    yield partial
    os.replace(partial, path)
