"""What docs/your_own_tasks.md says of an environment of one's own works as printed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
import yaml

from sb3_ldm import LDM, make_meta_vec_env
from sb3_ldm.enjoy import main as enjoy
from sb3_ldm.envs import check_task_env
from sb3_ldm.evaluation import evaluate_meta
from sb3_ldm.train import main as train
from sb3_ldm.zoo.configs import config_path
from sb3_ldm.zoo.registration import ALGORITHMS

PAGE = (Path(__file__).parent.parent / "docs/your_own_tasks.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    """The code block that follows a comment."""
    found = re.search(rf"<!-- {re.escape(marker)} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(block("my_tasks.py"))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    gym.registry.pop("Reach-v0", None)
    sys.modules.pop("my_tasks", None)


def test_the_environment_is_one(folder):
    import my_tasks

    assert len(block("my_tasks.py").splitlines()) <= 40
    check_task_env(my_tasks.Reach(), with_reset=True)
    env = make_meta_vec_env("Reach-v0", 4, seed=0)
    model = LDM("MlpLstmPolicy", env, mixture_ratio=0.25, seed=0, device="cpu", vae_kwargs={"encoder_hidden_size": 8})
    model.learn(2 * 4 * 40)
    assert evaluate_meta(model, env, "test").returns.shape == (3, 2)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_has_hyperparameters_for_an_environment_that_nothing_is_known_of(folder, algo):
    import my_tasks  # noqa: F401

    defaults = yaml.safe_load(config_path(algo).read_text())["default"]
    policy = defaults.pop("policy")
    for name in ("n_envs", "n_timesteps", "normalize", "learning_rate", "env_kwargs"):
        defaults.pop(name, None)
    env = make_meta_vec_env("Reach-v0", 4, seed=0)
    ALGORITHMS[algo](policy, env, seed=0, device="cpu", **defaults).learn(4 * 40)


def test_the_agent_can_be_watched(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x"])
    options = ["--algo", "rl2", "--env", "Reach-v0", "--gym-packages", "my_tasks", "-f", str(folder)]
    train([*options, "-n", "160", "--eval-freq", "-1", "--verbose", "0", "-params", "n_envs:4"])
    gym.registry.pop("Reach-v0")
    sys.modules.pop("my_tasks")
    enjoy([*options, "-n", "40", "--no-render"])


@pytest.mark.slow
def test_the_commands_run_as_printed(folder):
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}  # where the package is not installed
    for line in block("own environment").strip().splitlines():
        words = shlex.split(line)
        result = subprocess.run([sys.executable, *words[1:]], cwd=folder, env=paths, capture_output=True, text=True)
        assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
    assert (folder / "figures" / "learning_curves.png").is_file()
    assert (folder / "logs" / "ldm" / "Reach-v0_2" / "final_evaluation.csv").is_file()
