"""The command that tells a trained agent's returns."""

import json
import re
import shutil
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from helpers import Bandit, Drift, small_run
from stable_baselines3 import DQN, SAC

from sb3_ldm import RL2, make_meta_vec_env
from sb3_ldm.envs.meta_episode import MetaEpisodeWrapper
from sb3_ldm.evaluate import main as evaluate
from sb3_ldm.evaluation import evaluate_meta
from sb3_ldm.train import main as train
from sb3_ldm.zoo import experiment, pretrained
from sb3_ldm.zoo.trained import find_trained, normalized


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log folder of an agent on normalised observations, whose environment has options."""
    folder = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train"])
        patch.setattr(experiment, "FINAL_REPEATS", 1)
        options = ["--eval-freq", "-1", "--env-kwargs", "validation_tasks:6", "horizon:5"]
        train([*small_run(folder, "rl2", 40), *options, "-params", "n_envs:2", "batch_size:20", "normalize:True"])
    return folder


@pytest.fixture
def own_envs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two environments of other families than the package's, one with actions of each kind."""
    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    for make in (Drift, Bandit):
        gym.register(
            f"Own{make.__name__}-v0",
            entry_point=lambda make=make, task_split="train": MetaEpisodeWrapper(make(), 2, 4),  # type: ignore[arg-type]
            order_enforce=False,
            disable_env_checker=True,
        )


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    """What is told as JSON, alone on the standard output."""
    capsys.readouterr()
    evaluate([*words, "--json", "-"])
    return json.loads(capsys.readouterr().out)


