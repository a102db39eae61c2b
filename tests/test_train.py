"""The command line: a run's files, and going on after a crash."""

import contextlib
import csv
import inspect
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from helpers import evaluated_timesteps, small_run, warns_here
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.monitor import load_results

from sb3_ldm import LDM, RL2, Mixreg, VariBAD
from sb3_ldm.algorithms.ldm.imagination import ImaginationConfig
from sb3_ldm.envs import make_meta_vec_env
from sb3_ldm.envs.locomotion import DOMAINS
from sb3_ldm.inference import RewardVAE
from sb3_ldm.on_policy import SequencePPO
from sb3_ldm.results import load_run
from sb3_ldm.train import DEFAULTS, main, options_of_run, with_defaults
from sb3_ldm.zoo import experiment, final_evaluation, register, run_folder
from sb3_ldm.zoo.configs import available_configs, config_path, read_preset, resolve_config

ROLLOUT = 8 * 120


def command(folder: Path, n_timesteps: int, *more: str) -> list[str]:
    options = ["--algo", "ldm", "--env", "GridNavi-v0", "-n", str(n_timesteps), "--seed", "3", "-f", str(folder)]
    small = ["-params", "n_envs:8", "batch_size:480", "vae_buffer_size:100"]
    return [sys.executable, "-u", "-m", "sb3_ldm.train", *options, "--eval-freq", "4000", "--save-freq", "1000", *more, *small]


def environments_in(config: Path) -> list[str]:
    return [env for env in yaml.safe_load(config.read_text()) if env != "default"]


def test_defaults_give_way_to_what_the_user_says() -> None:
    assert with_defaults(["--algo", "rl2", "--eval-freq=7"], interactive=False) == [
        *(word for name_and_value in DEFAULTS.items() for word in name_and_value),
        *("--algo", "rl2", "--eval-freq", "7"),
    ]
    assert with_defaults([], interactive=True)[-1] == "--progress"
    assert "--progress" not in with_defaults(["-P"], interactive=True)


def test_a_run_is_continued_with_its_own_options(tmp_path: Path) -> None:
    state = {"algo": "ldm", "env": "GridNavi-v0", "seed": 3, "n_timesteps": 500, "config": "ldm-paper"}
    state |= {"env_kwargs": {"task_split": "all"}, "hyperparameters": {"beta": 2.0, "policy": "MlpLstmPolicy"}}
    (tmp_path / "run.json").write_text(json.dumps(state))
    agent = ["-i", str(tmp_path / "checkpoint.zip")]
    given = [
        "--algo",
        "ldm",
        "--env",
        "GridNavi-v0",
        "--seed",
        "3",
        "--n-timesteps",
        "500",
        "--env-kwargs",
        "task_split:'all'",
    ]
    settings = ["--hyperparams", "beta:2.0", "policy:'MlpLstmPolicy'", "--conf-file", "ldm-paper"]
    assert options_of_run(agent) == [*given, *settings]
    assert options_of_run([*agent, "-n", "900", "--seed", "4", "-params", "beta:1.0"]) == [*given[:4], *given[8:]]
    as_one_word = [
        f"--trained-agent={tmp_path / 'checkpoint.zip'}",
        "--n-timesteps=900",
        "--seed=4",
        "--hyperparams",
        "beta:1.0",
    ]
    continued = with_defaults(as_one_word, interactive=False)
    assert [continued[continued.index(name) + 1] for name in ("--n-timesteps", "--seed")] == ["900", "4"]
    short = with_defaults([f"-i={tmp_path / 'checkpoint.zip'}", "-n=900"], interactive=False)
    assert short[short.index("-n") + 1] == "900" and "--n-timesteps" not in short
    assert all(continued.count(name) == 1 for name in ("--n-timesteps", "--seed", "--hyperparams"))
    (tmp_path / "hyperparameters.yml").write_text("GridNavi-v0: {beta: 2.0, policy: MlpLstmPolicy}\n")
    complete = ["--conf-file", str(tmp_path / "hyperparameters.yml")]
    assert options_of_run(agent) == [*given, *complete]
    assert options_of_run([*agent, "-params", "beta:1.0"]) == [*given, *complete]  # on top of the run's own
    assert options_of_run([*agent, "-conf", "ldm-paper"]) == given
    kept = {"eval_freq": 500, "eval_env_kwargs": {"horizon": 9}, "save_replay_buffer": True, "tensorboard_log": "tb"}
    (tmp_path / "run.json").write_text(json.dumps(state | {"options": kept | {"gym_packages": ["one", "two"]}}))
    words = ["--eval-freq", "500", "--eval-env-kwargs", "horizon:9", "--save-replay-buffer"]
    packages = ["--gym-packages", "one", "two"]
    assert options_of_run(agent) == [*given, *complete, *words, "--tensorboard-log", "tb", *packages]
    assert options_of_run([*agent, "-tb", "other", "--eval-freq", "9"]) == [*given, *complete, *words[2:], *packages]
    assert options_of_run(["--seed", "1"]) == [] == options_of_run(["-i", str(tmp_path / "other" / "agent.zip")])


