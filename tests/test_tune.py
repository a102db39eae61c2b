"""The search of hyperparameters: on held-out tasks only, pruned, resumed, and written down."""

import json
import os
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from optuna.trial import TrialState

from sb3_ldm.evaluation import callbacks
from sb3_ldm.registry import get_algorithm
from sb3_ldm.results import load_run
from sb3_ldm.results.evaluation_table import load_evaluations
from sb3_ldm.train import main as train
from sb3_ldm.tune import main, with_defaults
from sb3_ldm.zoo import final_evaluation, trial, tuning
from sb3_ldm.zoo.configs import config_path
from sb3_ldm.zoo.registration import ALGORITHMS
from sb3_ldm.zoo.search_space import check_names, suggest, to_hyperparameters
from sb3_ldm.zoo.tuning import free_lost_trials, n_counted, open_storage

#: A study of small agents on short meta-episodes: 4 x 10 steps in a rollout.
SMALL = ["--env", "GridNavi-v0", "--env-kwargs", "horizon:5", "episodes_per_task:2", "-n", "120", "--n-evaluations", "3"]
PARAMS = ["-params", "n_envs:4", "batch_size:20", "vae_batch_size:3", "imagination_starts:0"]


def tune(folder: Path, *more: str, algo: str = "ldm") -> optuna.Study:
    main(["--algo", algo, "-f", str(folder), *SMALL, *more])
    return load(folder, algo)


def load(folder: Path, algo: str = "ldm") -> optuna.Study:
    name = f"{algo}_GridNavi-v0"
    return optuna.load_study(study_name=name, storage=open_storage(str(folder / algo / "tune" / f"{name}.log")))


def study_folder(folder: Path, algo: str) -> Path:
    return folder / algo / "tune" / f"{algo}_GridNavi-v0"


# The search space


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_can_be_tuned(algo):
    values = {name: [] for name in get_algorithm(algo).load_search_space()}
    for seed in range(5):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        for name, value in suggest(study.ask(), algo, list(values)).items():
            values[name].append(value)
    assert all(len(set(given)) > 1 for given in values.values())
    assert set(get_algorithm(algo).tuned) <= set(values)


def test_the_mixture_ratio_is_searched_where_appendix_d_was_measured():
    variants = yaml.safe_load((Path(__file__).parent.parent / "benchmarks/experiments/mixture_workers.yml").read_text())[
        "variants"
    ]
    own = [options["hyperparameters"]["mixture_ratio"] for options in variants.values() if "hyperparameters" in options]
    default = yaml.safe_load(Path(config_path("ldm")).read_text())["GridNavi-v0"]["mixture_ratio"]
    trial = optuna.create_study().ask()
    suggest(trial, "ldm", ["mixture_ratio"])
    (searched,) = trial.distributions.values()
    assert isinstance(searched, optuna.distributions.FloatDistribution) and searched.step is not None
    assert np.arange(searched.low, searched.high + 1e-9, searched.step) == pytest.approx(sorted([*own, default]))


@pytest.mark.parametrize("meta_episodes", [1, 2])
@pytest.mark.parametrize(("sequences", "expected"), [(4, 4), (16, 16), (32, 16)])
def test_no_meta_episode_is_ever_cut(meta_episodes, sequences, expected):
    values = {"meta_episodes_per_rollout": meta_episodes, "sequences_per_minibatch": sequences, "beta": 1.5}
    found = to_hyperparameters(values, meta_episode_steps=120, n_envs=16, n_steps=None)
    assert found == {"beta": 1.5, "n_steps": 120 * meta_episodes, "batch_size": expected * 120 * meta_episodes}


def test_the_learning_rate_decays_and_given_rollouts_are_kept():
    assert to_hyperparameters({"learning_rate": 0.001}, 120, 16, None) == {"learning_rate": "lin_0.001"}
    assert to_hyperparameters({"sequences_per_minibatch": 8}, 120, 16, 240) == {"batch_size": 8 * 240}


def test_unknown_parameters_are_refused():
    assert check_names("ldm", None) == get_algorithm("ldm").tuned
    with pytest.raises(ValueError, match=r"tune=alpha of ldm: choose of mixture_ratio, beta"):
        check_names("ldm", ["beta", "alpha"])
    with pytest.raises(ValueError, match="tune=beta of rl2"):
        check_names("rl2", ["beta"])


