"""Options of the command line: what is understood, and what is refused by name before any work."""

import sys
from pathlib import Path

import gymnasium as gym
import pytest
import yaml
from helpers import Bandit
from torch import nn

from sb3_ldm import make_meta_vec_env
from sb3_ldm.enjoy import main as enjoy
from sb3_ldm.envs import backend_of, register_batched_backend
from sb3_ldm.envs.meta_episode import MetaEpisodeWrapper
from sb3_ldm.figures.__main__ import main as figures
from sb3_ldm.results import load_run
from sb3_ldm.train import main as train
from sb3_ldm.tune import main as tune
from sb3_ldm.zoo import experiment
from sb3_ldm.zoo.options import check_hyperparameters, evaluated, packages_and_id
from sb3_ldm.zoo.registration import register

SMALL = ["--algo", "rl2", "-n", "40", "--eval-freq", "-1", "--verbose", "0", "-params", "n_envs:2", "batch_size:20"]


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(experiment, "FINAL_REPEATS", 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("0.5", 0.5), ("None", None), ("[1, 2]", [1, 2]), ("dict(a=1)", {"a": 1}), ("'text'", "text"), ("nn.Tanh", nn.Tanh)],
        *[(word, word) for word in ("all", "min", "train", "lin_1e-3", "test-2", "/a/b.xml", "per_worker", "two words")],
        ("float", float),
    ],
)
def test_words_that_are_no_expression_are_text(text: str, value: object) -> None:
    assert evaluated(text) == value


def test_an_expression_that_is_wrong_is_no_text() -> None:
    for text in ("nn.Tanhh", "[x]", "dict(net_arch=[size])"):
        with pytest.raises((AttributeError, NameError)):
            evaluated(text)


@pytest.mark.parametrize("option", ["-params", "--env-kwargs", "--eval-env-kwargs"])
@pytest.mark.parametrize(
    ("word", "right"), [("gamma=0.9", "use gamma:0.9"), ("gamma", "use name:value"), ("gamma:", "use name:value")]
)
def test_values_are_given_with_a_colon(tmp_path: Path, option: str, word: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        train(["-f", str(tmp_path), option, word])
    assert not list(tmp_path.iterdir())


def test_the_split_needs_no_quotes(tmp_path: Path) -> None:
    words = ["--env-kwargs", "horizon:5", "task_split:all", "--eval-env-kwargs", "horizon:5", "task_split:test"]
    train(["-f", str(tmp_path), *SMALL, *words])
    assert load_run(tmp_path / "rl2" / "GridNavi-v0_1").env_kwargs["task_split"] == "all"


@pytest.mark.parametrize("command", [train, tune])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-params", "mixture_ratio:0.5"], "mixture_ratio=0.5 is an option of ldm"),
        (["-params", "learing_rate:0.5"], "learing_rate=0.5 is not understood: did you mean learning_rate"),
        (["-params", "learning_rate:cos_1e-3"], "learning_rate='cos_1e-3': use a number, or lin_NUMBER"),
        (["-params", "n_envs:many"], "n_envs='many'"),
        (["-params", "seed:3"], "seed=3: give --seed instead"),
        (["-params", "policy_kwargs:dict(net_arc=[8])"], "policy_kwargs: net_arc=.*did you mean net_arch"),
        (["--env-kwargs", "horizn:5"], "horizn=5 is not understood: did you mean horizon"),
        (["--eval-env-kwargs", "horizn:5"], "horizn=5 is not understood: did you mean horizon"),
        (["--n-eval-envs", "4"], "--n-eval-envs has no use"),
        (["--truncate-last-trajectory", "True"], "--truncate-last-trajectory has no use"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--gym-package", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_meant_is_named_before_any_work(tmp_path: Path, command, words: list[str], message: str) -> None:
    with pytest.raises((ValueError, ModuleNotFoundError), match=message):
        command(["--algo", "rl2", "-f", str(tmp_path), "-n", "120", *words])
    assert not list(tmp_path.rglob("*.log")) and not list(tmp_path.rglob("*.yml"))


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (train, ["-optimize"], r"-optimize has no use: .*sb3_ldm\.tune"),
        (train, ["--n-trials", "3"], r"--n-trials has no use: .*sb3_ldm\.tune"),
        (train, ["--wandb-entity", "me"], "--wandb-entity has no use without --track"),
        (tune, ["--save-fre", "10"], "--save-freq has no use: trials are evaluated and saved --n-evaluations times"),
        (tune, ["-i", "agent.zip"], "-i has no use: trials begin anew"),
        (tune, ["--trial-id", "3"], r"--trial-id has no use: .*best\.yml"),
    ],
)
def test_options_of_another_command_are_refused(tmp_path: Path, command, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        command(["--algo", "rl2", "-f", str(tmp_path), *words])
    assert not list(tmp_path.iterdir())


def test_a_file_of_hyperparameters_is_looked_at_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump({"default": {"n_envs": 2, "n_timesteps": 10, "policy": "MlpLstmPolicy", "gama": 0.9}}))
    with pytest.raises(ValueError, match=r"gama=0\.9 is not understood: did you mean gamma"):
        train(["--algo", "rl2", "-f", str(tmp_path / "logs"), "-conf", str(path)])
    assert not (tmp_path / "logs").exists()
    register()
    with pytest.raises(ValueError, match="vae_kwargs: decoder_layer=3 is not understood: did you mean decoder_layers"):
        check_hyperparameters("ldm", {"vae_kwargs": {"decoder_layer": 3}})


