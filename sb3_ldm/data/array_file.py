"""Files of buffers: arrays alone, which nothing is run to read, under a checksum."""

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_DIGEST_LENGTH = 64  #: hexadecimal digits of SHA-256, the zip-file's comment
_CHUNK = 2**20
_DAMAGED = (
    "{path} is damaged ({reason}): load the buffer of an earlier checkpoint, or go on without one: the VAE then is "
    "trained on new meta-episodes alone."
)


def write_arrays(file: io.BufferedIOBase, arrays: dict[str, np.ndarray], numbers: dict[str, Any]) -> None:
    """
    Write an npz-file whose comment is the checksum of all that stands before it.

    :param file: open for writing and reading
    :param arrays: by their names
    :param numbers: whatever JSON can hold
    """
    begin = file.tell()
    text = np.array(json.dumps(numbers))
    with zipfile.ZipFile(file, "w") as archive:  # type: ignore[arg-type]
        for name, array in {**arrays, "numbers": text}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
        archive.comment = b"0" * _DIGEST_LENGTH
    file.seek(begin)
    digest = _digest(file)
    file.seek(-_DIGEST_LENGTH, io.SEEK_END)
    file.write(digest.encode())


def read_arrays(file: io.BufferedIOBase, path: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """
    :param file: open for reading
    :param path: its name, for messages
    :return: the arrays and numbers; None if it is a pickle, as buffers were saved before
    :raises ValueError: if it is not what was written
    """
    begin = file.tell()
    if file.read(1) == pickle.PROTO:
        file.seek(begin)
        return None
    file.seek(begin)
    digest, told = _digest(file), file.read(_DIGEST_LENGTH)
    if told != digest.encode():
        raise ValueError(_DAMAGED.format(path=path, reason="its checksum is another one"))
    file.seek(begin)
    with np.load(file, allow_pickle=False) as archive:
        arrays = dict(archive)
    return arrays, json.loads(str(arrays.pop("numbers")))


def read_pickle(file: io.BufferedIOBase, path: Any) -> Any:
    """
    :param file: open for reading
    :param path: its name, for messages
    :return: what is pickled in it
    :raises ValueError: if that cannot be read
    """
    try:
        return pickle.load(file)
    except Exception as error:  # damaged pickles fail in any way
        raise ValueError(_DAMAGED.format(path=path, reason=f"{type(error).__name__}: {error}")) from error


def _digest(file: io.BufferedIOBase) -> str:
    """The checksum of what is left of a file but the last digits, before which it stops."""
    digest = hashlib.sha256()
    for part in _parts(file):
        digest.update(part)
    return digest.hexdigest()


def _parts(file: io.BufferedIOBase) -> Iterator[bytes]:
    begin = file.tell()
    left = file.seek(0, io.SEEK_END) - begin - _DIGEST_LENGTH
    file.seek(begin)
    while left > 0:
        part = file.read(min(_CHUNK, left))
        left -= len(part)
        yield part


def with_suffix(path: str | Path) -> Path:
    """
    :param path: of a buffer's file
    :return: with SB3's ending, if it has none
    """
    path = Path(path)
    return path if path.suffix else path.with_suffix(".pkl")
