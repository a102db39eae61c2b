"""Agents are what they predict, and algorithms are known by name: none is named outside of its folder and the registry."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import optuna
import pytest
from helpers import Drift, grid_vec_env, warns_here
from rl_zoo3.utils import ALGOS
from stable_baselines3 import PPO, SAC

import sb3_ldm
from sb3_ldm import registry
from sb3_ldm.enjoy import main as enjoy
from sb3_ldm.envs.meta_episode import MetaEpisodeWrapper
from sb3_ldm.evaluation import MetaLearner, evaluate_meta, record_meta
from sb3_ldm.evaluation.callbacks import MetaEvalCallback
from sb3_ldm.figures.__main__ import main as figures
from sb3_ldm.registry import AlgorithmSpec, Look, algorithms, colours, display_name, get_algorithm, register_algorithm
from sb3_ldm.results import load_run
from sb3_ldm.results.evaluation_table import load_evaluations
from sb3_ldm.train import main as train
from sb3_ldm.zoo import experiment
from sb3_ldm.zoo.recordings import save_paths, save_trajectories
from sb3_ldm.zoo.search_space import check_names, suggest
from sb3_ldm.zoo.trained import play

PACKAGE = Path(sb3_ldm.__file__).parent
N_EPISODES, HORIZON = 2, 5


@pytest.fixture
def drift(monkeypatch):
    """A registered environment with continuous actions."""
    monkeypatch.setattr(experiment, "FINAL_REPEATS", 1)

    def make(task_split="train"):
        env = Drift(end_probability=0.0)
        env.set_tasks(env.task_distribution, task_split)
        return MetaEpisodeWrapper(env, N_EPISODES, max_episode_steps=HORIZON)

    gym.register("Drift-v0", entry_point=make, order_enforce=False, disable_env_checker=True)
    yield "Drift-v0"
    gym.registry.pop("Drift-v0")


@pytest.fixture
def no_others(monkeypatch):
    """What a test registers is forgotten."""
    monkeypatch.setattr(registry, "_added", {})
    before = set(ALGOS)
    registry._of_other_distributions.cache_clear()
    yield
    registry._of_other_distributions.cache_clear()
    for name in set(ALGOS) - before:
        del ALGOS[name]


# Stable-Baselines3's own algorithms


def test_sac_is_trained_continued_watched_and_drawn(drift, tmp_path, capsys):
    options = ["--algo", "sac", "--env", drift, "--seed", "0", "-f", str(tmp_path), "--verbose", "0", "--save-freq", "60"]
    options += ["--eval-freq", "60", "--save-replay-buffer"]
    small = ["-params", "learning_starts:20", "batch_size:8", "policy_kwargs:dict(net_arch=[8])", "ent_coef:'auto_0.1'"]
    train([*options, "-n", "120", *small, "n_envs:2"])
    run = tmp_path / "sac" / f"{drift}_1"
    result = load_run(run)
    assert result.evaluations is not None and result.last_evaluation is not None
    assert result.evaluations.splits == ("train", "test") and result.episodes_per_task == N_EPISODES
    assert {"replay_buffer.pkl", "best_model.zip", f"{drift}.zip"} <= {path.name for path in run.iterdir()}
    model = SAC.load(run / f"{drift}.zip", device="cpu")
    # Trained indeed: once a step and worker, as SB3 does, from the 20th on.
    assert model.num_timesteps == 120 and model._n_updates > 0
    train(["-i", str(run / f"{drift}.zip"), "-n", "160", "-f", str(tmp_path), "--verbose", "0", "--eval-freq", "-1"])
    continued = SAC.load(run / f"{drift}.zip", device="cpu")
    assert continued.num_timesteps == 160 and continued._n_updates > model._n_updates
    continued.load_replay_buffer(run / "replay_buffer.pkl")
    assert continued.replay_buffer is not None and continued.replay_buffer.size() * 2 == 160
    capsys.readouterr()
    enjoy(["--algo", "sac", "--env", drift, "-f", str(tmp_path), "-n", str(2 * N_EPISODES * HORIZON), "--no-render"])
    assert "2 Episodes" in capsys.readouterr().out
    figures([str(run), "--out", str(tmp_path / "figures")])
    assert (tmp_path / "figures" / "learning_curves.png").is_file()
    assert "| SAC | 1 | 160 |" in (tmp_path / "figures" / "summary.md").read_text()


def test_a_checkpoint_of_sac_has_its_replay_buffer(drift, tmp_path, monkeypatch):
    """An interrupted run goes on with all that it has seen."""
    learned = SAC.train

    def interrupt(self, *args, **kwargs):
        learned(self, *args, **kwargs)
        if self.num_timesteps >= 60:
            raise RuntimeError("the machine is gone")

    monkeypatch.setattr(SAC, "train", interrupt)
    options = ["--algo", "sac", "--env", drift, "--seed", "0", "-f", str(tmp_path), "--verbose", "0", "--eval-freq", "-1"]
    small = ["-params", "learning_starts:20", "batch_size:8", "policy_kwargs:dict(net_arch=[8])"]
    with pytest.raises(RuntimeError, match="the machine is gone"):
        train([*options, "-n", "100", *small])
    run = tmp_path / "sac" / f"{drift}_1"
    assert (run / "checkpoint_replay_buffer.pkl").is_file()
    monkeypatch.setattr(SAC, "train", learned)
    sizes, load = [], SAC.load_replay_buffer

    def load_and_look(self, *args, **kwargs):
        load(self, *args, **kwargs)
        sizes.append(self.replay_buffer.size())

    monkeypatch.setattr(SAC, "load_replay_buffer", load_and_look)
    train(["-i", str(run / "checkpoint.zip"), "-f", str(tmp_path), "--verbose", "0"])
    assert sizes == [60] and load_run(run).metadata["finished"] and not (run / "checkpoint_replay_buffer.pkl").exists()


def test_hyperparameters_of_others_are_checked_too(drift, tmp_path):
    options = ["--algo", "sac", "--env", drift, "-f", str(tmp_path), "-n", "20"]
    for given, told in (
        ("mixture_ratio:0.5", "hyperparameters of sac: mixture_ratio=0.5 is an option of ldm"),
        ("learning_rate:'cos_1'", "learning_rate='cos_1': use a number"),
        ("batch_sise:8", "batch_size"),
    ):
        with pytest.raises(ValueError, match=told):
            train([*options, "-params", given])
    with pytest.raises(ValueError, match=r"algo='ldn' is not known: there are rl2, ldm"):
        train(["--algo", "ldn", "--env", drift, "-f", str(tmp_path)])
    with pytest.raises(ValueError, match=r"algo='sac' has no search space"):
        check_names("sac", None)


# An agent that is no more than its predict


class Counting:
    """Moves by how often it has been asked in this meta-episode, which is all that it knows."""

    def __init__(self, actions):
        self.actions = np.asarray(actions)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        count = np.zeros(len(observation), dtype=int) if state is None else state
        count = np.where(episode_start, 0, count)
        return self.actions[count % len(self.actions)], count + 1


def test_everything_runs_what_only_predicts(tmp_path):
    # Up, up, right, then stay, in each meta-episode anew; the second episode stays where episodes begin.
    agent, env = Counting([1, 1, 2, *5 * [0]]), grid_vec_env(3, episodes=2, horizon=4)
    assert isinstance(agent, MetaLearner)
    tasks = np.array([[1, 2], [0, 2], [0, 4], [1, 2]])
    found = evaluate_meta(agent, env, tasks=tasks)
    np.testing.assert_allclose(found.returns, [[2 - 0.2, -0.4], [1 - 0.3, -0.4], [-0.4, -0.4], [2 - 0.2, -0.4]], atol=1e-6)
    batch = record_meta(agent, env, tasks[:3])
    assert batch.actions.shape[:2] == (8, 3)
    callback = MetaEvalCallback(env, log_path=tmp_path, splits=("test",))
    callback.init_callback(agent)
    callback.evaluate()
    assert load_evaluations(tmp_path / "evaluations.csv").splits == ("test",) and callback.best_mean_return > -2
    with pytest.raises(ValueError, match="best_model_save_path"):
        MetaEvalCallback(env, best_model_save_path=tmp_path).init_callback(agent)
    save_trajectories(agent, env, tmp_path / "trajectories.npz")
    with np.load(tmp_path / "trajectories.npz") as recorded:
        np.testing.assert_array_equal(recorded["positions"][0, 0], [[0, 0], [0, 1], [0, 2], [1, 2], [1, 2]])
        assert "beliefs" not in recorded
    played = list(play(agent, env, range(8), deterministic=True, render=False))
    assert [one.length for one in played] == [8] * 3


def test_paths_of_what_only_predicts_are_recorded(tmp_path):
    pytest.importorskip("mujoco")
    env = sb3_ldm.make_meta_vec_env("HalfCheetahVelocity-v0", 2, env_kwargs={"episodes_per_task": 1, "horizon": 3})
    save_paths(Counting(np.zeros((1, 6))), env, tmp_path / "paths.npz", split="eval")
    with np.load(tmp_path / "paths.npz") as recorded:
        assert recorded["paths"].shape[1:3] == (1, 3) and np.isfinite(recorded["paths"]).all()


# Algorithms from outside of the package


TOY = '''
from pathlib import Path
from stable_baselines3 import PPO
from sb3_ldm import AlgorithmSpec

class Toy(PPO):
    """PPO."""

def remember(model, env, folder, split, seed):
    (folder / "toy.txt").write_text(f"{type(model).__name__} {env.num_envs > 0} {split} {seed}")

SPEC = AlgorithmSpec(
    "toy",
    "toy_meta:Toy",
    "Toy!",
    "#123456",
    preset=Path(__file__).with_name("toy.yml"),
    search_space={"gamma": lambda trial: trial.suggest_float("gamma", 0.5, 0.9)},
    tuned=("gamma",),
    records=(remember,),
)
'''
PRESET = "default: {policy: MlpPolicy, n_timesteps: 40, n_envs: 2, n_steps: 10, batch_size: 10, n_epochs: 1}\n"


@pytest.fixture
def toy_folder(tmp_path, monkeypatch):
    (tmp_path / "toy_meta").mkdir()
    (tmp_path / "toy_meta" / "__init__.py").write_text(TOY)
    (tmp_path / "toy_meta" / "toy.yml").write_text(PRESET)
    (tmp_path / "toy_meta" / "register.py").write_text("import sb3_ldm, toy_meta\nsb3_ldm.register_algorithm(toy_meta.SPEC)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "toy_meta"]:
        del sys.modules[name]


def try_out(folder: Path, env: str, *more: str) -> None:
    """Train the toy, search, watch and draw it."""
    train(["--algo", "toy", "--env", env, "--seed", "0", "-f", str(folder), "--eval-freq", "20", "--verbose", "0", *more])
    run = folder / "toy" / f"{env}_1"
    assert (run / "toy.txt").read_text() == "Toy True test 0"
    metadata = load_run(run).metadata
    assert metadata["finished"] and metadata["config"] == "toy" and metadata["hyperparameters"]["n_steps"] == 10
    assert check_names("toy", None) == ("gamma",)
    assert 0.5 <= suggest(optuna.create_study().ask(), "toy", ["gamma"])["gamma"] <= 0.9
    enjoy(["--algo", "toy", "--env", env, "-f", str(folder), "-n", "20", "--no-render", *more])
    figures([str(run), "--out", str(folder / "figures")])
    assert "| Toy! | 1 | 40 |" in (folder / "figures" / "summary.md").read_text()
    assert colours()["toy"] == "#123456"


def test_an_algorithm_is_registered_by_a_module(drift, no_others, toy_folder):
    with pytest.raises(ValueError, match="algo='toy' is not known"):
        get_algorithm("toy")
    try_out(toy_folder, drift, "--gym-packages", "toy_meta.register")


def test_an_algorithm_comes_with_a_distribution(drift, no_others, toy_folder):
    for name, value in {"toy-meta": "toy_meta:SPEC", "broken": "toy_meta:MISSING"}.items():
        folder = toy_folder / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\n{name} = {value}\n")
    with warns_here(r"broken = toy_meta:MISSING cannot be loaded", __file__):
        assert "toy" in algorithms()
    try_out(toy_folder, drift)


def test_the_page_for_newcomers_works_as_printed(no_others, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "FINAL_REPEATS", 1)
    page = (PACKAGE.parent / "docs" / "adding_an_algorithm.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```\w+\n# my_meta/(\S+?):?(?: [^\n]*)?\n(.*?)```", page, re.DOTALL))
    assert set(blocks) == {"__init__.py", "mine.yml"}
    (tmp_path / "my_meta").mkdir()
    for name, text in blocks.items():
        (tmp_path / "my_meta" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--algo", "mine", "--env", "GridNavi-v0", "--gym-packages", "my_meta", "--env-kwargs", "horizon:5"]
    small = ["-params", "n_envs:2", "n_steps:20", "batch_size:20", "n_epochs:1"]
    try:
        train([*options, "-n", "40", "-f", str(tmp_path), "--eval-freq", "-1", "--verbose", "0", *small])
    finally:
        sys.modules.pop("my_meta", None)
    assert load_run(tmp_path / "mine" / "GridNavi-v0_1").metadata["finished"] and display_name("mine") == "Mine"
    assert check_names("mine", None) == ("gamma",)


def test_names_are_not_taken_twice(no_others):
    spec = AlgorithmSpec("mine", PPO, "Mine", looks={"mine-fast": Look("Mine, fast", "#000000")})
    register_algorithm(spec)
    register_algorithm(spec)
    assert display_name("mine-fast, beta=1") == "Mine, fast, beta=1" and colours()["mine-fast"] == "#000000"
    assert "mine" not in colours() and get_algorithm("mine").load() is PPO
    for name in ("mine", "ldm", "sac"):
        with pytest.raises(ValueError, match=f"name='{name}': there is another algorithm"):
            register_algorithm(AlgorithmSpec(name, SAC, "Other"))
    with pytest.raises(ValueError, match="name='a/b'"):
        AlgorithmSpec("a/b", SAC, "Other")
    with pytest.raises(ValueError, match="mine: tuned=gama is not in its search_space"):
        AlgorithmSpec("mine", SAC, "Mine", search_space={"gamma": lambda trial: 0.9}, tuned=("gama",))
    with pytest.raises(ImportError, match="No module named 'toy_meta'"):
        AlgorithmSpec("mine", "toy_meta:Toy", "Mine").load()


def test_no_algorithm_is_named_outside_of_its_folder_and_the_registry():
    """So a new one touches nothing else. Quick start and demo are of two of them, and what has moved has its former names."""
    names, wrong = set(registry.meta_learners()), []
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE)
        if place.parts[0] in ("algorithms", "registry.py", "moved.py", "quickstart.py", "demo.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in names:
                wrong.append(f"{place}:{node.lineno} names {node.value}")
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sb3_ldm.algorithms"):
                if place.parts != ("__init__.py",):
                    wrong.append(f"{place}:{node.lineno} imports {node.module}")
    assert names >= {"rl2", "ldm", "varibad", "mixreg"} and not wrong


def test_names_need_no_torch():
    code = "import sys; from sb3_ldm.registry import *; display_name('ldm'); colours(); get_algorithm('sac'); "
    assert subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"]).returncode == 0