def test_a_finished_run_says_what_would_continue_it(tmp_path: Path) -> None:
    train(["-f", str(tmp_path), "--env-kwargs", "horizon:5", *SMALL])
    run = tmp_path / "rl2" / "GridNavi-v0_1"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"}
    with pytest.raises(ValueError, match=r"is of a run that is finished, with 40 of 40 timesteps: .* a larger -n"):
        train(["-i", str(run / "GridNavi-v0.zip")])
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"} == before
    train(["-i", str(run / "GridNavi-v0.zip"), "-n", "80"])
    assert load_run(run).timesteps == 80


def test_what_tensorboard_needs_is_looked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"sb3_ldm\[tensorboard\]"):
        train(["-f", str(tmp_path), *SMALL[:-3], "-tb", str(tmp_path / "tb")])
    assert not list(tmp_path.iterdir())


#: A module that registers an environment with a namespace, as a user's package does.
MODULE = """
import gymnasium as gym, numpy as np
from sb3_ldm.envs.meta_episode import MetaEpisodeWrapper
from sb3_ldm.envs import FiniteTaskDistribution, TaskEnvMixin
class Reach(TaskEnvMixin, gym.Env):
    observation_space = gym.spaces.Box(-2.0, 2.0, (1,)); action_space = gym.spaces.Box(-1.0, 1.0, (1,))
    def __init__(self, task_split="train", validation_tasks=0):
        tasks = {"train": np.array([[-1.0], [-0.8], [0.8], [1.0]]), "test": np.array([[0.0]])}
        self.set_tasks(FiniteTaskDistribution(tasks).hold_out(validation_tasks), task_split)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {"task": self.select_task(options)}
    def step(self, action):
        return np.zeros(1, np.float32), -1.0, False, False, {}
def make(**kwargs):
    return MetaEpisodeWrapper(Reach(**kwargs), 2, max_episode_steps=5)
gym.register("mine/Reach-v0", entry_point=make, order_enforce=False, disable_env_checker=True)
"""


