"""Watching trained agents."""

import shutil
import sys
from pathlib import Path

import gymnasium as gym
import imageio.v2
import numpy as np
import pytest
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ldm.common.vec_env import make_meta_vec_env
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


@pytest.mark.parametrize("best", [False, True])
def test_the_zoo_s_script_normalises_by_the_statistics_of_the_agent(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: bool
) -> None:
    folder = tmp_path / "logs"
    shutil.copytree(logs, folder)
    run = folder / "rl2" / "GridNavi-v0_1"
    last = run / "GridNavi-v0" / "vecnormalize.pkl"
    shutil.copyfile(run / "GridNavi-v0.zip", run / "best_model.zip")
    other = VecNormalize.load(str(last), make_meta_vec_env("GridNavi-v0", 1))
    assert isinstance(other.obs_rms, RunningMeanStd)
    mean = other.obs_rms.mean.copy()
    other.obs_rms.mean = mean + 7.0
    other.save(str(run / "best_vecnormalize.pkl"))
    made = []

    def watch(self, venv):
        made.append(self.obs_rms.mean)
        return set_venv(self, venv)

    set_venv = VecNormalize.set_venv
    monkeypatch.setattr(VecNormalize, "set_venv", watch)
    monkeypatch.setattr(sys, "argv", ["enjoy"])
    enjoy(["--algo", "rl2", "-f", str(folder), "-n", "2", "--no-render", *["--load-best"] * best])
    np.testing.assert_array_equal(made[-1], mean + 7.0 if best else mean)


def test_an_agent_that_lacks_its_statistics_is_refused(logs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    shutil.copytree(logs, folder)
    (folder / "rl2" / "GridNavi-v0_1" / "GridNavi-v0" / "vecnormalize.pkl").unlink()
    with pytest.raises(ValueError, match=r"vecnormalize\.pkl is missing"):
        find_trained("rl2", "GridNavi-v0", str(folder))


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
