"""Runs that end in whatever way: nothing is lost, nothing is mixed, and damaged files are named."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch as th
import yaml
from helpers import differing, evaluated_timesteps, parameters, small_run, warns_here

from sb3_ldm import LDM, RL2, VariBAD
from sb3_ldm.command import notes_of
from sb3_ldm.files import lock_folder
from sb3_ldm.train import main
from sb3_ldm.zoo import experiment, final_evaluation


def final_parameters(run: Path) -> dict[str, th.Tensor]:
    return parameters(experiment.ALGOS[run.parent.name].load(run / "GridNavi-v0.zip", device="cpu"))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["params", "python", "yml"])
def test_the_file_of_a_run_trains_the_same_agent(kind, tmp_path, monkeypatch):
    """Also where classes and other objects stand in it, which the command line, Python files and strings can give."""
    monkeypatch.setattr(experiment.MetaExperimentManager, "_save_results", lambda self, model: None)
    module = "import torch as th\nfrom stable_baselines3.common.utils import LinearSchedule\n"
    policy = "dict(activation_fn=th.nn.ReLU, optimizer_class=th.optim.SGD, net_arch=dict(pi=(8,), vf=(6,)))"
    options = "dict(n_envs=4, n_timesteps=80, policy='MlpLstmPolicy', batch_size=20, learning_rate=0.1, policy_kwargs=%s)"
    config = tmp_path / {"params": "own.yml", "python": "own.py", "yml": "own.yml"}[kind]
    more: list[str] = []
    if kind == "python":
        schedule = "dict(vae_learning_rate=LinearSchedule(1e-2, 1e-3, 0.5))"
        config.write_text(f"{module}hyperparams = {{'GridNavi-v0': {options % policy} | {schedule}}}")
    else:
        preset = {"n_envs": 4, "n_timesteps": 10**6, "policy": "MlpLstmPolicy", "batch_size": 20, "learning_rate": 0.1}
        if kind == "yml":
            preset["policy_kwargs"] = policy.replace("th.nn", "nn").replace("th.optim.SGD", "RMSpropTFLike")
        else:
            more = ["-params", f"policy_kwargs:{policy}", "learning_rate:'lin_0.1'"]
        config.write_text(yaml.safe_dump({"GridNavi-v0": preset}))
    monkeypatch.setattr("rl_zoo3.utils.th", th, raising=False)
    folder = ["--algo", "varibad", "--env", "GridNavi-v0", "--seed", "0", "-f", str(tmp_path), "--eval-freq", "-1"]
    environment = ["-n", "80", "--env-kwargs", "horizon:5", "episodes_per_task:2"]
    main([*folder, *environment, "-conf", str(config), *more])
    first, second = (tmp_path / "varibad" / f"GridNavi-v0_{i}" for i in (1, 2))
    main([*folder, "-conf", str(first / "hyperparameters.yml")])
    one, two = final_parameters(first), final_parameters(second)
    assert differing(one, two) == []
    assert (first / "hyperparameters.yml").read_text() == (second / "hyperparameters.yml").read_text()
    model = VariBAD.load(second / "GridNavi-v0.zip", device="cpu")
    assert isinstance(model.policy.mlp_extractor.policy_net[1], th.nn.ReLU)
    main(["-i", str(first / "GridNavi-v0.zip"), "-n", "120"])
    assert VariBAD.load(first / "GridNavi-v0.zip", device="cpu").num_timesteps == 120


@pytest.mark.usefixtures("in_process")
def test_what_no_file_can_hold_is_told_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment.MetaExperimentManager, "_save_results", lambda self, model: None)
    own = tmp_path / "own.py"
    own.write_text(
        "import torch\nclass Own(torch.nn.ReLU): pass\n"
        "hyperparams = {'GridNavi-v0': dict(n_envs=4, n_timesteps=40, policy='MlpLstmPolicy', policy_kwargs="
        "dict(activation_fn=Own))}"
    )
    options = ["--algo", "rl2", "--seed", "0", "--env-kwargs", "horizon:5", "-f", str(tmp_path), "--eval-freq", "-1"]
    with warns_here(r"policy_kwargs: hyperparameters.yml cannot hold .*give --conf-file", __file__):
        main([*options, "-conf", str(own)])
    run = tmp_path / "rl2" / "GridNavi-v0_1"
    assert not (run / "hyperparameters.yml").exists() and (run / "GridNavi-v0.zip").is_file()
    with pytest.raises(ValueError, match=r"GridNavi-v0.zip was trained with policy_kwargs, which no file can hold"):
        main(["-i", str(run / "GridNavi-v0.zip"), "-n", "160"])
    with pytest.warns(UserWarning, match="cannot hold"):
        main(["-i", str(run / "GridNavi-v0.zip"), "-n", "160", "-conf", str(own)])
    assert RL2.load(run / "GridNavi-v0.zip", device="cpu").num_timesteps == 160


class Ending:
    """Ends the training of an agent in some way after its second update."""

    def __init__(self, monkeypatch, algorithm, end):
        self.learned: dict[str, th.Tensor] = {}
        self.n_updates, train = 0, algorithm.train

        def ending(model):
            train(model)
            self.n_updates += 1
            if self.n_updates == 2:
                self.learned = parameters(model)
                end(model)

        monkeypatch.setattr(algorithm, "train", ending)


def send(number: int):
    def end(model) -> None:
        os.kill(os.getpid(), number)
        time.sleep(1.0)

    return end


def raise_error(model) -> None:
    raise ZeroDivisionError("of an environment")


@pytest.mark.usefixtures("in_process", "interruptible")
@pytest.mark.parametrize(
    ("end", "raised"),
    [
        (send(signal.SIGTERM), pytest.raises(SystemExit, match="143")),
        (send(signal.SIGHUP), pytest.raises(SystemExit, match="129")),
        (send(signal.SIGINT), contextlib.nullcontext()),
        (raise_error, pytest.raises(ZeroDivisionError, match="of an environment")),
    ],
    ids=["SIGTERM", "SIGHUP", "SIGINT", "error"],
)
def test_a_run_that_ends_early_keeps_its_agent_also_without_checkpoints(end, raised, tmp_path, monkeypatch, capsys):
    ending = Ending(monkeypatch, LDM, end)
    with raised as caught:
        main([*small_run(tmp_path, "ldm", 200), "--save-freq", "-1"])
    run = tmp_path / "ldm" / "GridNavi-v0_1"
    told = capsys.readouterr().out + "".join(notes_of(caught.value) if caught else [])
    agent, checkpoint = run / "GridNavi-v0.zip", run / "checkpoint.zip"
    assert f"Saved after 80 steps: {agent} and {checkpoint}; go on with -i {checkpoint}." in told
    for name in ("GridNavi-v0.zip", "checkpoint.zip"):
        assert differing(parameters(LDM.load(run / name, device="cpu")), ending.learned) == []
    assert (run / "checkpoint_replay_buffer.pkl").is_file() and not json.loads((run / "run.json").read_text())["finished"]
    assert not list(run.rglob("partial_*"))
    main(["-i", str(run / "checkpoint.zip")])
    assert json.loads((run / "run.json").read_text())["finished"] and not (run / "checkpoint.zip").exists()
    assert LDM.load(run / "GridNavi-v0.zip", device="cpu").num_timesteps == 200


@pytest.mark.usefixtures("in_process")
def test_an_agent_that_has_broken_does_not_replace_a_sound_one(tmp_path, monkeypatch):
    def break_agent(model) -> None:
        with th.no_grad():
            next(model.policy.parameters()).fill_(float("nan"))
        raise ValueError("NaN")

    Ending(monkeypatch, RL2, break_agent)
    with pytest.raises(ValueError, match="NaN") as raised:
        main([*small_run(tmp_path, "rl2", 200), "--save-freq", "40"])
    run = tmp_path / "rl2" / "GridNavi-v0_1"
    checkpoint = run / "checkpoint.zip"
    told = "The agent of step 80 has weights that are not finite and is not saved. "
    assert notes_of(raised.value) == [f"{told}Saved before: {checkpoint}; go on with -i {checkpoint}."]
    assert RL2.load(run / "checkpoint.zip", device="cpu").num_timesteps == 40


@pytest.mark.usefixtures("in_process")
def test_a_full_disk_ends_a_run_with_what_was_saved_before(tmp_path, monkeypatch):
    save = RL2.save

    def full(model, path, *args, **kwargs):
        if model.num_timesteps > 40:
            Path(path).write_bytes(b"a part")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(model, path, *args, **kwargs)

    monkeypatch.setattr(RL2, "save", full)
    with warns_here("No checkpoint after 80 steps, training goes on: .*No space left", __file__):
        with pytest.raises(OSError, match=r"GridNavi-v0\.zip cannot be written, what was there stays: No space left"):
            main([*small_run(tmp_path, "rl2", 160), "--save-freq", "40"])
    run = tmp_path / "rl2" / "GridNavi-v0_1"
    monkeypatch.setattr(RL2, "save", save)
    assert RL2.load(run / "checkpoint.zip", device="cpu").num_timesteps == 40 and not list(run.rglob("partial_*"))
    main(["-i", str(run / "checkpoint.zip")])
    assert RL2.load(run / "GridNavi-v0.zip", device="cpu").num_timesteps == 160


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("reason", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupt_of_the_final_evaluation_says_how_to_make_up_for_it(reason, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise reason

    with monkeypatch.context() as patch:
        patch.setattr(final_evaluation, "evaluate_meta", interrupted)
        with pytest.raises(type(reason)):
            main(small_run(tmp_path, "rl2", 40))
    run = tmp_path / "rl2" / "GridNavi-v0_1"
    told = "".join(notes_of(reason)) + capsys.readouterr().out.splitlines()[-1]
    assert f"make up for it with -i {run / 'GridNavi-v0.zip'}" in told
    assert [path.name for path in run.iterdir() if "final" in path.name] == []
    main(["-i", str(run / "GridNavi-v0.zip")])
    assert json.loads((run / "run.json").read_text())["finished"] and (run / "final_evaluation.csv").is_file()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    "wrong", [["-params", "n_envs:4", "batch_size:20", "gamma:2.5"], ["--env-kwargs", "horizon:5", "no_such_option:1"]]
)
def test_a_run_that_fails_before_it_has_learned_leaves_no_folder(wrong, tmp_path):
    main(small_run(tmp_path, "rl2", 40))
    with pytest.raises((ValueError, TypeError)):
        main([*small_run(tmp_path, "rl2", 40), *wrong])
    with pytest.raises((ValueError, TypeError)):
        main([*small_run(tmp_path / "new", "rl2", 40), *wrong])
    assert [path.name for path in tmp_path.iterdir()] == ["rl2"]
    assert [path.name for path in (tmp_path / "rl2").iterdir()] == ["GridNavi-v0_1"]


def test_an_environment_that_fails_at_once_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])

    def fail(self):
        raise ConnectionError("no simulator")

    monkeypatch.setattr("sb3_ldm.envs.batched_meta_vec_env.BatchedMetaVecEnv.reset", fail)
    with pytest.raises(ConnectionError):
        main(small_run(tmp_path, "rl2", 40))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("in_process")
def test_two_processes_do_not_continue_the_same_run(tmp_path, monkeypatch):
    main(small_run(tmp_path, "rl2", 40))
    run = tmp_path / "rl2" / "GridNavi-v0_1"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    lock = lock_folder(run)
    with pytest.raises(ValueError, match=rf"{run} is being written by another run \(process {os.getpid()} on"):
        main(["-i", str(run / "GridNavi-v0.zip"), "-n", "80"])
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    lock.release()
    (run / "partial_best_model.zip").write_bytes(b"of a killed process")
    main(["-i", str(run / "GridNavi-v0.zip"), "-n", "80"])
    assert RL2.load(run / "GridNavi-v0.zip").num_timesteps == 80 and not list(run.rglob("partial_*"))


@pytest.fixture(scope="module")
def interrupted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of LDM that was interrupted, with normalised observations and evaluations."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train"])
        Ending(patch, LDM, raise_error)
        with pytest.raises(ZeroDivisionError):
            main([*small_run(folder, "ldm", 200), "normalize:True", "--eval-freq", "40"])
    return folder / "ldm" / "GridNavi-v0_1"


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def without_last_line(content: bytes) -> bytes:
    return b"".join(content.splitlines(keepends=True)[:-1])


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("run.json", None, "run.json is missing.* give --algo, --env, --seed, --n-timesteps, --conf-file, too"),
        ("run.json", lambda content: b"", "run.json is not valid JSON.* give --algo, --env, --seed"),
        ("run.json", half, "run.json is not valid JSON.* give --algo, --env, --seed"),
        ("hyperparameters.yml", lambda content: b"", "hyperparameters.yml has no hyperparameters .* or was cut; restore it"),
        ("hyperparameters.yml", without_last_line, "hyperparameters.yml was cut, it lacks .*: restore it"),
        ("hyperparameters.yml", lambda content: b"GridNavi-v0: {a", "hyperparameters.yml is damaged.*restore it"),
        ("evaluations.csv", lambda content: b"", "evaluations.csv is empty.*remove or restore"),
        ("evaluations.csv", lambda content: content + b"damaged,\r\n", "evaluations.csv, line .*remove or restore"),
        ("checkpoint.zip", half, "checkpoint.zip is damaged .*: restore it, or go on with another .*GridNavi-v0.zip"),
        ("checkpoint.zip", lambda content: b"", "checkpoint.zip is damaged"),
        ("checkpoint_replay_buffer.pkl", half, "checkpoint_replay_buffer.pkl cannot be loaded.*restore it, or remove it"),
        ("GridNavi-v0/vecnormalize.pkl", half, "vecnormalize.pkl cannot be loaded, it is damaged.*Restore it, or begin anew"),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_damaged_files_of_a_run_are_named_with_a_way_out(name, damage, told, interrupted_run, tmp_path):
    run = tmp_path / "ldm" / "GridNavi-v0_1"
    shutil.copytree(interrupted_run, run)
    if damage is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(damage((run / name).read_bytes()))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(ValueError, match=rf"{tmp_path}.*{told}"):
        main(["-i", str(run / "checkpoint.zip")])
    kept = {path: content for path, content in before.items() if "progress" not in path.name}
    assert kept == {path: path.read_bytes() for path in kept}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("content", [None, ""])
def test_without_its_run_json_an_agent_goes_on_as_it_is_told(content, interrupted_run, tmp_path):
    run = tmp_path / "ldm" / "GridNavi-v0_1"
    shutil.copytree(interrupted_run, run)
    (run / "run.json").unlink()
    if content is not None:
        (run / "run.json").write_text(content)
    options = ["--algo", "ldm", "--env", "GridNavi-v0", "--seed", "0", "-n", "120", "--eval-freq", "-1"]
    with pytest.warns(UserWarning, match="times that the run has taken so far are not known"):
        main(["-i", str(run / "checkpoint.zip"), *options, "-conf", str(run / "hyperparameters.yml"), "-f", str(tmp_path)])
    assert json.loads((run / "run.json").read_text())["frames"] == 120


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_reaches_all_processes_and_ends_a_run_as_it_should(tmp_path):
    options = ["imagination_starts:40", "n_envs:2", "--vec-env", "subproc", "--eval-freq", "400", "--save-freq", "-1"]
    code = """if __name__ == "__main__":
        import sys
        from sb3_ldm.command import run_command
        from sb3_ldm.train import main
        from sb3_ldm.zoo.experiment import MetaExperimentManager

        MetaExperimentManager._create_eval_env = lambda self: self.create_envs(1, eval_env=True)  # a process imports torch
        sys.exit(run_command(main))"""
    command = [sys.executable, "-u", "-c", code, *small_run(tmp_path, "ldm", 10**7), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    run = tmp_path / "ldm" / "GridNavi-v0_1"
    try:
        deadline = time.time() + 900  # of a machine that is busy
        while not (run / "evaluations.csv").is_file() or len(evaluated_timesteps(run)) < 2:
            assert process.poll() is None and time.time() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        printed, errors = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in errors, errors
    assert "Interrupted. Saved after" in printed
    expected = {"checkpoint.zip", "GridNavi-v0.zip", "evaluations.npz", "trajectories.npz", "reward_maps.npz"}
    assert expected | {"final_evaluation.csv"} <= {path.name for path in run.iterdir()}