def test_ids_with_a_namespace_or_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "my_reach.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    logs, env_id = str(tmp_path / "logs"), "my_reach:mine/Reach-v0"
    params = ["-params", "n_envs:2", "normalize:True"]
    try:
        train(["--algo", "rl2", "--env", env_id, "-f", logs, "-n", "20", "--eval-freq", "20", "--verbose", "0", *params])
        run = tmp_path / "logs" / "rl2" / "mine-Reach-v0_1"
        assert load_run(run).env == "mine/Reach-v0"
        train(["-i", str(run / "mine-Reach-v0.zip"), "-n", "40"])  # with its module
        for more in ([], ["--load-best"], ["--load-last-checkpoint"]):
            capsys.readouterr()
            enjoy(["--algo", "rl2", "--env", env_id, "-f", logs, "-n", "10", "--no-render", *more])
            assert "Mean reward: -10.00" in capsys.readouterr().out
        figures([str(run), "--out", str(tmp_path / "figures")])
        assert (tmp_path / "figures" / "summary.md").is_file()
        tune(["--algo", "rl2", "--env", env_id, "-f", logs, "-n", "20", "--n-trials", "1", "--tune", "gamma", *params])
        study = tmp_path / "logs" / "rl2" / "tune" / "rl2_mine-Reach-v0"
        assert list(yaml.safe_load((study / "best.yml").read_text())) == ["mine/Reach-v0"]
        assert backend_of(make_meta_vec_env(env_id, 1)) == "dummy"
    finally:
        gym.registry.pop("mine/Reach-v0", None)
        sys.modules.pop("my_reach", None)
    assert packages_and_id(["a"], "a:ns/Env-v0") == (["a"], "ns/Env-v0") and packages_and_id([], "Env-v0") == ([], "Env-v0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_envs": 0}, "n_envs=0"),
        ({"seed": "0"}, "seed='0': use a whole number"),
        ({"seed": -1}, "seed=-1"),
        ({"start_index": 0.5}, "start_index=0.5"),
        ({"backend": "bathced"}, "backend='bathced' does not exist.*batched"),
        ({"env_kwargs": {"task_splt": "all"}}, "task_splt='all' is not understood: did you mean task_split"),
        ({"env_kwargs": ["horizon"]}, r"env_kwargs of GridNavi-v0=\['horizon'\]: use a mapping"),
        ({"env_id": "GridNav-v0"}, "env_id='GridNav-v0' is not registered: did you mean GridNavi-v0"),
        ({"env_id": "nowhere:Env-v0"}, "env_id='nowhere:Env-v0' is not registered"),
        ({"env_id": None}, "env_id=None: give the registered id"),
        (
            {"env_id": "HalfCheetahVelocity-v0", "env_kwargs": {"horizn": 5}},
            "horizn=5 is not understood: did you mean horizon",
        ),
    ],
)
def test_what_environments_cannot_be_made_of(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_meta_vec_env(**{"env_id": "GridNavi-v0", **options})


def test_a_batched_backend_stands_for_the_environment_that_it_was_offered_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for another one that takes over its id."""
    register()
    with pytest.raises(ValueError, match="constructor=3"):
        register_batched_backend("GridNavi-v0", 3)  # type: ignore[arg-type]
    other = gym.envs.registration.EnvSpec(
        "GridNavi-v0", lambda **kwargs: MetaEpisodeWrapper(Bandit(), 2, 4), disable_env_checker=True, order_enforce=False
    )
    monkeypatch.setitem(gym.registry, "GridNavi-v0", other)
    env = make_meta_vec_env("GridNavi-v0", 2)
    assert backend_of(env) == "dummy" and env.action_space == gym.spaces.Discrete(3)
    with pytest.raises(ValueError, match="'batched' is not offered for env_id='GridNavi-v0'"):
        make_meta_vec_env("GridNavi-v0", 2, backend="batched")


@pytest.mark.parametrize("backend", ["dummy", "batched"])
def test_what_robots_need_is_named(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    register()
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r"mujoco is needed: pip install 'sb3_ldm\[mujoco\]'"):
        make_meta_vec_env("AntGoal-v0", 2, backend=backend)