def test_defaults_give_way_to_what_the_user_says():
    words, own = with_defaults(["--tune", "beta", "kl_weight", "--n-trials", "3"])
    assert own.tune == ["beta", "kl_weight"] and own.ray_address is None
    assert words[words.index("--storage") + 1] == "logs/ldm/tune/ldm_GridNavi-v0.log"
    assert words[-2:] == ["--n-trials", "3"]
    words, own = with_defaults(["--study-name", "mine", "--storage", "sqlite:///a.db"])
    assert own.tune is None and words[words.index("--storage") + 1] == "sqlite:///a.db"
    assert words[words.index("--study-name") + 1] == "mine"


# The study


def test_a_study_is_run_resumed_and_its_best_configuration_trained(tmp_path, capsys):
    study = tune(tmp_path, "--n-trials", "2", "--tune", "mixture_ratio", "sequences_per_minibatch", *PARAMS)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    assert set(study.best_params) == {"mixture_ratio", "sequences_per_minibatch"}
    assert study.user_attrs["experiment"]["env_kwargs"]["validation_tasks"] == 6
    assert -3.0 <= study.best_value <= 5.0 and len(study.trials[0].intermediate_values) >= 3
    study = tune(tmp_path, "--n-trials", "1", "--tune", "mixture_ratio", "sequences_per_minibatch", *PARAMS)
    assert len(study.trials) == 3
    assert "2 trials so far, 1 to run" in capsys.readouterr().out
    folder = study_folder(tmp_path, "ldm")
    assert {path.name for path in folder.iterdir()} >= {"trials.csv", "best.yml", "history.png"}
    [(env, best)] = yaml.safe_load((folder / "best.yml").read_text()).items()
    chosen = json.loads(study.best_trial.user_attrs["hyperparameters"])
    assert env == "GridNavi-v0" and chosen.items() <= best.items() and best["kl_weight"] == 1.0
    assert (best["n_envs"], best["vae_batch_size"], best["imagination_starts"]) == (4, 3, 0)
    options = [
        "--env-kwargs",
        "horizon:5",
        "episodes_per_task:2",
        "-n",
        "40",
        "-f",
        str(tmp_path / "logs"),
        "--eval-freq",
        "-1",
    ]
    train(["--algo", "ldm", "--env", "GridNavi-v0", "-conf", str(folder / "best.yml"), *options])
    assert (tmp_path / "logs" / "ldm" / "GridNavi-v0_1" / "final_evaluation.csv").is_file()


def test_max_total_trials_counts_what_is_there(tmp_path):
    tune(tmp_path, "--n-trials", "1", *PARAMS[:3], algo="rl2")
    study = tune(tmp_path, "--max-total-trials", "2", *PARAMS[:3], algo="rl2")
    assert len(study.trials) == 2
    assert len(tune(tmp_path, "--max-total-trials", "2", *PARAMS[:3], algo="rl2").trials) == 2


def test_a_study_is_of_one_experiment(tmp_path):
    tune(tmp_path, "--n-trials", "1", *PARAMS[:3], algo="rl2")
    with pytest.raises(ValueError, match=r"of another experiment: hyperparameters=.*'gamma': 0.5.*--study-name"):
        tune(tmp_path, "--n-trials", "1", *PARAMS[:3], "gamma:0.5", algo="rl2")
    assert len(load(tmp_path, "rl2").trials) == 1


def test_a_resumed_study_does_not_repeat_itself(tmp_path):
    for _ in range(3):
        study = tune(tmp_path, "--n-trials", "1", "--seed", "0", *PARAMS[:3], algo="rl2")
    assert len({trial.params["learning_rate"] for trial in study.trials}) == 3


def test_searches_that_begin_together_draw_other_trials(tmp_path, monkeypatch):
    """With the same seed: each looks for trials before the other has one."""
    optimize, sampled = optuna.Study.optimize, []

    def after_another(study, *args, **kwargs):
        other = optuna.load_study(study_name=study.study_name, storage=study._storage, sampler=deepcopy(study.sampler))
        sampled.append(suggest(other.ask(), "rl2", check_names("rl2", None)))
        return optimize(study, *args, **kwargs)

    monkeypatch.setattr(optuna.Study, "optimize", after_another)
    study = tune(tmp_path, "--n-trials", "1", "--seed", "0", *PARAMS[:3], algo="rl2")
    assert len(sampled) == 1
    first, second = study.trials
    assert first.params.keys() == second.params.keys() and first.params["learning_rate"] != second.params["learning_rate"]


