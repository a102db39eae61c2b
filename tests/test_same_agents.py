"""The same seed trains the same agent as before, bit for bit, by the code of an earlier commit on the same machine."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

#: The last commit whose agents may differ; a change that is meant to change agents moves it.
REFERENCE = "081920ed97fd9769fc302812c908c18bc6a8aaba"
ROOT = Path(__file__).parents[1]


def _fingerprints(package: Path) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "fingerprints.py")]
    done = subprocess.run(command, env=environment, cwd=package, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_agents_are_those_of_the_reference(tmp_path):
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", REFERENCE, "sb3_ldm", "zoo_configs"], capture_output=True)
    if archive.returncode != 0:
        pytest.skip(f"the history does not reach back to {REFERENCE}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(tmp_path, filter="data")
    assert _fingerprints(ROOT) == _fingerprints(tmp_path)
