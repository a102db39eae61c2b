"""Watching trained agents."""

import sys
from pathlib import Path

import gymnasium as gym
import imageio.v2
import numpy as np
import pytest

from sb3_ldm.enjoy import main as enjoy
from sb3_ldm.train import main as train
from sb3_ldm.zoo import experiment
from sb3_ldm.zoo.video import caption, find_trained


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log folder of an agent that was trained for one rollout."""
    folder = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train"])
        patch.setattr(experiment, "FINAL_REPEATS", 1)
        options = ["--algo", "rl2", "--eval-freq", "-1", "--verbose", "0", "-n", "1", "-f", str(folder)]
        train([*options, "-params", "n_envs:2", "batch_size:240", "normalize:True"])
    return folder


def test_a_video_shows_every_step_of_a_meta_episode_per_task(logs: Path, tmp_path: Path) -> None:
    video = tmp_path / "videos" / "agent.gif"
    enjoy(["--algo", "rl2", "-f", str(logs), "--video", str(video), "--n-tasks", "1"])
    frames = imageio.v2.mimread(video, memtest=False)
    # Of frames that do not differ a GIF keeps one.
    assert 1 < len(frames) <= 120 and frames[0].shape[:2] == (240, 224)


def test_the_zoo_s_script_runs_on_unseen_tasks(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["enjoy"])
    enjoy(["--algo", "rl2", "-f", str(logs), "-n", "240", "--no-render"])
    assert "2 Episodes" in capsys.readouterr().out
    assert "task_split:'test'" in sys.argv


def test_what_does_not_exist_is_named(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split='tests'.*train, test"):
        enjoy(["--algo", "rl2", "-f", str(logs), "--split", "tests"])
    with pytest.raises(ValueError, match="no trained ldm for GridNavi-v0"):
        enjoy(["--algo", "ldm", "-f", str(logs), "--video", str(tmp_path / "agent.gif")])


def test_a_video_refuses_options_that_it_has_no_use_for(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        enjoy(["--algo", "rl2", "-f", str(logs), "--video", str(tmp_path / "agent.gif"), "--n-timesteps", "50"])
    assert "--video has no use for --n-timesteps 50" in capsys.readouterr().err


def test_an_agent_is_shown_in_the_environment_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out goals take the place of the test goals, and a shorter horizon stays."""
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(experiment, "FINAL_REPEATS", 1)
    options = ["--algo", "rl2", "--verbose", "0", "-n", "1", "-f", str(tmp_path), "--eval-freq", "40"]
    options += ["--env-kwargs", "validation_tasks:6", "horizon:5"]
    train([*options, "-params", "n_envs:2", "batch_size:40", "normalize:True"])
    monkeypatch.setattr(sys, "argv", ["enjoy"])
    enjoy(["--algo", "rl2", "-f", str(tmp_path), "-n", "40", "--no-render"])
    assert sys.argv[-3:] == ["validation_tasks:6", "horizon:5", "task_split:'validation'"]
    agent = find_trained("rl2", "GridNavi-v0", str(tmp_path), best=True)
    assert agent.model.name == "best_model.zip" and agent.statistics is not None
    assert agent.statistics.name == "best_vecnormalize.pkl"


@pytest.mark.parametrize("env_id", ["GridNavi-v0", "GridNaviExtrapolation-v0"])
def test_a_window_can_be_asked_for(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """gymnasium shows pictures in a window where the environment only draws to arrays."""
    wrapped: list[gym.Env] = []

    def in_a_window(env: gym.Env) -> gym.Env:
        wrapped.append(env)
        return env

    monkeypatch.setattr(gym.wrappers, "HumanRendering", in_a_window)
    gym.make(env_id, render_mode="human")
    assert wrapped and wrapped[0].render_mode == "rgb_array"


def test_frames_have_even_sides() -> None:
    picture = caption(np.zeros((101, 77, 3), np.uint8), "text")
    assert picture.shape == (118, 78, 3) and picture[:16].max() == 255 and picture[16:117, :77].max() == 0