def test_unknown_algorithm_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"ldm, .*, rl2"):
        config_path("pearl")


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "while_training", "final"),
    [
        ("GridNavi-v0", {}, ("train", "test"), ("train", "test")),
        ("GridNavi-v0", {"validation_tasks": 6}, ("train", "validation"), ("train", "validation")),
        ("GridNaviExtrapolation-v0", {}, ("train", "test"), ("train", "test", "test1", "test2")),
        ("GridNaviExtrapolation-v0", {"validation_tasks": 3}, ("train", "validation"), ("train", "validation")),
        ("HalfCheetahVelocity-v0", {}, ("train", "eval"), ("train", "eval", "test")),
    ],
)
def test_what_agents_are_evaluated_on(env_id, env_kwargs, while_training, final):
    env = make_meta_vec_env(env_id, 1, env_kwargs=env_kwargs)
    assert experiment.evaluation_splits(env) == while_training
    assert experiment.evaluation_splits(env, final=True) == final
    env.close()


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Kill -9 loses nothing that was checkpointed, and the continued run ends with all the files of an unbroken one."""
    process = subprocess.Popen(command(tmp_path, 10**8), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run, checkpoint = tmp_path / "ldm" / "GridNavi-v0_1", tmp_path / "ldm" / "GridNavi-v0_1" / "checkpoint.zip"
    try:
        deadline = time.time() + 900  # of a machine that is busy
        while not (checkpoint.is_file() and len(evaluated_timesteps(run)) > 1):
            assert process.poll() is None and time.time() < deadline
            time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    saved = LDM.load(checkpoint).num_timesteps
    assert saved >= ROLLOUT
    spent = json.loads((run / "run.json").read_text())
    total = saved + 2 * ROLLOUT
    result = subprocess.run(command(tmp_path, total, "-i", str(checkpoint)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"Continuing after {saved} of {total} steps" in result.stdout
    assert [path.name for path in (tmp_path / "ldm").iterdir()] == ["GridNavi-v0_1"]

    steps = evaluated_timesteps(run)
    assert max(steps) == total and len(steps) == len(set(steps))
    assert LDM.load(run / "GridNavi-v0.zip").num_timesteps == total
    state = json.loads((run / "run.json").read_text())
    assert state["frames"] == total and state["seed"] == 3 and state["hyperparameters"]["n_envs"] == 8
    assert all(state[name] > spent[name] > 0 for name in ("wall_time_s", "cpu_time_s"))
    with np.load(run / "trajectories.npz") as trajectories:
        positions = trajectories["positions"]
        assert positions.shape == (27, 4, 31, 2)
        assert (positions[:, :, 0] == 0).all()
        assert np.abs(np.diff(positions, axis=2)).sum(-1).max() == 1
        assert trajectories["beliefs"].shape == (27, 4, 49)
    with np.load(run / "reward_maps.npz") as maps:
        np.testing.assert_allclose(maps["weights"].sum(1), 1.0, rtol=1e-4)
        assert maps["maps"].shape[1] == 49
    assert not checkpoint.exists()

    before = (run / "final_evaluation.csv").read_text()
    result = subprocess.run(command(tmp_path, total, "-i", str(run / "GridNavi-v0.zip")), capture_output=True, text=True)
    assert result.returncode == 1 and f"is finished, with {total} of {total} timesteps" in result.stderr
    assert len(load_results(str(run))) * 120 == total  # each meta-episode once, of before and after
    assert max(evaluated_timesteps(run)) == total and (run / "final_evaluation.csv").read_text() == before


GRADIENT_BASED = ("emaml", "maml", "promp")


def is_variation(name: str, env_id: str) -> bool:
    """Whether a faster test trains nearly the same: of the other presets the gridworld, of the ants LDM must do."""
    if name in GRADIENT_BASED:
        return env_id != "HalfCheetahVelocity-v0"  # and test_gradient.py trains on the gridworld
    return ("-" in name and env_id != "GridNavi-v0") or (name != "ldm" and env_id.startswith("Ant"))


CONFIGURATIONS = [
    pytest.param(name, env_id, marks=pytest.mark.slow if is_variation(name, env_id) else ())
    for name, path in available_configs().items()
    for env_id in environments_in(path)
]


@pytest.mark.parametrize(("name", "env_id"), CONFIGURATIONS)
def test_every_configuration_trains(name: str, env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(experiment, "FINAL_REPEATS", 1)
    algo = name.split("-")[0]
    small = [
        "n_envs:4",
        *([] if algo in GRADIENT_BASED else ["batch_size:480"]),
        *(["vae_buffer_size:100"] if algo == "ldm" else []),
    ]
    options = ["--algo", algo, "--env", env_id, "-conf", name, "-n", "480", "-f", str(tmp_path), "--eval-freq", "-1"]
    if env_id in DOMAINS:
        options += ["--env-kwargs", "horizon:20", "episodes_per_task:2"]
    elif algo in GRADIENT_BASED:
        options += ["--env-kwargs", "horizon:10", "episodes_per_task:4"]
    main([*options, "--verbose", "0", "-params", *small])
    folder = tmp_path / algo / f"{env_id}_1"
    run = json.loads((folder / "run.json").read_text())
    assert run["frames"] in (480, 4 * 2 * 20 * 3) and run["env"] == env_id
    if env_id in environments_in(available_configs()["ldm"]):  # of robots that differ there is nothing to draw
        assert (folder / ("paths.npz" if env_id in DOMAINS else "trajectories.npz")).is_file()


@pytest.mark.parametrize("algo", ["rl2", "mixreg", "varibad"])
def test_algorithms_are_compared_on_even_terms(algo: str) -> None:
    """Whatever an algorithm shares with LDM has LDM's value: what PPO does, and the data it gets; but RL2 at its best."""
    shared = {*inspect.signature(SequencePPO).parameters, "n_envs", "n_timesteps", "normalize"}
    if algo == "varibad":  # whose policy is of another kind
        shared.remove("policy_kwargs")
    if algo == "mixreg":  # which has none
        shared.remove("target_kl")
    for env_id in [*environments_in(available_configs()["ldm"]), "Unknown-v0"]:
        own, ldm = (
            {name: value for name, value in read_preset(one, env_id).items() if name in shared} for one in (algo, "ldm")
        )
        if algo != "varibad" and env_id == "HalfCheetahVelocity-v0":
            assert (own["n_envs"], ldm["n_envs"]) == (16, 128)
            own |= {name: ldm[name] for name in ("n_envs", "learning_rate", "batch_size", "clip_range", "policy_kwargs")}
        assert own == ldm, env_id


