"""Watching trained agents."""

import re
import shutil
import sys
from pathlib import Path

import gymnasium as gym
import imageio.v2
import numpy as np
import pytest
import rl_zoo3.enjoy
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ldm.enjoy import _parser
from sb3_ldm.enjoy import main as enjoy
from sb3_ldm.envs import factory, make_meta_vec_env
from sb3_ldm.envs.gridworld import grid_navi_tasks
from sb3_ldm.train import main as train
from sb3_ldm.zoo import experiment
from sb3_ldm.zoo.trained import find_trained
from sb3_ldm.zoo.video import caption


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


def test_returns_are_told_without_a_display(logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """And how to see the agent; of unseen tasks, in each episode."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    enjoy(["--algo", "rl2", "-f", str(logs), "-n", "240"])
    told = capsys.readouterr().out
    assert "no display" in told and "--video agent.mp4" in told and "--no-render" in told
    totals = [float(total) for total in re.findall(r"Episode Reward: (\S+)", told)]
    returns = [[float(one) for one in found.split(",")] for found in re.findall(r"returns of its episodes: (.*)", told)]
    assert [sum(some) for some in returns] == pytest.approx(totals, abs=0.03) and len(returns[0]) == 4
    assert f"2 Episodes\nMean reward: {np.mean(totals):.2f}" in told and told.count("Episode Length 120") == 2
    train_goals = {str(task) for task in grid_navi_tasks().tasks("train")}
    shown = re.findall(r"task (\[.*?\]),", told)
    assert len(shown) == 2 and not train_goals & set(shown)
    enjoy(["--algo", "rl2", "-f", str(logs), "-n", "240", "--no-render", "--n-envs", "2", "--verbose", "0"])
    told = capsys.readouterr().out
    assert "no display" not in told and "4 Episodes" in told and "Episode Reward" not in told
    enjoy(["--algo", "rl2", "-f", str(logs), "-n", "119", "--no-render"])
    assert "No meta-episode has ended in -n 119 steps: they have up to 120" in capsys.readouterr().out


def test_rewards_are_kept_in_a_file_and_normalised_if_asked_for(logs: Path, tmp_path: Path, capsys) -> None:
    words = [
        "--algo",
        "rl2",
        "-f",
        str(logs),
        "-n",
        "120",
        "--no-render",
        "--progress",
        "--deterministic",
        "--num-threads",
        "1",
    ]
    enjoy([*words, "--reward-log", str(tmp_path / "log"), "--custom-objects"])
    plain = float(re.findall(r"Mean reward: (\S+)", capsys.readouterr().out)[0])
    assert load_results(str(tmp_path / "log")).r.tolist() == pytest.approx([plain], abs=0.006)
    enjoy([*words, "--norm-reward"])
    assert float(re.findall(r"Mean reward: (\S+)", capsys.readouterr().out)[0]) != plain


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--load-checkpoint", "100"], r"--load-checkpoint has no use: .*--load-last-checkpoint"),
        (["--n-task", "2"], "--n-tasks has no use without --video"),
        (["--n-timestep", "0"], "n_timesteps=0"),
        (["--load-best", "--load-last-checkpoint"], "not allowed with argument --load-best"),
        (["--no-rendr"], r"--no-rendr: did you mean --no-render"),
        (["--env-kwargs", "horizn:5"], r"horizn=5 is not understood: did you mean horizon\?"),
        (["--load-best"], r"has no best_model.zip, but GridNavi-v0.zip"),
        (["--exp-id", "7"], "no trained rl2 for GridNavi-v0 with number 7"),
    ],
)
def test_options_that_cannot_work_are_refused_by_name(logs: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        enjoy(["--algo", "rl2", "-f", str(logs), *words])


def test_all_options_of_rl_zoo3_are_known(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs: set[str] = set()

    def note(self, *names, **kwargs):
        theirs.update(names)

    with monkeypatch.context() as patch, pytest.raises(AttributeError):
        patch.setattr(rl_zoo3.enjoy.argparse.ArgumentParser, "add_argument", note)
        patch.setattr(rl_zoo3.enjoy.argparse.ArgumentParser, "parse_args", lambda self: None)
        rl_zoo3.enjoy.enjoy()
    own = {name for action in _parser()._actions for name in action.option_strings}
    assert "--env" in theirs and theirs <= own


def test_the_agent_of_an_interrupted_run_is_shown(logs: Path, tmp_path: Path) -> None:
    """Its checkpoint, or its best model; a run without an agent does not hide those before it."""
    folder = tmp_path / "logs"
    shutil.copytree(logs, folder)
    run = folder / "rl2" / "GridNavi-v0_1"
    (run / "GridNavi-v0.zip").rename(run / "checkpoint.zip")
    (folder / "rl2" / "GridNavi-v0_2").mkdir()
    with pytest.raises(ValueError, match=r"has no GridNavi-v0.zip, but checkpoint.zip \(--load-last-checkpoint\)"):
        enjoy(["--algo", "rl2", "-f", str(folder), "-n", "120", "--no-render"])
    assert find_trained("rl2", "GridNavi-v0", str(folder), last_checkpoint=True).model == run / "checkpoint.zip"
    (run / "checkpoint.zip").rename(run / "best_model.zip")
    shutil.copyfile(run / "GridNavi-v0" / "vecnormalize.pkl", run / "best_vecnormalize.pkl")
    found = find_trained("rl2", "GridNavi-v0", str(folder), last_checkpoint=True)
    assert found.model.name == "best_model.zip" and found.statistics == run / "best_vecnormalize.pkl"
    uuid = folder / "rl2" / "GridNavi-v0_3_123e4567-e89b-12d3-a456-426614174000"
    run.rename(uuid)
    assert find_trained("rl2", "GridNavi-v0", str(folder), best=True).model.parent == uuid


def test_what_a_video_needs_is_looked_for_first(logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--algo", "rl2", "-f", str(logs), "--video"]
    for missing, file in (("imageio", "agent.gif"), ("imageio_ffmpeg", "agent.mp4")):
        with monkeypatch.context() as patch, pytest.raises(ImportError, match=rf"{missing}.*sb3_ldm\[video\]"):
            patch.setitem(sys.modules, missing, None)
            enjoy([*words, str(tmp_path / file)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("best", [False, True])
def test_observations_are_normalised_by_the_statistics_of_the_agent(
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


def test_a_video_refuses_options_that_it_has_no_use_for(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--video has no use for --n-timesteps, --no-render"):
        enjoy(["--algo", "rl2", "-f", str(logs), "--video", str(tmp_path / "agent.gif"), "--n-timesteps", "50", "--no-render"])


def test_an_agent_is_shown_in_the_environment_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out goals take the place of the test goals, and a shorter horizon stays."""
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(experiment, "FINAL_REPEATS", 1)
    options = ["--algo", "rl2", "--verbose", "0", "-n", "1", "-f", str(tmp_path), "--eval-freq", "40"]
    options += ["--env-kwargs", "validation_tasks:6", "horizon:5"]
    train([*options, "-params", "n_envs:2", "batch_size:40", "normalize:True"])
    made: list[dict] = []

    def watch(*args, env_kwargs, **kwargs):
        made.append(env_kwargs)
        return make_vec_env(*args, env_kwargs=env_kwargs, **kwargs)

    make_vec_env = factory.make_vec_env
    monkeypatch.setattr(factory, "make_vec_env", watch)
    enjoy(["--algo", "rl2", "-f", str(tmp_path), "-n", "40", "--no-render"])
    assert made == [{"validation_tasks": 6, "horizon": 5, "task_split": "validation"}]
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