def test_the_numbers_are_those_of_the_meta_evaluation(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "result.json"
    words = ["--algo", "rl2", "-f", str(logs), "--repeats", "3", "--n-envs", "7", "--seed", "5", "--json", str(file)]
    evaluate(words)
    table = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert list(found["splits"]) == ["train", "test", "validation"]  # eval is test, all is their union
    assert (found["algo"], found["env"], found["seed"], found["actions"]) == ("rl2", "GridNavi-v0", 5, "sampled")
    agent = find_trained("rl2", "GridNavi-v0", str(logs))
    env = normalized(make_meta_vec_env("GridNavi-v0", 7, env_kwargs={"horizon": 5, "validation_tasks": 6}), agent)
    model = RL2.load(agent.model)
    for split, n_tasks in (("train", 12), ("test", 27), ("validation", 6)):
        expected = evaluate_meta(model, env, split, n_repeats=3, seed=5)
        one = found["splits"][split]
        assert one["n_tasks"] == n_tasks == len(one["tasks"])
        np.testing.assert_allclose(one["mean_returns"], expected.mean_returns)
        by_task = expected.returns.reshape(n_tasks, 3, -1).mean(axis=1)  # repetitions of a task follow each other
        np.testing.assert_allclose(one["sd_returns"], by_task.std(axis=0))
        assert expected.successes is not None
        np.testing.assert_allclose(one["n_reached"], expected.successes.reshape(n_tasks, 3, -1).mean(axis=1).sum(axis=0))
        for task, returns in zip(one["tasks"], one["returns"], strict=True):
            rows = (expected.tasks == task).all(axis=1)
            np.testing.assert_allclose(returns, expected.returns[rows].mean(axis=0))
        shown = [f"{expected.mean_returns[0]:.2f}", f"{by_task.std(axis=0)[0]:.2f}", f"{one['n_reached'][0]:.1f} of {n_tasks}"]
        assert re.search(rf"{split} +\W +{n_tasks} +\W +1 \W.*{'.*'.join(map(re.escape, shown))}", table)


def test_an_agent_is_found_by_its_folder_and_by_its_file(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = logs / "rl2" / "GridNavi-v0_1"
    found = [
        told([*words, "--split", "test", "--deterministic"], capsys) for words in ([str(run)], [str(run / "GridNavi-v0.zip")])
    ]
    by_name = told(["--algo", "rl2", "-f", str(logs), "--split", "test", "--deterministic"], capsys)
    assert found[0] == found[1] == by_name and by_name["actions"] == "most likely"
    other = told([str(run), "--split", "test", "--deterministic", "--env-kwargs", "horizon:7"], capsys)
    assert other["env_kwargs"]["horizon"] == 7 and other["splits"] != by_name["splits"]


@pytest.mark.parametrize(("name", "cls"), [("sac", SAC), ("dqn", DQN)])
@pytest.mark.usefixtures("own_envs")
def test_any_algorithm_gets_the_same_numbers_from_the_same_seed(
    name: str, cls: type[SAC] | type[DQN], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that explores by NumPy's random numbers, and whichever splits are asked for."""
    env_id = {"sac": "OwnDrift-v0", "dqn": "OwnBandit-v0"}[name]
    model = cls("MlpPolicy", make_meta_vec_env(env_id, 1), buffer_size=10, device="cpu")
    model.exploration_rate = 1.0  # type: ignore[union-attr]
    model.save(tmp_path / "agent.zip")
    words = [str(tmp_path / "agent.zip"), "--algo", name, "--env", env_id, "--n-envs", "2"]
    first = told(words, capsys)
    assert list(first["splits"]) == ["train", "test"] and told(words, capsys) == first
    assert told([*words, "--split", "test"], capsys)["splits"]["test"] == first["splits"]["test"]
    assert told([*words, "--seed", "1"], capsys)["splits"] != first["splits"]
    assert (first["splits"]["test"]["n_reached"] is None) == (name == "sac")


def test_an_agent_without_a_run_takes_its_statistics_from_a_file(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = logs / "rl2" / "GridNavi-v0_1"
    shutil.copyfile(run / "GridNavi-v0.zip", tmp_path / "a.zip")
    shutil.copyfile(run / "GridNavi-v0" / "vecnormalize.pkl", tmp_path / "a.pkl")
    words = [str(tmp_path / "a.zip"), "--algo", "rl2", "--env", "GridNavi-v0", "--env-kwargs", "horizon:5", "--split", "test"]
    with pytest.raises(ValueError, match="VecNormalize"):
        evaluate(words)
    found = told([*words, "--statistics", str(tmp_path / "a.pkl")], capsys)
    assert found["splits"] == told([str(run), "--split", "test"], capsys)["splits"]
    cut = tmp_path / "GridNavi-v0_1"  # also where a run has lost its own
    shutil.copytree(run, cut)
    (cut / "GridNavi-v0" / "vecnormalize.pkl").unlink()
    with pytest.raises(ValueError, match=r"vecnormalize\.pkl is missing"):
        evaluate([str(cut)])
    assert told([str(cut), "--split", "test", "--statistics", str(tmp_path / "a.pkl")], capsys)["splits"] == found["splits"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "tests"], r"split='tests'.*train, test"),
        (["--repeats", "0"], "repeats=0: use a whole number of at least 1"),
        (["--n-envs", "0"], "n_envs=0"),
        (["--seed", "-1"], "seed=-1"),
        (["--determinstic"], "did you mean --deterministic"),
        (["--load-checkpoint", "7"], "--load-checkpoint has no use"),
        (["--env-kwargs", "horizn:5"], r"horizn=5 is not understood: did you mean horizon\?"),
        (["--pretrained", "--exp-id", "1"], "--pretrained has no use for --folder, --exp-id"),
        (["--statistics", "none.pkl"], "statistics='none.pkl': there is no such file"),
        (["none.zip"], "none.zip has no use for --folder"),
    ],
)
def test_options_that_cannot_work_are_refused_by_name(logs: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(["--algo", "rl2", "-f", str(logs), *words])


def test_an_agent_that_cannot_be_evaluated_is_named(logs: Path, tmp_path: Path) -> None:
    run = logs / "rl2" / "GridNavi-v0_1"
    with pytest.raises(ValueError, match=r"agent='nowhere': there is no such file or folder"):
        evaluate(["nowhere"])
    shutil.copyfile(run / "GridNavi-v0.zip", tmp_path / "a.zip")
    with pytest.raises(ValueError, match=r"run\.json is missing.*give --algo and --env, too"):
        evaluate([str(tmp_path / "a.zip")])
    with pytest.raises(ValueError, match="holds a model of RL2: load it with RL2, not with LDM"):
        evaluate([str(run), "--algo", "ldm"])
    with pytest.raises(ValueError, match="has no use for --load-best"):
        evaluate([str(run / "GridNavi-v0.zip"), "--load-best"])


def test_the_agent_that_comes_with_the_package_is_evaluated(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    agent = find_trained("rl2", "GridNavi-v0", str(logs))
    pretrained.save_pretrained(agent, {"algo": "rl2", "env": "GridNavi-v0"})
    found = told(["--pretrained", "--algo", "rl2", "--split", "test"], capsys)
    assert Path(found["agent"]).parent == tmp_path and found["env_kwargs"]["horizon"] == 5
    assert found["splits"] == told(["--algo", "rl2", "-f", str(logs), "--split", "test"], capsys)["splits"]
    with pytest.raises(ValueError, match=r"algo='ldm'.*the package has no such agent; there are: rl2 on GridNavi-v0"):
        evaluate(["--pretrained"])


def test_an_agent_is_tried_on_another_family(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The options of the run's own environment are not the other's; the statistics are the agent's."""
    run = logs / "rl2" / "GridNavi-v0_1"
    found = told([str(run), "--env", "GridNaviExtrapolation-v0", "--split", "test2", "--deterministic"], capsys)
    env = normalized(make_meta_vec_env("GridNaviExtrapolation-v0", 16), find_trained("rl2", "GridNavi-v0", str(logs)))
    expected = evaluate_meta(RL2.load(run / "GridNavi-v0.zip"), env, "test2", deterministic=True)
    assert found["env_kwargs"] == {}
    np.testing.assert_allclose(found["splits"]["test2"]["mean_returns"], expected.mean_returns)


def test_what_the_run_s_environment_is_registered_by_is_imported(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "GridNavi-v0_1"
    shutil.copytree(logs / "rl2" / "GridNavi-v0_1", run)
    metadata = json.loads((run / "run.json").read_text())
    metadata["options"]["gym_packages"] = ["registers_own"]
    (run / "run.json").write_text(json.dumps(metadata))
    (tmp_path / "registers_own.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    told([str(run), "--split", "test"], capsys)
    assert sys.modules.pop("registers_own")