def test_the_paper_s_rl2_has_the_policy_of_the_paper_s_ldm() -> None:
    for env_id in environments_in(available_configs()["ldm-paper"]):
        own, ldm = (read_preset(f"{algo}-paper", env_id) for algo in ("rl2", "ldm"))
        assert own and {name: ldm[name] for name in own} == own
        assert not set(ldm) - set(own) - set(inspect.signature(LDM).parameters) - {"vae_kwargs"}
        assert not (set(ldm) - set(own)) & set(inspect.signature(SequencePPO).parameters)


def test_the_paper_s_varibad_has_the_ppo_of_the_paper_s_ldm_on_mujoco() -> None:
    for env_id in DOMAINS:
        own, ldm = (read_preset(f"{algo}-paper", env_id) for algo in ("varibad", "ldm"))
        shared = {*inspect.signature(SequencePPO).parameters, "n_envs", "n_timesteps", "normalize", "latent_dim"}
        shared.remove("policy_kwargs")
        assert {name: own.get(name) for name in shared} == {name: ldm.get(name) for name in shared}, env_id


def test_options_have_one_default() -> None:
    """Constructors repeat the options of what they build; what they repeat must not drift apart."""

    def defaults(constructor: Any) -> dict[str, Any]:
        parameters = inspect.signature(constructor).parameters.values()
        return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}

    def differing(one: Any, two: Any) -> set[str]:
        first, second = defaults(one), defaults(two)
        assert first.keys() & second.keys()
        return {name for name in first.keys() & second.keys() if first[name] not in (second[name], "auto")}

    for algorithm in (RL2, Mixreg, LDM, VariBAD):
        assert differing(algorithm, SequencePPO) == ({"target_kl", "learning_rate"} if algorithm is Mixreg else set())
    assert differing(LDM, ImaginationConfig) == {"mixture_time"}  # the paper's, and what works
    assert differing(LDM, RewardVAE) == set()
    assert differing(VariBAD, RewardVAE) == {"dropout_rate"}  # as its authors have it