@pytest.mark.parametrize("name", ["mine.py", "json"])
def test_a_search_starts_from_a_file_of_the_kind_that_it_writes(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text('hyperparams = {"GridNavi-v0": {"n_envs": 4}}')
    with pytest.raises(ValueError, match=rf"conf_file='{name}'.*\.yml"):
        tune(tmp_path, "-conf", name, "--n-trials", "1", *PARAMS[:3], algo="rl2")


def test_a_trial_that_fails_does_not_end_the_search(tmp_path, monkeypatch):
    def learn(self, *args, **kwargs):
        raise ValueError("not finite")

    monkeypatch.setattr(ALGORITHMS["rl2"], "learn", learn)
    with pytest.raises(ChildProcessError, match=r"2 of 2 trials failed.*trial 1: ValueError: not finite"):
        tune(tmp_path, "--n-trials", "2", *PARAMS[:3], algo="rl2")
    assert [trial.state for trial in load(tmp_path, "rl2").trials] == [TrialState.PRUNED] * 2
    assert sorted(path.name for path in study_folder(tmp_path, "rl2").iterdir()) == ["trials", "trials.csv"]


@pytest.mark.parametrize("lost", [ConnectionError("the simulator went away"), RuntimeError("out of memory")])
@pytest.mark.parametrize("n_losses", [1, 2])
def test_a_trial_whose_environment_is_lost_is_tried_once_more(tmp_path, monkeypatch, capsys, lost, n_losses):
    """From its checkpoint, with what it had; the others are run, as many as were asked for."""
    collect, losses = ALGORITHMS["rl2"].collect_rollouts, []

    def collect_or_fail(self, *args, **kwargs):
        if len(losses) < n_losses and self.num_timesteps == 80:
            losses.append(self.num_timesteps)
            raise lost
        return collect(self, *args, **kwargs)

    monkeypatch.setattr(ALGORITHMS["rl2"], "collect_rollouts", collect_or_fail)
    study = tune(tmp_path, "--n-trials", "2", "--pruner", "none", *PARAMS[:3], algo="rl2")
    first, again, *others = study.trials
    ended = TrialState.COMPLETE if n_losses == 1 else TrialState.FAIL
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, ended, *[TrialState.COMPLETE] * len(others)]
    assert again.params == first.params and len(losses) == n_losses and len(others) == 1
    trials = study_folder(tmp_path, "rl2") / "trials"
    assert re.search(r"Continuing after (4|8)0 of 120", (trials / "0" / "log.txt").read_text())
    assert not (trials / "1").exists()
    assert f"{n_losses} of 3 trials failed" in (told := capsys.readouterr().out)
    assert f"trial 0: {type(lost).__name__}: {lost}" in told
    assert not list(trials.rglob("checkpoint*"))


@pytest.mark.parametrize(
    ("words", "missing"), [(["--n-trials", "1"], "pandas"), (["--n-trials", "1", "--ray-address"], "ray")]
)
def test_what_a_search_needs_is_looked_for_before_it_begins(tmp_path, monkeypatch, words, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"sb3_ldm\[{'ray' if missing == 'ray' else 'tune'}\]"):
        tune(tmp_path, *words, *PARAMS[:3], algo="rl2")
    assert not list(tmp_path.iterdir())


def test_a_trial_is_a_run_that_keeps_its_curves_and_no_agent(tmp_path):
    study = tune(tmp_path, "--n-trials", "1", "--seed", "3", *PARAMS, algo="ldm")
    [folder] = (study_folder(tmp_path, "ldm") / "trials" / "0" / "ldm").iterdir()
    kept = {path.name for path in folder.iterdir()}
    assert (
        {"evaluations.csv", "progress.csv", "run.json"} <= kept
        and not any(folder.rglob("*.zip"))
        and not any(folder.rglob("*.pkl"))
    )
    run = load_run(folder)
    assert run.metadata["finished"] and run.metadata["frames"] == 120 and run.metadata["seed"] == 3
    table = load_evaluations(folder / "evaluations.csv")
    assert table.splits == ("validation",)
    last = table.select(episode=2)
    returns = [last.returns[last.timesteps == frames].mean() for frames in np.unique(last.timesteps)]
    assert list(study.trials[0].intermediate_values.values()) == pytest.approx(returns)
    assert study.trials[0].value == pytest.approx(returns[-1])


