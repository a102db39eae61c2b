"""Agents that come with the package."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import VecNormalize

import sb3_ldm
from benchmarks.pretrained import main as put_into_package
from sb3_ldm import load_pretrained
from sb3_ldm.enjoy import main as enjoy
from sb3_ldm.envs import make_meta_vec_env
from sb3_ldm.evaluation import evaluate_meta
from sb3_ldm.results import RUN_FILE
from sb3_ldm.results.evaluation_table import MetaEvaluation, append_evaluation
from sb3_ldm.train import main as train
from sb3_ldm.zoo import experiment, pretrained
from sb3_ldm.zoo.pretrained import about_pretrained, available_pretrained, find_pretrained

ENV = "GridNavi-v0"
EPISODES = 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of agents that were trained for one rollout: LDM, and RL2 on normalised observations."""
    folder = tmp_path_factory.mktemp("logs")
    small = ["n_envs:4", "batch_size:480"]
    own = {"ldm": ["mixture_ratio:0.25", "imagination_starts:0"], "rl2": ["normalize:True"]}
    options = ["--seed", "0", "--eval-freq", "-1", "--verbose", "0", "-n", "1", "-f", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train"])
        patch.setattr(experiment, "FINAL_REPEATS", 1)
        for algo, params in own.items():
            train(["--algo", algo, *options, "-params", *small, *params])
    return {algo: folder / algo / f"{ENV}_1" for algo in own}


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The package's folder of agents, with none yet."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "pretrained")
    return tmp_path / "pretrained"


@pytest.mark.parametrize("algo", ["ldm", "rl2"])
def test_an_agent_acts_and_believes_as_in_its_run(runs, package, capsys, algo):
    put_into_package([str(runs[algo])])
    assert f"seed 0, the median one, to {package / f'{algo}-{ENV}.zip'}" in capsys.readouterr().out
    env = make_meta_vec_env(ENV, n_envs=8, seed=3)
    model = load_pretrained(algo, ENV, env, device="cpu")
    assert type(model) is getattr(sb3_ldm, algo.upper()) and model.num_timesteps == 480
    assert isinstance(model.get_env(), VecNormalize) == (algo == "rl2")
    original = type(model).load(runs[algo] / f"{ENV}.zip", device="cpu")
    statistics = find_pretrained(algo, ENV).statistics
    wrapped = env if statistics is None else VecNormalize.load(str(statistics), env)
    expected, found = (evaluate_meta(one, where, seed=3) for one, where in ((original, wrapped), (model, model.get_env())))
    np.testing.assert_array_equal(found.returns, expected.returns)
    if algo == "ldm":
        assert all(map(th.equal, model.vae.state_dict().values(), original.vae.state_dict().values()))


def test_an_agent_has_weights_alone_and_can_train_on(runs, package):
    put_into_package([str(runs["ldm"])])
    with zipfile.ZipFile(package / f"ldm-{ENV}.zip") as archive:
        assert "training_state.npz" not in archive.namelist()
    assert 2.5 * (package / f"ldm-{ENV}.zip").stat().st_size < (runs["ldm"] / f"{ENV}.zip").stat().st_size
    model = load_pretrained("ldm", ENV, make_meta_vec_env(ENV, n_envs=4, seed=0), device="cpu")
    assert not model.policy.optimizer.state and model._last_obs is None and not model.ep_info_buffer
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(960)
    assert not all(map(th.equal, before, model.policy.parameters()))


def test_the_run_is_told(runs, package):
    put_into_package([str(runs["ldm"])])
    about, run = about_pretrained("ldm", ENV), json.loads((runs["ldm"] / RUN_FILE).read_text())
    for name in ("algo", "env", "env_kwargs", "seed", "version", "commit", "hyperparameters"):
        assert about[name] == run[name]
    assert about["timesteps"] == run["frames"] == 480
    model = load_pretrained("ldm", ENV, device="cpu")
    env = make_meta_vec_env(ENV, 16)
    for split, n_tasks in (("train", 18), ("test", 27)):
        result = about["results"][split]["most likely actions"]
        expected = evaluate_meta(model, env, split, deterministic=True)
        np.testing.assert_allclose(result["returns"], expected.mean_returns, atol=0.006)
        assert result["reached"] == expected.n_reached and result["tasks"] == n_tasks


def fake_run(folder: Path, run: Path, number: int, unseen_return: float, **changes) -> str:
    """A run like another one, of another seed that returned something else."""
    target = folder / f"seed{number}" / run.parent.name / run.name
    target.mkdir(parents=True)
    (target / f"{ENV}.zip").write_bytes((run / f"{ENV}.zip").read_bytes())
    (target / RUN_FILE).write_text(json.dumps(json.loads((run / RUN_FILE).read_text()) | {"seed": number} | changes))
    for split, level in (("train", 20.0), ("test", unseen_return)):
        returns = np.full((1, EPISODES), -3.0)
        returns[:, -1] = level
        evaluation = MetaEvaluation(np.array([[2, 2]]), returns, np.full((1, EPISODES), 30), np.ones((1, EPISODES), bool))
        append_evaluation(target / "final_evaluation.csv", 480, split, False, evaluation)
    return str(target)


@pytest.mark.parametrize(("returns", "chosen"), [((9.0, 1.0, 5.0), 2), ((9.0, 1.0), 1), ((4.0, 9.0, 1.0, 5.0), 0)])
def test_the_median_seed_is_taken(runs, package, tmp_path, returns, chosen):
    put_into_package([fake_run(tmp_path, runs["ldm"], seed, value) for seed, value in enumerate(returns)])
    about = about_pretrained("ldm", ENV)
    assert about["seed"] == chosen
    assert about["chosen_from"]["seeds"] == {str(seed): value for seed, value in enumerate(returns)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finished": False}, "seed1/ldm/GridNavi-v0_1 has not come to its end"),
        ({"frames": 960}, "seed1/ldm/GridNavi-v0_1 has another frames than .*seed0"),
        ({"seed": 0}, r"the seeds \[0, 0\]: give each seed once"),
    ],
)
def test_runs_that_are_no_seeds_of_one_experiment_are_refused(runs, package, tmp_path, changes, message):
    folders = [fake_run(tmp_path, runs["ldm"], 0, 1.0), fake_run(tmp_path, runs["ldm"], 1, 2.0, **changes)]
    with pytest.raises(ValueError, match=message):
        put_into_package(folders)
    assert not package.exists()