@pytest.mark.parametrize(
    "name", [name for name in available_configs() if name.startswith(("ldm", "varibad")) and "defaults" not in name]
)
def test_no_default_decides_what_the_elbo_of_a_preset_is_estimated_from(name: str) -> None:
    for env_id, options in yaml.safe_load(available_configs()[name].read_text()).items():
        assert {"n_elbo_terms", "n_decoded_steps"} <= options.keys(), env_id


def test_options_of_rl_zoo3_that_have_no_use_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(experiment, "FINAL_REPEATS", 1)
    options = ["--algo", "rl2", "-n", "80", "-f", str(tmp_path), "--verbose", "0", "--eval-freq", "-1"]
    options += ["--env-kwargs", "horizon:5", "-params", "n_envs:2", "batch_size:20"]
    for refused in (["-optimize"], ["--trial-id", "0"]):
        with pytest.raises(ValueError, match=r"search hyperparameters with python -m sb3_ldm\.tune"):
            main([*options, *refused])
    with pytest.raises(ValueError, match="--eval-episodes has no use: every task"):
        main([*options, "--eval-episodes", "7"])
    for name, value in (("env_wrapper", "'gymnasium.wrappers.FlattenObservation'"), ("frame_stack", "4")):
        with pytest.raises(ValueError, match=f"{name}=.*inside the MetaEpisodeWrapper"):
            main([*options, f"{name}:{value}"])
    main([*options, "--log-interval", "1"])
    with open(next(tmp_path.glob("rl2/*/progress.csv"))) as file:
        assert [row["time/total_timesteps"] for row in csv.DictReader(file)] == ["40", "80"]  # each rollout


@pytest.mark.parametrize(("n_timesteps", "logged"), [(80, [40, 80]), (800, [*range(40, 801, 40)][1::2])])
@pytest.mark.usefixtures("in_process")
def test_the_log_of_a_short_run_has_its_rollouts(tmp_path: Path, n_timesteps: int, logged: list[int]) -> None:
    main(small_run(tmp_path, "rl2", n_timesteps))
    with open(next(tmp_path.glob("rl2/*/progress.csv"))) as file:
        assert [int(row["time/total_timesteps"]) for row in csv.DictReader(file)] == logged