def test_an_interrupted_trial_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    returns = tuning.validation_returns

    def interrupt(folder):
        found = returns(folder)
        if len(found) == 3:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(tuning, "validation_returns", interrupt)
    longer = ["-n", "240", "--n-evaluations", "6"]
    study = tune(tmp_path, "--n-trials", "3", *longer, *PARAMS[:3], algo="rl2")
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    monkeypatch.setattr(tuning, "validation_returns", returns)
    study = tune(tmp_path, "--n-trials", "1", *longer, *PARAMS[:3], algo="rl2")
    log = (study_folder(tmp_path, "rl2") / "trials" / "0" / "log.txt").read_text()
    assert "Continuing after 80 of 240 steps" in log
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[1].params == study.trials[0].params
    [folder] = (study_folder(tmp_path, "rl2") / "trials" / "0" / "rl2").iterdir()  # and no other trial's
    assert load_run(folder).metadata["frames"] == 240
    assert len(study.trials[1].intermediate_values) == len(returns(folder.parent.parent)) == 6


def test_few_training_tasks_are_not_all_held_out(tmp_path):
    pytest.importorskip("mujoco")
    small = ["-n", "80", "--n-trials", "1", "-params", "n_envs:2", "batch_size:40"]
    main(["--algo", "rl2", "--env", "AntDirection-v0", "--env-kwargs", "horizon:20", "-f", str(tmp_path), *small])
    storage = open_storage(str(tmp_path / "rl2" / "tune" / "rl2_AntDirection-v0.log"))
    study = optuna.load_study(study_name="rl2_AntDirection-v0", storage=storage)
    assert study.user_attrs["experiment"]["env_kwargs"] == {"horizon": 20, "validation_tasks": 1}
    assert study.trials[0].state == TrialState.COMPLETE


def test_trials_that_are_behind_are_pruned(tmp_path, monkeypatch):
    returns = tuning.validation_returns
    monkeypatch.setattr(
        tuning, "validation_returns", lambda folder: [5.0 if folder.name == "0" else 1.0] * len(returns(folder))
    )
    study = tune(tmp_path, "--n-trials", "2", "--n-startup-trials", "1", *PARAMS[:3], algo="rl2")
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert study.best_trial.number == 0 and study.best_value == 5.0
    [folder] = (study_folder(tmp_path, "rl2") / "trials" / "1" / "rl2").iterdir()
    state = load_run(folder).metadata
    assert state["frames"] < 120 and not state["finished"] and not any(folder.rglob("*.zip"))


@pytest.mark.parametrize(("starts", "state"), [(0, TrialState.PRUNED), (60, TrialState.COMPLETE)])
def test_nothing_is_pruned_before_it_has_imagined_for_a_while(tmp_path, monkeypatch, starts, state):
    returns = tuning.validation_returns
    monkeypatch.setattr(
        tuning, "validation_returns", lambda folder: [5.0 if folder.name == "0" else 1.0] * len(returns(folder))
    )
    # Without mixture_ratio, which may be drawn to be 0: then there is nothing to wait for.
    words = ["-n", "160", "--n-evaluations", "4", "--n-trials", "2", "--n-startup-trials", "1", "--tune", "beta"]
    words += [*PARAMS[:-1], f"imagination_starts:{starts}"]
    assert [trial.state for trial in tune(tmp_path, *words).trials] == [TrialState.COMPLETE, state]


def test_the_test_tasks_are_never_touched(tmp_path, monkeypatch):
    asked = []
    original = callbacks.evaluate_meta

    def watched(model, env, split, **kwargs):
        result = original(model, env, split, **kwargs)
        asked.append((split, {tuple(task) for task in result.tasks}))
        return result

    for module in (callbacks, final_evaluation):
        monkeypatch.setattr(module, "evaluate_meta", watched)
    tune(tmp_path, "--n-trials", "1", *PARAMS[:3], algo="rl2")
    assert asked and all(split == "validation" for split, _ in asked)
    assert all(max(task) in (2, 6) for _, tasks in asked for task in tasks)  # rings of the training goals


@pytest.mark.parametrize(
    ("env_kwargs", "message"),
    [(["horizon:5"], "needs held-out training tasks"), (["validation_tasks:6", "task_split:'all'"], "leave task_split")],
)
def test_a_trial_by_itself_refuses_to_look_at_them(tmp_path, env_kwargs, message):
    words = ["--algo", "rl2", "--env", "GridNavi-v0", "-n", "40", "--eval-freq", "40", "-f", str(tmp_path), *PARAMS[:3]]
    with pytest.raises(ValueError, match=message):
        trial.main([*words, "--env-kwargs", *env_kwargs])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env-kwargs", "validation_tasks:0"], "needs held-out training tasks"),
        (["--env-kwargs", "task_split:'all'"], "leave task_split"),
        (["--eval-env-kwargs", "task_split:'test'"], "leave task_split"),
        (["--tune", "alpha"], "tune=alpha of ldm"),
        (["--n-jobs", "2"], "n_jobs=2: start the same command several times"),
        (["--n-jobs", "0", "--ray-address"], "n_jobs=0"),
        (["-params", "imagination_starts:120"], "no trial would ever imagine"),
        (["-params", "imagination_starts:0", "policy_kwargs:dict(activation_fn=dict)"], "in a file, with --conf-file"),
    ],
)
def test_what_would_look_at_them_is_refused_before_any_work(tmp_path, words, message):
    params = [] if "-params" in words else ["-params", "imagination_starts:0"]
    with pytest.raises(ValueError, match=message):
        main(["--algo", "ldm", "--env", "GridNavi-v0", "-f", str(tmp_path), "-n", "120", "--n-trials", "1", *params, *words])
    assert not list(tmp_path.rglob("*.log"))