def test_an_unknown_pair_is_refused_with_what_there_is(runs, package):
    with pytest.raises(ValueError, match=r"algo='ldm', env_id='GridNavi-v0': the package has no such agent.*: none"):
        load_pretrained("ldm", ENV)
    for algo in runs:
        put_into_package([str(runs[algo])])
    assert available_pretrained() == [("ldm", ENV), ("rl2", ENV)]
    with pytest.raises(ValueError, match=r"algo='mixreg', env_id='AntGoal-v0': .*: ldm on GridNavi-v0, rl2 on GridNavi-v0"):
        load_pretrained("mixreg", "AntGoal-v0")


def test_enjoy_shows_it(runs, package, capsys):
    put_into_package([str(runs["rl2"])])
    words = ["--algo", "rl2", "--pretrained", "-n", "120", "--no-render"]
    enjoy(words)
    told = capsys.readouterr().out
    assert f"Loading {package / f'rl2-{ENV}.zip'}" in told and "1 Episodes" in told
    with pytest.raises(ValueError, match="--pretrained has no use for --exp-id, --load-best"):
        enjoy([*words, "--exp-id", "3", "--load-best"])
    with pytest.raises(ValueError, match="there are: rl2 on GridNavi-v0"):
        enjoy(["--algo", "ldm", *words[2:]])


@pytest.mark.parametrize("algo, env_id", available_pretrained())
def test_agents_do_what_is_told_of_them(algo, env_id):
    """On another processor the most likely action may be another one here and there; another agent is further off."""
    about = about_pretrained(algo, env_id)
    if not env_id.startswith("GridNavi"):
        pytest.skip("physics takes its time")
    result = evaluate_meta(load_pretrained(algo, env_id, device="cpu"), env_id, "test", deterministic=True)
    told = about["results"]["test"]["most likely actions"]
    assert abs(result.n_reached - told["reached"]) <= 3 and abs(result.mean_returns[-1] - told["returns"][-1]) < 3.0