def test_help_tells_what_differs_from_rl_zoo3(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for option, value in DEFAULTS.items():
        assert re.search(rf"{option} [^()]*\(default: {value}\)", told), option
    assert "ldm-paper" in told and "usage:" in told and "%(" not in told


def test_the_zoo_knows_what_is_registered() -> None:
    register()
    register()
    assert ALGOS["ldm"] is LDM and {"rl2", "varibad", "mixreg"} <= set(ALGOS)
    assert {"GridNavi-v0", *DOMAINS} <= set(gym.registry)


def test_an_unknown_configuration_is_named_before_work_starts() -> None:
    with pytest.raises(ValueError, match=r"conf_file='ldm-papre'.*ldm-paper"):
        resolve_config("ldm-papre", "ldm")
    assert resolve_config(None, "rl2") == str(config_path("rl2"))
    assert resolve_config("ldm-release", "ldm") == str(config_path("ldm-release"))


@pytest.mark.usefixtures("in_process")
def test_what_a_file_says_of_environments_holds_in_evaluation_too(tmp_path: Path) -> None:
    tasks = {"validation_tasks": 6, "episodes_per_task": 2, "horizon": 5}
    small = {"n_envs": 2, "n_timesteps": 20, "policy": "MlpLstmPolicy", "batch_size": 20, "env_kwargs": tasks}
    (tmp_path / "small.yml").write_text(yaml.safe_dump({"GridNavi-v0": small}))
    main(["--algo", "rl2", "-conf", str(tmp_path / "small.yml"), "-f", str(tmp_path), "--eval-freq", "20"])
    run = load_run(tmp_path / "rl2" / "GridNavi-v0_1")
    assert run.metadata["env_kwargs"] == tasks
    for table in (run.evaluations, run.final_evaluation):
        assert table is not None and table.splits == ("train", "validation") and table.episode.max() == 2
        assert table.select("train").n_tasks == 12


@pytest.mark.usefixtures("in_process")
def test_runs_that_begin_together_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has looked for a free number before the others have taken it."""
    made, is_late = [], experiment.MetaExperimentManager.__init__

    def late(manager, *args, **kwargs):
        is_late(manager, *args, **kwargs)
        for other in ("GridNavi-v0_1", "GridNavi-v0_2"):
            (tmp_path / "rl2" / other).mkdir(parents=True)
        made.append(manager)

    monkeypatch.setattr(experiment.MetaExperimentManager, "__init__", late)
    main(small_run(tmp_path, "rl2", 40))
    assert Path(made[0].save_path).name == "GridNavi-v0_3"
    assert not any((tmp_path / "rl2" / "GridNavi-v0_1").iterdir())
    run = tmp_path / "rl2" / "GridNavi-v0_3"
    assert (run / "GridNavi-v0" / "config.yml").is_file() and (run / "GridNavi-v0.zip").is_file()


@pytest.mark.usefixtures("in_process")
@pytest.mark.filterwarnings("error:.*has no checkpoint_replay_buffer")
def test_a_run_that_has_ended_may_be_continued_with_a_progress_bar(tmp_path: Path) -> None:
    """Its options, its buffer and its curve in TensorBoard are the same."""
    options = ["--save-replay-buffer", "-tb", str(tmp_path / "tb"), "--eval-env-kwargs", "horizon:5", "episodes_per_task:3"]
    main([*options, *small_run(tmp_path / "logs", "ldm", 80)])
    run = tmp_path / "logs" / "ldm" / "GridNavi-v0_1"
    main(["-i", str(run / "GridNavi-v0.zip"), "-n", "160", "--eval-freq", "40", "--progress"])
    state = load_run(run)
    assert state.metadata["frames"] == 160 and state.metadata["finished"]
    assert state.evaluations is not None and state.evaluations.episode.max() == 3
    assert [folder.name for folder in (tmp_path / "tb" / "GridNavi-v0").iterdir()] == ["logs_ldm_1"]


@pytest.mark.usefixtures("in_process")
def test_a_run_names_all_the_code_that_trained_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, commits = tmp_path / "rl2" / "GridNavi-v0_1", ["one-dirty", "two", "two", "three"]
    for i, commit in enumerate(commits):
        monkeypatch.setattr(run_folder, "current_commit", lambda commit=commit: commit)
        main(small_run(tmp_path, "rl2", 40) if i == 0 else ["-i", str(run / "GridNavi-v0.zip"), "-n", str(40 * (i + 1))])
    state = json.loads((run / "run.json").read_text())
    assert (state["commit"], state["commits_before"]) == ("three", ["one-dirty", "two"])


@pytest.mark.usefixtures("in_process")
def test_the_best_agent_goes_on_with_the_rewards_that_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["normalize:dict(norm_obs=True,norm_reward=False)"]
    main([*small_run(tmp_path, "rl2", 80), *options, "--eval-freq", "40"])
    seen, load = [], RL2.load.__func__  # type: ignore[attr-defined]

    def watched(cls, path, env=None, **kwargs):
        seen.append((env.training, env.norm_reward))
        return load(cls, path, env=env, **kwargs)

    monkeypatch.setattr(RL2, "load", classmethod(watched))
    main(["-i", str(tmp_path / "rl2" / "GridNavi-v0_1" / "best_model.zip"), "-n", "160", "-f", str(tmp_path)])
    assert seen == [(True, False)]


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("terminated", [False, True])
def test_an_interrupt_loses_nothing(tmp_path, monkeypatch, terminated):
    """Ctrl-C leaves a checkpoint with the buffer, and a run that is not called finished; it is evaluated anew at its end."""
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(experiment, "FINAL_REPEATS", 1)
    train, learned = LDM.train, []

    def interrupted(model):
        train(model)
        learned.append([len(model.replay_buffer), *(parameter.clone() for parameter in model.policy.parameters())])
        if len(learned) == 3:
            os.kill(os.getpid(), signal.SIGTERM if terminated else signal.SIGINT)
            time.sleep(1.0)

    monkeypatch.setattr(LDM, "train", interrupted)
    with pytest.raises(SystemExit, match="143") if terminated else contextlib.nullcontext():
        main(small_run(tmp_path, "ldm", 200))
    run = tmp_path / "ldm" / "GridNavi-v0_1"
    state = json.loads((run / "run.json").read_text())
    assert (state["finished"], state["frames"]) == (False, 120)
    before = load_run(run).final_evaluation
    assert before is None if terminated else before is not None and set(before.timesteps) == {120}

    start, continued = LDM.learn, []

    def watched(model, *args, **kwargs):
        continued.append([len(model.replay_buffer), *(parameter.clone() for parameter in model.policy.parameters())])
        return start(model, *args, **kwargs)

    monkeypatch.setattr(LDM, "learn", watched)
    main(["-i", str(run / "checkpoint.zip"), "--eval-freq", "-1"])
    assert len(continued) == 1 and continued[0][0] == learned[2][0] > 0
    assert all(np.array_equal(one.detach(), two.detach()) for one, two in zip(continued[0][1:], learned[2][1:], strict=True))
    state = json.loads((run / "run.json").read_text())
    assert (state["finished"], state["frames"]) == (True, 200)
    after = load_run(run).final_evaluation
    assert after is not None and set(after.timesteps) == {200} and (before is None or len(after) == len(before))
    assert not (run / "checkpoint.zip").exists()


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_waits_for_the_checkpoint(tmp_path, monkeypatch, first):
    """A runner that was interrupted terminates its runs, which the terminal has interrupted too."""
    monkeypatch.setattr(sys, "argv", ["train"])
    save, calls = experiment.LatestCheckpointCallback.save, []

    def slow_save(callback):
        calls.append("save")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        save(callback)
        calls.append("saved")

    def interrupted(model):
        os.kill(os.getpid(), first)
        time.sleep(1.0)

    monkeypatch.setattr(experiment.LatestCheckpointCallback, "save", slow_save)
    monkeypatch.setattr(LDM, "train", interrupted)
    with pytest.raises(SystemExit, match="143"):
        main(small_run(tmp_path, "ldm", 200))
    assert calls == ["save", "saved"] and (tmp_path / "ldm" / "GridNavi-v0_1" / "checkpoint.zip").is_file()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_interrupt_before_training_saves_nothing_new(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(experiment.MetaExperimentManager, "_save_results", lambda self, model: None)
    main(small_run(tmp_path, "ldm", 40))
    run = tmp_path / "ldm" / "GridNavi-v0_1"

    def interrupted(self, model):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment.MetaExperimentManager, "_train", interrupted)
    main(["-i", str(run / "GridNavi-v0.zip"), "-n", "80", "--eval-freq", "-1"])
    assert not json.loads((run / "run.json").read_text())["finished"] and not (run / "checkpoint.zip").exists()


def test_schedules_of_the_zoo_are_those_of_every_rate():
    given = {"learning_rate": "lin_1e-3", "ent_coef": "lin_0.05", "vae_learning_rate": "lin_2e-3"}
    schedules = experiment.MetaExperimentManager._preprocess_schedules(given)
    assert [schedules[name](0.5) for name in given] == pytest.approx([5e-4, 0.025, 1e-3])


def test_a_continued_run_meets_other_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(experiment.MetaExperimentManager, "_save_results", lambda self, model: None)
    main(small_run(tmp_path, "ldm", 40))
    run = tmp_path / "ldm" / "GridNavi-v0_1"
    seen: list[list[list[float]]] = []

    def look(self, model):
        model._setup_learn(10**6, reset_num_timesteps=False)
        seen.append([np.asarray(task).tolist() for task in model.env.get_attr("task")])

    monkeypatch.setattr(experiment.MetaExperimentManager, "_train", look)
    for frames in ("80", "80"):
        main(["-i", str(run / "GridNavi-v0.zip"), "-n", frames, "--eval-freq", "-1"])
    main(small_run(tmp_path, "ldm", 40))
    continued, again, fresh = seen
    assert continued == again != fresh


def test_a_run_of_ones_own_hyperparameters_goes_on_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(experiment.MetaExperimentManager, "_save_results", lambda self, model: None)
    own = tmp_path / "own.yml"
    own.write_text("GridNavi-v0: {n_envs: 4, n_timesteps: 40, policy: MlpLstmPolicy, gamma: 0.99}")
    options = ["--env-kwargs", "horizon:5", "episodes_per_task:2", "-f", str(tmp_path), "--eval-freq", "-1"]
    main(["--algo", "rl2", "--env", "GridNavi-v0", "--conf-file", str(own), "--seed", "0", *options])
    run = tmp_path / "rl2" / "GridNavi-v0_1"
    before = json.loads((run / "run.json").read_text())
    own.unlink()
    main(["-i", str(run / "GridNavi-v0.zip"), "-n", "80", "--eval-freq", "-1"])
    after = json.loads((run / "run.json").read_text())
    assert after["config"] == before["config"] == "own" and after["frames"] == 80
    changed = {"n_timesteps": 80}
    assert after["hyperparameters"] | changed == before["hyperparameters"] | changed


def test_a_model_is_saved_before_an_evaluation_that_fails(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no evaluation")

    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(final_evaluation, "evaluate_meta", fail)
    with pytest.raises(RuntimeError, match="no evaluation"):
        main(small_run(tmp_path, "ldm", 40))
    run = tmp_path / "ldm" / "GridNavi-v0_1"
    assert LDM.load(run / "GridNavi-v0.zip").num_timesteps == 40
    assert not json.loads((run / "run.json").read_text())["finished"]


def test_another_agent_than_the_last_one_begins_a_run_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(experiment, "FINAL_REPEATS", 1)
    folder = ["--env-kwargs", "horizon:20", "-f", str(tmp_path), "-n", "160"]
    options = ["-params", "n_envs:4", "batch_size:40", "normalize:True", "--eval-freq", "40"]
    main(["--algo", "rl2", "--env", "HalfCheetahVelocity-v0", *folder, *options])
    run = tmp_path / "rl2" / "HalfCheetahVelocity-v0_1"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with open(run / "best_vecnormalize.pkl", "rb") as file:
        best = pickle.load(file)
    seen = []
    monkeypatch.setattr(experiment.MetaExperimentManager, "_train", lambda self, model: seen.append(model))
    monkeypatch.setattr(experiment.MetaExperimentManager, "_save_results", lambda self, model: None)
    monkeypatch.setattr(experiment.MetaExperimentManager, "save_trained_model", lambda self, model: None)
    main(["-i", str(run / "best_model.zip"), "-f", str(tmp_path), "--eval-freq", "-1", "-n", "480"])
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert (tmp_path / "rl2" / "HalfCheetahVelocity-v0_2" / "HalfCheetahVelocity-v0.zip").is_file()
    np.testing.assert_array_equal(seen[0].get_vec_normalize_env().obs_rms.mean, best.obs_rms.mean)


def test_a_finished_run_says_that_its_buffer_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(experiment.MetaExperimentManager, "_save_results", lambda self, model: None)
    main(small_run(tmp_path, "ldm", 80))
    with warns_here("has no checkpoint_replay_buffer.pkl beside it", __file__):
        main(["-i", str(tmp_path / "ldm" / "GridNavi-v0_1" / "GridNavi-v0.zip"), "-n", "160", "--eval-freq", "-1"])


@pytest.mark.parametrize("algo", ["ldm", "varibad"])
def test_the_buffer_of_a_checkpoint_is_gone_on_with(algo, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    main(small_run(tmp_path, algo, 80))
    run = tmp_path / algo / "GridNavi-v0_1"
    model = experiment.ALGOS[algo].load(
        run / "GridNavi-v0.zip",
        env=make_meta_vec_env("GridNavi-v0", 4, seed=0, env_kwargs={"horizon": 5, "episodes_per_task": 2}),
        device="cpu",
    )
    model.learn(80, reset_num_timesteps=False)
    model.save(run / "checkpoint.zip")
    model.save_replay_buffer(run / "checkpoint_replay_buffer.pkl")
    saved, seen = len(model.replay_buffer), []
    monkeypatch.setattr(experiment.MetaExperimentManager, "_save_results", lambda self, model: seen.append(model))
    # Nothing but what is to be different: the rest is as the run was started.
    main(["-i", str(run / "checkpoint.zip"), "-n", "200", "--eval-freq", "-1"])
    assert saved > 0 and seen[0].num_timesteps == 200
    assert (seen[0].n_envs, seen[0].batch_size, seen[0].vae_batch_size, seen[0].seed) == (4, 20, 3, 0)
    assert seen[0].layout.max_episode_steps == 5
    assert len(seen[0].replay_buffer) == saved + seen[0].n_recorded


def test_the_plots_of_rl_zoo3_work(tmp_path, monkeypatch, capsys):
    from rl_zoo3.plots.all_plots import all_plots

    monkeypatch.setattr(sys, "argv", ["train"])
    options = [
        "--algo",
        "rl2",
        "--env",
        "GridNavi-v0",
        "--env-kwargs",
        "horizon:5",
        "episodes_per_task:2",
        "-f",
        str(tmp_path),
    ]
    options += ["--eval-freq", "40", "--verbose", "0", "-params", "n_envs:4", "batch_size:20"]
    for seed in ("0", "1"):
        main([*options, "-n", "160", "--seed", seed])
    run = tmp_path / "rl2" / "GridNavi-v0_1"
    with np.load(run / "evaluations.npz") as saved, open(run / "evaluations.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
        assert saved["timesteps"].tolist() == sorted({int(row["timesteps"]) for row in rows})
        assert saved["results"].shape == saved["ep_lengths"].shape == (len(saved["timesteps"]), 27)
        assert saved["results"][0, 0] == pytest.approx(float(rows[0]["return"]) + float(rows[1]["return"]))
        assert (saved["ep_lengths"] == 10).all()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["plots", "-a", "rl2", "-e", "GridNavi-v0", "-f", str(tmp_path), "--no-display"])
    all_plots()
    assert "GridNavi-v0" in capsys.readouterr().out
