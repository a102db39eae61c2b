"""The same seed trains the same agent as before, bit for bit, by the code of an earlier commit on the same machine."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from fingerprints import AGENTS

from sb3_ldm import make_meta_vec_env
from sb3_ldm.data.training_state import read_state

#: The last commit whose agents may differ; a change that is meant to change agents moves it.
REFERENCE = "489d80a39e680fcd51e71ec877c7f679dbbc2fea"
ROOT = Path(__file__).parents[1]


#: What saves an agent of an algorithm, its buffer, and what it does where it stands.
SAVING = """
import sys
import numpy as np
from fingerprints import AGENTS, POLICY, PPO
from sb3_ldm import make_meta_vec_env
name, folder = sys.argv[1:]
algorithm, (env_id, env_kwargs), options = AGENTS[name]
env = make_meta_vec_env(env_id, n_envs=8, seed=3, backend="dummy", env_kwargs=env_kwargs)
model = algorithm("MlpLstmPolicy", env, policy_kwargs=POLICY, **PPO, **options).learn(8 * 24 * 2)
model.save(folder + "/model")
np.save(folder + "/actions", model.predict(model._last_obs, deterministic=True)[0])
"""


def _run(package: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(package), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=package, capture_output=True, text=True, check=True
    )
    return done.stdout


def _fingerprints(package: Path) -> dict[str, str]:
    return json.loads(_run(package, str(ROOT / "tests" / "fingerprints.py")).splitlines()[-1])


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """The package as it was in the reference commit."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", REFERENCE, "sb3_ldm", "zoo_configs"], capture_output=True)
    if archive.returncode != 0:
        pytest.skip(f"the history does not reach back to {REFERENCE}")
    folder = tmp_path_factory.mktemp("reference")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def test_agents_are_those_of_the_reference(reference):
    assert _fingerprints(ROOT) == _fingerprints(reference)


@pytest.mark.parametrize("name", ["ldm", "varibad", "mixreg"])
def test_agents_that_the_reference_saved_are_loaded(name, reference, tmp_path):
    _run(reference, "-c", SAVING, name, str(tmp_path))
    algorithm, (env_id, env_kwargs), options = AGENTS[name]
    env = make_meta_vec_env(env_id, n_envs=8, seed=3, backend="dummy", env_kwargs=env_kwargs)
    model = algorithm.load(tmp_path / "model", env=env, device="cpu")
    for option, value in options.items():
        assert getattr(model, option) == value
    state = read_state(tmp_path / "model")
    np.testing.assert_array_equal(model.predict(state["last_obs"], deterministic=True)[0], np.load(tmp_path / "actions.npy"))
    assert model.learn(1, reset_num_timesteps=False).num_timesteps > 8 * 24 * 2