def test_trials_of_killed_workers_do_not_count(tmp_path):
    study = optuna.create_study(storage=open_storage(str(tmp_path / "a.log")), study_name="a")
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    for process in (int(dead.stdout), os.getppid()):
        study.ask().set_user_attr("worker", [os.uname().nodename, process])
    study.ask().set_user_attr("worker", ["another machine", 1])
    study.ask()
    assert n_counted(study) == 4
    assert free_lost_trials(study) == [0]
    assert n_counted(study) == 3
    assert study.ask().user_attrs == {}  # it had not begun: it is run again from the start


def test_a_lost_trial_goes_on_with_what_it_had(tmp_path):
    """Whatever the command says now; and only once, even if two processes find it."""
    tune(tmp_path, "--n-trials", "1", "--seed", "5", *PARAMS[:3], algo="rl2")
    study = load(tmp_path, "rl2")
    lost = study.ask()
    lost.suggest_float("learning_rate", 1e-4, 3e-3, log=True)
    for name, value in {"worker": [os.uname().nodename, os.getpid()], "hyperparameters": '{"gamma": 0.5}', "seed": 77}.items():
        lost.set_user_attr(name, value)
    assert free_lost_trials(load(tmp_path, "rl2")) == [1] and free_lost_trials(study) == []
    tune(tmp_path, "--n-trials", "1", "--tune", "gamma", *PARAMS[:3], algo="rl2")
    again = load(tmp_path, "rl2").trials[-1]
    assert (again.number, again.state, again.params) == (2, TrialState.COMPLETE, lost.params)
    [folder] = (study_folder(tmp_path, "rl2") / "trials" / "1" / "rl2").iterdir()
    state = load_run(folder).metadata
    assert state["seed"] == 77 and state["hyperparameters"]["gamma"] == 0.5
    # And one that was trained to its end, but not told.
    lost = study.ask(fixed_distributions=lost.distributions)
    for name, value in {"continues": 1, "worker": [os.uname().nodename, os.getpid()]}.items():
        lost.set_user_attr(name, value)
    tune(tmp_path, "--n-trials", "1", *PARAMS[:3], algo="rl2")
    assert load(tmp_path, "rl2").trials[-1].value == again.value and len(list(folder.parent.iterdir())) == 1


def test_folders_of_another_study_are_told(tmp_path):
    tune(tmp_path, "--n-trials", "1", *PARAMS[:3], algo="rl2")
    (tmp_path / "rl2" / "tune" / "rl2_GridNavi-v0.log").unlink()
    with pytest.raises(ValueError, match="is of another study 'rl2_GridNavi-v0'"):
        tune(tmp_path, "--n-trials", "1", *PARAMS[:3], algo="rl2")


@pytest.mark.slow
def test_several_workers_share_a_study_and_one_may_be_killed(tmp_path):
    command = [sys.executable, "-m", "sb3_ldm.tune", "--algo", "rl2", "-f", str(tmp_path), *SMALL, "--max-total-trials", "6"]
    workers = [subprocess.Popen([*command, "--seed", str(i), *PARAMS[:3]], stdout=subprocess.DEVNULL) for i in range(3)]
    storage = tmp_path / "rl2" / "tune" / "rl2_GridNavi-v0.log"
    while not storage.is_file() or n_counted(load(tmp_path, "rl2")) < 1:
        assert any(worker.poll() is None for worker in workers)
    workers[0].kill()
    for worker in workers:
        worker.wait()
    assert subprocess.run([*command, *PARAMS[:3]], stdout=subprocess.DEVNULL).returncode == 0
    study = load(tmp_path, "rl2")
    states = [trial.state for trial in study.trials]
    assert 6 <= states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED) <= 8 and TrialState.RUNNING not in states
