"""Experiments as data: what they say, that they are run once, go on after a kill, and are reported as they are."""

import csv
import gzip
import json
import os
import re
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import experiment_file, imagination, report, run, tables
from benchmarks.experiment import Expectation, Experiment, Study, Training
from benchmarks.experiment_file import available_experiments, load_experiment
from benchmarks.figures import comparison, curves_against_baseline, draw_experiment, load_variants, task_table
from benchmarks.verdicts import Outcome, Verdict, judge
from sb3_ldm.env_ids import DOORS_IDS
from sb3_ldm.envs import make_meta_vec_env
from sb3_ldm.envs.locomotion import DOMAINS
from sb3_ldm.results import newest_file
from sb3_ldm.results.evaluation_table import EVALUATION_COLUMNS, EvaluationTable
from sb3_ldm.results.statistics import against_baseline, failed_seeds, iqm_interval, task_scores
from sb3_ldm.zoo.configs import config_path
from sb3_ldm.zoo.experiment import evaluation_splits

DATA = {"title": "A title", "source": "a figure", "env": "GridNavi-v0", "n_timesteps": 100, "seeds": [0, 1]}

#: Stands for training: writes what a run leaves, or a checkpoint before it waits to be killed.
SCRIPT = """
import json, sys, time
from pathlib import Path
folder, seed, frames, mode, algo = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
attempt = folder / "ldm" / "GridNavi-v0_1"
attempt.mkdir(parents=True, exist_ok=True)
resumed = "-i" in sys.argv
if mode == "fail":
    sys.exit(3)
(attempt / "checkpoint.zip").touch()
if mode == "wait" and not resumed:
    time.sleep(60)
partial = attempt / "partial_run.json"
partial.write_text(json.dumps({"algo": algo, "env": "GridNavi-v0", "seed": seed, "frames": frames,
    "episodes_per_task": 4, "resumed": resumed, "n_timesteps": frames, "env_kwargs": {}, "finished": mode != "broken"}))
partial.replace(attempt / "run.json")
(attempt / "progress.csv").touch()
(attempt / "progress_from_50.csv").touch()
(attempt / "final_evaluation.csv").write_text("timesteps,split,deterministic,task,episode,return,length,success\\n")
(attempt / "secret.zip").touch()
if mode == "crash":
    sys.exit(4)
"""


def write(folder, name="tiny", **data):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yml").write_text(yaml.safe_dump({**DATA, "variants": {"ldm": None}, **data}))
    return folder


def jobs_of(experiment: Experiment, tmp_path: Path) -> list[run.Job]:
    return run.make_jobs(experiment, tmp_path / "runs", tmp_path / "results")


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """An experiment of four runs, whose training is a script; its mode by variant."""
    modes = {}

    def command(self, folder, checkpoint=None):
        mode = modes.get(self.variant, "work")
        words = [sys.executable, "-c", SCRIPT, str(folder), str(self.seed), str(self.n_timesteps), mode, self.algo]
        return words if checkpoint is None else [*words, "-i", str(checkpoint)]

    monkeypatch.setattr(Training, "command", command)
    monkeypatch.setattr(run, "_POLL_S", 0.02)
    return load_experiment("tiny", write(tmp_path / "yml", variants={"ldm": None, "rl2": None})), modes


# What experiments say


@pytest.mark.parametrize("name", available_experiments())
def test_every_experiment_can_be_read(name):
    experiment = load_experiment(name)
    assert experiment.runs and len({one.name for one in experiment.runs}) == len(experiment.runs)
    for one in [one for one in experiment.runs if not isinstance(one, Study)]:
        defaults = yaml.safe_load(config_path(one.config).read_text())
        assert one.env in defaults or "default" in defaults
        merged = one.merged_hyperparameters()
        assert set(merged) == set(one.hyperparameters)


def test_runs_of_another_experiment_are_not_run_again(tmp_path):
    folder = write(write(tmp_path, "another"), variants={"ldm": {"experiment": "another"}, "rl2": None}, seeds=[0])
    ldm, rl2 = load_experiment("tiny", folder).runs
    assert (ldm.experiment, rl2.experiment) == ("another", "tiny")


def test_an_algorithm_is_one_line(tmp_path):
    variants = {
        "ldm": None,
        "ldm-paper": {"algo": "ldm"},
        "oracle": {"algo": "rl2", "env_kwargs": {"task_split": "all"}, "seeds": [5]},
        "small": {"algo": "ldm", "hyperparameters": {"beta": 2.0, "vae_kwargs": {"decoder_layers": [8]}}, "n_timesteps": 7},
    }
    found = load_experiment("tiny", write(tmp_path, variants=variants))
    assert found.variants == ["ldm", "ldm-paper", "small", "oracle"]
    assert [(one.variant, one.seed) for one in found.runs] == [
        *(("ldm", 0), ("ldm-paper", 0), ("small", 0)),
        *(("ldm", 1), ("ldm-paper", 1), ("small", 1)),
        ("oracle", 5),
    ]
    by_name = {one.variant: one for one in found.runs}
    assert [by_name[name].config for name in found.variants] == ["ldm", "ldm-paper", "ldm", "rl2"]
    assert by_name["small"].n_timesteps == 7 and by_name["ldm"].n_timesteps == 100
    words = by_name["oracle"].command(Path("folder"))
    assert words[words.index("--env-kwargs") + 1] == "task_split:'all'" and "--hyperparams" not in words
    merged = by_name["small"].merged_hyperparameters()
    assert merged["vae_kwargs"]["decoder_layers"] == [8] and merged["vae_kwargs"]["encoder_hidden_size"] == 64
    assert by_name["ldm"].command(Path("f"), Path("c.zip"))[-2:] == ["-i", "c.zip"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"variants": {"pearl": None}}, "algo='pearl'"),
        (
            {"variants": {"ldm": {"beta": 2.0}}},
            "ldm: Additional .* .'beta' was unexpected., use algo",
        ),
        ({"variants": {"ldm": {"config": "ldm-papers"}}}, "ldm-papers"),
        ({"variants": {"ldm-release": {"algo": "ldm", "env": "AntGoal-v0"}}}, "has no hyperparameters for AntGoal-v0"),
        ({"sees": [1]}, "sees' was unexpected., use title, source"),
        (
            {"expectations": [{"claim": "c", "split": "test", "better": "ldm", "worse": "rl3"}]},
            "'rl3' of 'c' is no variant",
        ),
        ({"expectations": [{"claim": "c", "split": "test", "better": "ldm"}]}, "either split, better, worse; or result"),
        ({"expectations": [{"claim": "c", "variant": "ldm"}]}, "or split, variant, returned; or split, variant, reached"),
        ({"variants": {"ldm": None, "map": {"algo": "imagination"}}}, "need experiments of their own"),
        ({"variants": {"map": {"algo": "imagination", "env": "AntGoal-v0"}}}, "needs env: GridNavi-v0"),
        ({"variants": {"map": {"algo": "imagination", "env_kwargs": {"horizon": 5}}}}, "without env_kwargs"),
        (
            {
                "variants": {"one": {"algo": "imagination"}, "two": {"algo": "imagination"}},
                "expectations": [{"claim": "c", "split": "test", "better": "one", "worse": "two"}],
            },
            "'c' needs result",
        ),
        (
            {
                "variants": {"one": {"algo": "imagination"}, "two": {"algo": "imagination"}},
                "expectations": [{"claim": "c", "result": "in_tests", "better": "one", "worse": "two"}],
            },
            "result='in_tests' of 'c' is not in results of 'one', use one of in_test",
        ),
        ({"expectations": [{"claim": "c", "result": "in_test", "variant": "ldm"}]}, "or result, better, worse"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        load_experiment("tiny", write(tmp_path, **data))


def test_a_missing_experiment_names_those_that_exist(tmp_path):
    with pytest.raises(ValueError, match="use one of tiny"):
        load_experiment("tny", write(tmp_path))
    (tmp_path / "tiny.yml").write_text("title: x\n")
    with pytest.raises(ValueError, match="'source' is a required property"):
        load_experiment("tiny", tmp_path)


TWO = {"ldm": None, "rl2": None}
STUDIES = {"one": {"algo": "imagination"}, "two": {"algo": "imagination"}}


def expecting(**given):
    return {"variants": TWO, "expectations": [{"claim": "c", "split": "test", **given}]}


def finding(result, **data):
    return {"variants": STUDIES, "expectations": [{"claim": "c", "result": result, "better": "one", "worse": "two"}], **data}


def of_map(algo="ldm", **given):
    return {"variants": {"map": {"algo": algo, **given}}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (expecting(split="tset", better="ldm", worse="rl2"), "split='tset' of 'c' is not in results of 'ldm', use one"),
        (expecting(split="eval", better="ldm", worse="rl2"), "'eval' of 'c' is not in results of 'ldm', use one of train"),
        (expecting(split=3, better="ldm", worse="rl2"), "expectations[0].split: 3 is not of type 'string'"),
        ({**expecting(better="ldm", worse="rl2"), "env_kwargs": {"validation_tasks": 3}}, "use one of train, validation"),
        (finding("in_test2"), "result='in_test2' of 'c' is not in results of 'one', use one of in_test, in_train"),
        (expecting(variant="ldm"), "or split, variant, returned; or split, variant, reached"),
        (expecting(variant="ldm", returned=3, reached=3), "or split, variant, returned; or split, variant, reached"),
        (expecting(better="ldm", worse="rl2", reached=3), "needs a claim and either split, better, worse; or"),
        (expecting(better="rl2", worse="rl2"), "better and worse of 'c' are both 'rl2', use two variants"),
        (expecting(variant="ldm", returned="nineteen"), "expectations[0].returned: 'nineteen' is not of type 'number'"),
        (expecting(variant="ldm", reached=-1), "expectations[0].reached: -1 is less than the minimum of 0"),
        ({**expecting(variant="ldm", reached=3), "env": "AntDirection-v0"}, "does not tell success, use returned"),
        (expecting(variant=["ldm"], returned=3), "expectations[0].variant: ['ldm'] is not of type 'string'"),
        (expecting(better="ldm", worse="rl2", paper="yes"), "expectations[0].paper: 'yes' is not of type 'boolean'"),
        (
            {"expectations": [{"split": "test", "better": "ldm", "worse": "rl2"}]},
            "'claim' is a required property",
        ),
        ({"expectations": {"claim": "c"}}, "expectations: {'claim': 'c'} is not of type 'array'"),
        ({"learned": "high"}, "learned: 'high' is not of type 'number'"),
        ({"learned": float("inf")}, "learned: inf is not of type 'number'"),
        (finding("in_test", learned=3.0), "learned=3.0 is of agents, leave it out where none is trained"),
        ({"variants": {"ldm": {"experiment": "nope"}}}, "experiment='nope' of 'ldm' does not exist, use one of other, tiny"),
        ({"variants": {"rl2": {"experiment": "other"}}}, "experiment='other' has no runs of its own of 'rl2', but of ldm"),
        ({"variants": {"mixreg": {"experiment": "other"}}}, "no runs of its own of 'mixreg', but of ldm"),
        ({"env": "GridNavy-v0"}, "'ldm': env_id='GridNavy-v0' is not registered: did you mean GridNavi-v0?"),
        ({"env": "xyz"}, "'ldm': env_id='xyz' is not registered"),
        ({"env": 3}, "env: 3 is not of type 'string'"),
        (
            of_map(hyperparameters={"larning_rate": 1}),
            "larning_rate=1 is not understood: did you mean learning_rate",
        ),
        (of_map(hyperparameters={"seed": 1}), "'map': hyperparameters of ldm: seed=1: give --seed instead"),
        (of_map("rl2", hyperparameters={"beta": 2.0}), "'map': hyperparameters of rl2: beta=2.0 is an option of ldm"),
        (of_map(hyperparameters=[1]), "variants.map.hyperparameters: [1] is not of type 'object'"),
        (
            of_map(hyperparameters={"vae_kwargs": {"layers": 1}}),
            "vae_kwargs: layers=1 is not understood: did you",
        ),
        (of_map("imagination", hyperparameters={"update": 1}), "'map': hyperparameters: update=1 is not understood: did"),
        (of_map("imagination", hyperparameters={"n_envs": 1}), "'map': hyperparameters: n_envs=1 is not understood: use"),
        (
            {"env_kwargs": {"task_splt": "all"}},
            "'ldm': env_kwargs of GridNavi-v0: task_splt='all' is not",
        ),
        ({"env_kwargs": {"task_split": "al"}}, "split='al' does not exist in GridNaviTasks, use one of train"),
        (of_map(env_kwargs={"validation_tasks": 99}), "validation_tasks=99 of 18 training tasks: use 0 to 17"),
        ({"env_kwargs": "all"}, "env_kwargs: 'all' is not of type 'object'"),
        ({"seeds": 0}, "seeds: 0 is not of type 'array', use a list of whole numbers, each once"),
        ({"seeds": [0, 0, 1]}, "seeds: [0, 0, 1] has non-unique elements, use a list"),
        ({"seeds": [-1]}, "seeds[0]: -1 is less than the minimum of 0"),
        (of_map(seeds=[0.5]), "variants.map.seeds[0]: 0.5 is not of type 'integer'"),
        (of_map(seeds=[]), "seeds: [] should be non-empty, use a list"),
        ({"n_timesteps": "lots"}, "n_timesteps: 'lots' is not of type 'integer', use a whole number"),
        ({"n_timesteps": "2e7"}, "which YAML reads as one: 2.0e+7, not 2e7"),
        (of_map(n_timesteps=0), "n_timesteps: 0 is less than the minimum of 1, use a whole number"),
        (of_map(n_timesteps=1.5), "n_timesteps: 1.5 is not of type 'integer', use a whole number"),
        ({"variants": ["ldm"]}, "variants: ['ldm'] is not of type 'object'"),
        ({"variants": {}}, "variants: {} should be non-empty"),
        ({"variants": {2: {"algo": "ldm"}}}, "variants: 2 is not of type 'string'"),
        ({"variants": {"ldm": 3}}, "variants.ldm: 3 is not of type 'object'"),
        ({"order": "first"}, "order: 'first' is not of type 'number'"),
        ({"baseline": "rl2"}, "baseline='rl2': use one of ldm"),
        ({"baseline": ["ldm"]}, "baseline: ['ldm'] is not of type 'string'"),
        ({"variants": STUDIES, "baseline": "one"}, "baseline='one' is of agents, leave it out where none is trained"),
        (
            {"variants": {"ldm": {"seeds": [1]}, "rl2": None}, "baseline": "ldm"},
            "baseline='ldm' has no seeds [0], with which others are compared",
        ),
        ({"about": 3}, "about: 3 is not of type 'string'"),
        ({"variants": {"ldm": {3: 3}}}, "variants.ldm: Additional properties are not allowed (3 was unexpected), use algo"),
        ({"seeds": None}, "seeds: None is not of type 'array'"),
    ],
)
def test_wrong_values_are_refused_with_the_file_and_what_would_be_right(tmp_path, data, message):
    folder = write(tmp_path, "other", variants={"ldm": None, "rl2": {"experiment": "third"}})
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / 'tiny.yml'))}.*{re.escape(message)}"):
        load_experiment("tiny", write(folder, **data))


def test_what_is_right_is_not_refused(tmp_path):
    given = {"n_envs": 8, "normalize": False, "batch_size": None, "vae_kwargs": {"decoder_layers": [8]}}
    robots = {"env": "AntGoal-v0", "env_kwargs": {"width": 64}}  # one of gymnasium's
    assert load_experiment("tiny", write(tmp_path, **robots, variants={"ldm": {"hyperparameters": given}})).runs
    experiment = load_experiment("tiny", write(tmp_path))
    assert len(experiment.runs) == 2 and experiment.label("ldm") == "LDM" and experiment.runs[0].env_kwargs == {}
    extrapolation = {**expecting(split="test2", better="ldm", worse="rl2"), "env": "GridNaviExtrapolation-v0"}
    assert load_experiment("tiny", write(tmp_path, **extrapolation)).expectations
    mutual = {"variants": {"ldm": None, "rl2": {"experiment": "tiny"}}}
    write(tmp_path, "other", **mutual)
    assert load_experiment("tiny", write(tmp_path, variants={"ldm": {"experiment": "other"}, "rl2": None})).runs


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    write(tmp_path)
    for text, message in (("title: [x\n", " is not YAML: "), ("", r": $: None is not of type 'object'")):
        (tmp_path / "tiny.yml").write_text(text)
        for read in (load_experiment, lambda _, folder: available_experiments(folder)):
            with pytest.raises(ValueError, match=re.escape(str(tmp_path / "tiny.yml") + message)):
                read("tiny", tmp_path)


@pytest.mark.parametrize("env_kwargs", [{}, {"validation_tasks": 2}])
@pytest.mark.parametrize("env", sorted(experiment_file.TASKS))
def test_splits_that_can_be_expected_are_those_of_the_final_evaluation(env, env_kwargs):
    if env in DOMAINS:
        pytest.importorskip("mujoco")
    one = Training("tiny", "ldm", 0, "ldm", env, 100, config="ldm", env_kwargs=env_kwargs)
    made = make_meta_vec_env(env, env_kwargs=env_kwargs)
    assert experiment_file._told_by(one) == list(evaluation_splits(made, final=True))
    made.close()


def test_nothing_is_said_of_splits_of_other_environments():
    assert experiment_file._told_by(Training("tiny", "ldm", 0, "ldm", "Mine-v0", 100)) is None
    assert set(experiment_file.TASKS) == {*imagination.ENV_IDS, *DOORS_IDS, *DOMAINS}


# Running them


def test_what_is_missing_is_run_once(scripted, tmp_path):
    experiment, _ = scripted
    assert run.run_jobs(jobs_of(experiment, tmp_path), 2) == []
    kept = tables.kept_metadata(tmp_path / "results" / "tiny")
    assert list(kept) == ["ldm_seed0", "ldm_seed1", "rl2_seed0", "rl2_seed1"]
    state = kept["ldm_seed1"]
    assert (state["frames"], state["seed"], state["resumed"]) == (100, 1, False)
    again = jobs_of(experiment, tmp_path)
    assert [job.state for job in again] == ["done"] * 4
    assert run.run_jobs(again, 1) == [] and all(job.process is None for job in again)


def test_what_another_runner_has_trained_meanwhile_is_not_trained_again(scripted, tmp_path):
    experiment, _ = scripted
    jobs, others = jobs_of(experiment, tmp_path), jobs_of(experiment, tmp_path)
    run.run_jobs(others, 4)
    run.run_jobs(jobs, 1)
    assert [job.state for job in jobs] == ["done"] * 4
    assert all(job.process is None for job in jobs)


@pytest.mark.parametrize("n_timesteps", [50, 200])
def test_results_of_another_budget_are_kept_until_they_are_deleted(scripted, tmp_path, n_timesteps):
    experiment, _ = scripted
    run.run_jobs(jobs_of(experiment, tmp_path), 4)
    other = replace(experiment, runs=[replace(one, n_timesteps=n_timesteps) for one in experiment.runs])
    jobs = jobs_of(other, tmp_path)
    assert [job.state for job in jobs] == ["changed"] * 4 and other.finished(tmp_path / "results") == []
    tables.forget_run(jobs[0].results / "tiny", jobs[0].run.name)
    jobs = jobs_of(other, tmp_path)
    assert [job.state for job in jobs] == ["waiting", *["changed"] * 3]
    run.run_jobs(jobs, 4)
    assert [job.state for job in jobs] == ["done", *["changed"] * 3]


def test_a_failed_run_stops_no_other_and_is_told(scripted, tmp_path, capsys):
    experiment, modes = scripted
    modes["rl2"] = "fail"
    jobs = jobs_of(experiment, tmp_path)
    failed = run.run_jobs(jobs, 2)
    assert [job.run.name for job in failed] == ["rl2_seed0", "rl2_seed1"]
    assert [job.state for job in jobs] == ["done", "failed", "done", "failed"]
    modes.clear()
    assert run.run_jobs(jobs_of(experiment, tmp_path), 2) == []


@pytest.mark.parametrize("mode", ["broken", "crash"])
def test_a_run_that_ended_in_its_final_evaluation_is_not_done(scripted, tmp_path, mode):
    """It leaves all files, but did not say that it was finished, or failed afterwards."""
    experiment, modes = scripted
    modes["ldm"] = mode
    failed = run.run_jobs(jobs_of(experiment, tmp_path), 4)
    assert [job.run.name for job in failed] == ["ldm_seed0", "ldm_seed1"]
    assert not any(job.run.kept(job.results) for job in failed)


def test_two_runners_do_not_run_the_same(scripted, tmp_path):
    experiment, modes = scripted
    modes["ldm"] = "wait"
    first, second = jobs_of(experiment, tmp_path)[0], jobs_of(experiment, tmp_path)[0]
    first.start()
    try:
        while not (first.folder / "ldm").exists():
            time.sleep(0.02)
        assert first.log is not None
        first.log.close()  # as if its runner had been killed: the run itself goes on
        assert run.run_jobs([second], 1) == []
        assert second.state == "elsewhere" and second.process is None
    finally:
        first.process.kill()
        first.process.wait()
    modes.clear()
    third = jobs_of(experiment, tmp_path)[0]
    assert run.run_jobs([third], 1) == [] and third.state == "done"


def test_results_of_other_settings_are_told_and_kept(scripted, tmp_path):
    experiment, modes = scripted
    run.run_jobs(jobs_of(experiment, tmp_path), 4)
    changed = replace(experiment, runs=[replace(one, env_kwargs={"observe_task": True}) for one in experiment.runs])
    assert changed.runs[0].changed_settings(changed.runs[0].kept(tmp_path / "results")) == ["env_kwargs"]
    jobs = jobs_of(changed, tmp_path)
    assert [job.state for job in jobs] == ["changed"] * 4
    run.run_jobs(jobs, 4)
    assert all(job.process is None for job in jobs)
    # Nor is a checkpoint of other settings gone on from.
    modes["ldm"] = "wait"
    other = replace(jobs[0], results=tmp_path / "elsewhere", state="waiting", run=changed.runs[0])
    assert newest_file(other.folder, run.CHECKPOINT_FILE) is not None and other.checkpoint() is None
    assert replace(other, run=experiment.runs[0]).checkpoint() is not None


def test_settings_are_compared_with_all_that_was_recorded(tmp_path):
    one = Training("e", "ldm", 0, "ldm", "GridNavi-v0", 100, {"beta": 2.0}, config="ldm")
    preset = yaml.safe_load(config_path("ldm").read_text())["GridNavi-v0"]
    state = {"algo": "ldm", "env": "GridNavi-v0", "seed": 0, "frames": 100, "episodes_per_task": 4, "n_timesteps": 100}
    for given, expected in (({"beta": 2.0}, []), ({}, ["beta"]), ({"beta": 2.0, "kl_weight": 3.0}, ["kl_weight"])):
        assert one.changed_settings({**state, "hyperparameters": {**preset, **given}}) == expected
    assert one.changed_in(tmp_path / "nothing") == []
    # Options that the preset got since then, with and without a default that is a value.
    older = {name: value for name, value in preset.items() if name not in ("imagination_starts", "vae_kwargs")}
    sizes = {f"vae_kwargs.{name}" for name in preset["vae_kwargs"] if name != "decoder_embeddings"}  # those are the default
    assert set(one.changed_settings({**state, "hyperparameters": {**older, "beta": 2.0}})) == {"imagination_starts", *sizes}
    shorter = {**state, "n_timesteps": 50, "hyperparameters": {**preset, "beta": 2.0}}
    assert one.changed_settings(shorter) == ["n_timesteps"]


def test_no_more_runs_at_a_time_than_asked_for(scripted, tmp_path, monkeypatch):
    experiment, _ = scripted
    jobs, most = jobs_of(experiment, tmp_path), []
    start = run.Job.start

    def counted(job, launch):
        start(job, launch)
        most.append(sum(one.state == "running" for one in jobs))

    monkeypatch.setattr(run.Job, "start", counted)
    run.run_jobs(jobs, 2)
    assert max(most) == 2 and len(most) == 4
    with pytest.raises(ValueError, match="jobs=0"):
        run.run_jobs(jobs, 0)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_interrupted_experiment_goes_on_from_the_checkpoints(scripted, tmp_path, number, raised):
    experiment, modes = scripted
    modes["ldm"] = "wait"
    jobs = jobs_of(experiment, tmp_path)
    # Those of LDM wait with a checkpoint, the others come to their ends.
    last_file = {"ldm": "checkpoint.zip", "rl2": "secret.zip"}
    awaited = [job.folder / "ldm" / "GridNavi-v0_1" / last_file[job.run.variant] for job in jobs]

    ended = threading.Event()

    def interrupt():
        while not all(path.exists() for path in awaited):
            if ended.wait(0.02):
                return  # too late: a signal would end the tests
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(raised), run.exit_when_terminated():
            run.run_jobs(jobs, 4)
    finally:
        ended.set()
        thread.join()
    assert all(job.process is None or job.process.poll() is not None for job in jobs)
    again = jobs_of(experiment, tmp_path)
    assert {job.run.name: job.state for job in again}["ldm_seed0"] == "waiting"
    assert run.run_jobs(again, 4) == []
    resumed = {name: state["resumed"] for name, state in tables.kept_metadata(tmp_path / "results" / "tiny").items()}
    assert resumed["ldm_seed0"] and resumed["ldm_seed1"] and not resumed["rl2_seed0"]


def test_an_earlier_attempt_with_the_present_settings_is_gone_on_with(scripted, tmp_path):
    experiment, _ = scripted
    job = jobs_of(experiment, tmp_path)[0]
    for k, n_timesteps in ((1, 100), (2, 90)):
        attempt = job.folder / "ldm" / f"GridNavi-v0_{k}"
        attempt.mkdir(parents=True)
        (attempt / run.CHECKPOINT_FILE).touch()
        state = {"algo": "ldm", "env": "GridNavi-v0", "seed": 0, "frames": 50, "episodes_per_task": 4}
        (attempt / "run.json").write_text(json.dumps({**state, "n_timesteps": n_timesteps}))
        os.utime(attempt / run.CHECKPOINT_FILE, (k, k))
    assert job.checkpoint() == job.folder / "ldm" / "GridNavi-v0_1" / run.CHECKPOINT_FILE


def test_what_was_trained_but_not_copied_is_not_trained_again(scripted, tmp_path):
    experiment, _ = scripted
    run.run_jobs(jobs_of(experiment, tmp_path), 4)
    (tmp_path / "results" / "tiny" / "runs.jsonl").unlink()
    assert [job.state for job in jobs_of(experiment, tmp_path)] == ["done"] * 4


def test_the_command_line_trains_and_draws(tmp_path, monkeypatch, capsys):
    small = {"n_envs": 4, "batch_size": 20, "policy_kwargs": {"lstm_hidden_size": 8}}
    options = {"env_kwargs": {"horizon": 5, "episodes_per_task": 2}, "seeds": [0]}
    variants = {"rl2": {"hyperparameters": small}, "goal_oracle": {"algo": "rl2", "hyperparameters": small}}
    variants["goal_oracle"] |= {"env_kwargs": {"observe_task": True}, "label": "told its goal"}
    monkeypatch.setattr(experiment_file, "FOLDER", write(tmp_path / "yml", variants=variants, **options))
    monkeypatch.setattr(load_experiment, "__defaults__", (tmp_path / "yml",))
    folders = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    run.main(["tiny", "--jobs", "2", *folders])
    told = capsys.readouterr().out
    assert "tiny/goal_oracle_seed0: running (" in told and ": done (2 of 2 done)" in told
    experiment = load_experiment("tiny")
    assert len(experiment.finished(tmp_path / "results")) == 2
    (tmp_path / "figures" / "tiny").mkdir(parents=True)
    (tmp_path / "figures" / "tiny" / "trajectory_99.png").touch()
    written = draw_experiment(experiment, tmp_path / "results", tmp_path / "figures")
    assert set(written) == set((tmp_path / "figures" / "tiny").iterdir()), "figures of earlier results are removed"
    assert "| told its goal | 1 |" in (tmp_path / "figures" / "tiny" / "summary.md").read_text()
    assert {"comparison.png", "per_task.md", "summary.md"} <= {path.name for path in written}
    with pytest.raises(ValueError, match=r"variants=\['ldm'\].* there are variants \['goal_oracle', 'rl2'\]"):
        run.main(["tiny", "--variants", "ldm", *folders])
    with pytest.raises(ValueError, match=r"seeds=\[7\].* there are seeds \[0\]"):
        run.main(["tiny", "--seeds", "7", *folders])
    write(tmp_path / "yml", variants=variants, **{**options, "n_timesteps": 10_000})
    run.main(["tiny", *folders])
    told = " ".join(capsys.readouterr().out.split())
    assert "has results of other settings (n_timesteps)" in told and "benchmarks.tables tiny rl2_seed0 --forget" in told
    with pytest.raises(ValueError, match="does not exist"):
        run.main(["tny", *folders])


def test_the_most_valuable_experiments_come_first_and_shared_runs_once(tmp_path, monkeypatch, capsys):
    folder = write(tmp_path / "yml", name="b", order=1, seeds=[0])
    write(folder, name="c", order=2, seeds=[0], variants={"ldm": {"experiment": "b"}, "rl2": None})
    write(folder, name="a", seeds=[0], variants={"rl2": None})
    assert available_experiments(folder) == ["b", "c", "a"]
    for function in (available_experiments, load_experiment):
        monkeypatch.setattr(function, "__defaults__", (folder,))
    run.main(["all", "--variants", "ldm", "--status", "--runs", str(tmp_path), "--results", str(tmp_path)])
    told = capsys.readouterr().out
    assert told.count("b/ldm_seed0") == 1 and "rl2" not in told


def test_variants_may_be_those_of_some_of_the_experiments(tmp_path, monkeypatch, capsys):
    folder = write(tmp_path / "yml", name="b", seeds=[0])
    write(folder, name="a", seeds=[0], variants={"rl2": None, "mixreg": None})
    for function in (available_experiments, load_experiment):
        monkeypatch.setattr(function, "__defaults__", (folder,))
    folders = ["--status", "--runs", str(tmp_path), "--results", str(tmp_path)]
    run.main(["b", "a", "--variants", "ldm", "rl2", *folders])
    told = capsys.readouterr().out
    assert "b/ldm_seed0" in told and "a/rl2_seed0" in told and "mixreg" not in told
    for experiments in (["b", "a"], ["all"]):
        with pytest.raises(ValueError, match=r"variants=\['varibad'\]: .* there are .*'ldm'"):
            run.main([*experiments, "--variants", "ldm", "varibad", *folders])


# Reporting them


def made_up_run(folder: Path, seed: int, returns, variant="ldm", env="GridNavi-v0", reached=None) -> None:
    """A finished run with given returns in the last of two episodes on three train and three test tasks."""
    path = folder.parent / f"{folder.name}_raw" / f"{variant}_seed{seed}"
    path.mkdir(parents=True)
    state = {"algo": "rl2" if variant == "rl2" else "ldm", "env": env, "seed": seed, "frames": 100, "episodes_per_task": 2}
    (path / "run.json").write_text(json.dumps({**state, "hyperparameters": {}, "wall_time_s": 120.0}))
    with open(path / "final_evaluation.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(EVALUATION_COLUMNS)
        for split, offset in (("train", 0), ("test", 3)):
            for i in range(3):
                for episode in (1, 2):
                    value = returns[split] + 0.1 * i if episode == 2 else -3.0
                    solved = "" if reached is None else int(i < reached)
                    writer.writerow([100, split, 0, f"{offset + i} 6", episode, value, 30, solved])
    tables.keep_run(path, folder / "tiny", path.name)


@pytest.fixture
def made_up(tmp_path):
    for seed in (0, 1, 2):
        made_up_run(tmp_path / "results", seed, {"train": 20.0 + seed, "test": 10.0 + 0.1 * seed}, reached=2)
        made_up_run(tmp_path / "results", seed, {"train": 22.0, "test": 5.0 + 3.0 * seed}, "rl2", reached=1)
    variants = {"ldm": None, "rl2": None, "mixreg": None}
    experiment = load_experiment("tiny", write(tmp_path / "yml", variants=variants, seeds=[0, 1, 2], learned=21.0))
    return experiment, load_variants(experiment, tmp_path / "results")


def test_the_interquartile_mean_leaves_extreme_seeds_out_and_no_task():
    scores = np.array([[-100.0], [1.0], [2.0], [100.0]]) + np.array([[0.0, 2.0]])
    assert iqm_interval(scores).point == 2.5
    same = np.array([[0.0, 3.0], [0.0, 3.0]])
    interval = iqm_interval(same)
    assert interval.point == interval.low == interval.high == 1.5
    assert interval.text() == "1.50 [1.50, 1.50]"
    assert iqm_interval(same[:1]).text(1) == "1.5"


def test_the_luck_of_a_seed_is_not_averaged_away_over_tasks():
    """What all tasks of a seed have in common is as wide in the interval with 100 tasks as with one."""
    luck = np.random.default_rng(0).normal(size=(8, 1))
    one, many = iqm_interval(luck), iqm_interval(np.tile(luck, (1, 100)))
    assert many.high - many.low == pytest.approx(one.high - one.low) and one.high - one.low > 0.5


def test_intervals_are_reproducible_and_leave_the_random_state_alone():
    scores = np.random.default_rng(0).normal(size=(11, 3))
    state = np.random.get_state()[1].copy()
    one, two, other = iqm_interval(scores), iqm_interval(scores), iqm_interval(scores, seed=1)
    assert one == two and one != other
    assert one.low < one.point < one.high
    np.testing.assert_array_equal(state, np.random.get_state()[1])
    assert iqm_interval(scores + 10).above(one) and not one.above(one)


def test_scores_are_by_seed_and_task(made_up, tmp_path):
    _, variants = made_up
    scores = task_scores(variants["ldm"], "test", 2)
    np.testing.assert_allclose(scores, [[10.0, 10.1, 10.2], [10.1, 10.2, 10.3], [10.2, 10.3, 10.4]])
    assert (task_scores(variants["ldm"], "test", 1) == -3.0).all()
    made_up_run(tmp_path / "other", 0, {"train": 0.0, "test": 0.0})
    path = tmp_path / "other" / "tiny" / "final.csv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b",5 6,", b",5 5,")))
    moved = load_variants(load_experiment("tiny", write(tmp_path / "yml2", seeds=[0])), tmp_path / "other")
    with pytest.raises(ValueError, match="different tasks"):
        task_scores([variants["ldm"][0], moved["ldm"][0]], "test", 2)


@pytest.mark.parametrize(
    ("given", "outcome", "verdict"),
    [
        (
            {"split": "test", "variant": "ldm", "reached": 2},
            Outcome.HOLDS,
            "as expected: 2.00 [2.00, 2.00], at least 2 expected",
        ),
        ({"split": "test", "variant": "ldm", "reached": 2.5}, Outcome.FAILS, "NOT as expected: 2.00 [2.00, 2.00]"),
        ({"split": "test", "variant": "ldm", "reached": 2.5, "paper": True}, Outcome.FAILS, "DISAGREES with the paper: 2.00"),
        ({"split": "train", "variant": "rl2", "returned": 22.0}, Outcome.HOLDS, "as expected: 22.10 [22.10, 22.10]"),
        (
            {"split": "test", "variant": "rl2", "returned": 8.0},
            Outcome.OPEN,
            "undecided, seeds differ: 8.10 [5.10, 11.10], at least 8 expected",
        ),
        ({"split": "test", "better": "ldm", "worse": "rl2"}, Outcome.OPEN, "undecided, the intervals overlap: 10.20"),
        (
            {"split": "train", "better": "rl2", "worse": "ldm"},
            Outcome.OPEN,
            "undecided, the intervals overlap: 22.10 [22.10, 22.10]",
        ),
        ({"split": "test", "better": "ldm", "worse": "mixreg"}, Outcome.NOT_RUN, "not run yet: mixreg"),
    ],
)
def test_expectations_are_judged_by_the_intervals(made_up, given, outcome, verdict):
    judged = judge(Expectation("claim", **given), made_up[1])
    assert judged.outcome is outcome and judged.text.startswith(verdict)


def test_two_seeds_tell_little_one_decides_nothing(made_up):
    _, variants = made_up
    raised = [
        replace(one, final_evaluation=replace(one.final_evaluation, returns=one.final_evaluation.returns + 50))
        for one in variants["ldm"]
    ]
    both = {"ldm": raised, "rl2": variants["rl2"]}
    better = Expectation("claim", "test", better="ldm", worse="rl2")
    assert judge(better, both).text.startswith("as expected: 60.20 [")
    assert judge(replace(better, better="rl2", worse="ldm"), both).text.startswith("NOT as expected: ")
    two_seeds = {name: members[:2] for name, members in both.items()}
    assert judge(better, two_seeds).text.startswith("as expected, but 2 seeds tell little")

    one_seed = {**both, "ldm": raised[:1]}
    verdict = judge(better, one_seed)
    assert verdict.outcome is Outcome.OPEN and verdict.text.startswith("undecided, 1 against 3 seeds: 60.10 (ldm) against")
    one_each = {name: members[:1] for name, members in both.items()}
    assert judge(better, one_each).text.startswith("undecided, one seed each: 60.10 (ldm) against 5.10 (rl2)")
    for least, told in ((60.0, "which has done so: 60.10, at least 60"), (61.0, "which has not done so: 60.10")):
        verdict = judge(Expectation("claim", "test", variant="ldm", returned=least, paper=True), one_seed)
        assert verdict.outcome is Outcome.OPEN and verdict.text.startswith(f"undecided, one seed, {told}")


def test_agents_that_have_not_learned_are_not_compared(made_up):
    """Of the seeds with more than 21 there are some of both; with more than 100 there is none."""
    better = Expectation("claim", "test", better="ldm", worse="rl2")
    verdict = judge(better, made_up[1], learned=21.0).text
    assert verdict.startswith("undecided") and verdict.endswith(
        "; 1 of 3 (ldm) and 0 of 3 (rl2) seeds had not learned the training tasks"
    )
    assert judge(better, made_up[1], learned=20.0).text.count("had not learned") == 0
    assert judge(better, made_up[1], learned=100.0).text.startswith("not to be judged, for neither has learned")
    alone = Expectation("claim", "train", variant="rl2", returned=22.0)
    assert judge(alone, made_up[1], learned=100.0).text.startswith("as expected")


def test_the_overview_counts_what_became_of_expectations(made_up):
    experiment, variants = made_up
    experiment = replace(experiment, title="The paper's (own) choice")
    outcomes = {Outcome.HOLDS: True, Outcome.FAILS: True, Outcome.OPEN: False, Outcome.NOT_RUN: True}
    claims = [Expectation("claim", "train", variant="ldm", paper=paper) for paper in (*outcomes.values(), False, False)]
    verdicts = [Verdict(outcome, "") for outcome in (*outcomes, Outcome.HOLDS, Outcome.HOLDS)]
    experiment = replace(experiment, expectations=claims)
    text = report.overview([experiment], {experiment.name: variants}, {experiment.name: verdicts})
    row = "| [The paper's (own) choice](#the-papers-own-choice) | 6 of 9 | 0.2 | 1 | 1 | 0 | 2 | 0 | 1 | 1 |"
    titles = "| the paper's claims: hold | do not hold | undecided | ours: hold | do not hold | undecided | not run yet |"
    assert titles in text and row in text


def test_runs_of_uncommitted_code_are_told(made_up, tmp_path):
    experiment, variants = made_up
    assert "not committed" not in report.section(experiment, variants, [], tmp_path, tmp_path / "page.md")
    dirty = replace(variants["ldm"][1], metadata={**variants["ldm"][1].metadata, "commit": "0123abcd-dirty"})
    text = report.section(experiment, {**variants, "ldm": [dirty]}, [], tmp_path, tmp_path / "page.md")
    assert "Trained with changes that were not committed: ldm_seed1." in text
    continued = replace(dirty, metadata={**dirty.metadata, "commit": "4567abcd", "commits_before": ["0123abcd-dirty"]})
    text = report.section(experiment, {**variants, "ldm": [continued]}, [], tmp_path, tmp_path / "page.md")
    assert "Trained with changes that were not committed: ldm_seed1." in text


def test_the_page_tells_failed_seeds_and_what_was_not_run(made_up, tmp_path):
    experiment, variants = made_up
    (tmp_path / "per_task.md").touch()
    assert failed_seeds(variants["ldm"], 21.0) == [0] and failed_seeds(variants["ldm"], None) == []
    text = report.section(experiment, variants, report.judged(experiment, variants), tmp_path, tmp_path / "RESULTS.md")
    assert "| LDM | 3 (training return below 21: 0) | 21.10" in text and "2.0 ± 0.0" in text
    assert "| LDM | -3.00 [-3.00, -3.00] | -3.00 [-3.00, -3.00] | 100 | 2 ± 0 |" in text and "minus" not in text
    assert "More numbers: [every task](per_task.md); [all figures](.)." in text
    assert "Without results so far (not run, or not to the end): mixreg_seed0, mixreg_seed1, mixreg_seed2." in text
    named = replace(experiment, labels={"ldm": "LDM with a name"})
    assert "| LDM with a name | 3 (" in report.section(named, variants, [], tmp_path, tmp_path / "RESULTS.md")
    assert comparison(named, variants).axes[0].get_yticklabels()[0].get_text() == "LDM with a name (3)"
    table = task_table(experiment, variants, "test", 2)
    assert "| 3, 6 | 10.10 | 8.00 |" in table
    assert len(comparison(experiment, variants).axes) == 2
    assert not any("nothing" in figure.get_suptitle() for figure in [comparison(experiment, variants)])


def test_ablations_are_told_beside_the_same_seeds_of_their_baseline(made_up, tmp_path):
    experiment, variants = made_up
    shorter = {**variants, "rl2": variants["rl2"][1:]}
    for members, baseline, sign in ((shorter["rl2"], variants["ldm"], 1), (variants["ldm"], shorter["rl2"], -1)):
        differences = against_baseline(members, baseline, "test")
        assert [one.seed for one in differences] == [1, 2] and not any(one.began_alike for one in differences)
        np.testing.assert_allclose([sign * one.more for one in differences], [8.0 - 10.1, 11.0 - 10.2])
    ablations = replace(experiment, baseline="ldm")
    text = report.variants_tables(ablations, shorter)
    assert "| unseen return minus that of LDM, by seed |" in text and "| 1: -2.10*, 2: +0.80* |" in text
    lacking = report.variants_tables(ablations, {"rl2": variants["rl2"]})
    assert "minus" not in lacking, "the baseline was not run"
    for name in ("against_baseline.png", "learning_curves.png"):
        (tmp_path / name).touch()
    pages = [report.section(one, shorter, [], tmp_path, tmp_path / "page.md") for one in (experiment, ablations)]
    assert ["(learning_curves.png)" in page for page in pages] == [True, False]
    assert ["(against_baseline.png)" in page for page in pages] == [False, True]


def trained(run, *returns, every=50):
    """The run with these returns in its evaluations, after 0, 50, 100, ... frames, on two unseen tasks."""
    steps = np.repeat(every * np.arange(len(returns)), 2)
    one = np.ones(len(steps))
    table = EvaluationTable(
        path=run.path,
        timesteps=steps,
        split=np.full(len(steps), "test"),
        deterministic=one < 0,
        tasks=np.tile([[3.0, 6.0], [4.0, 6.0]], (len(returns), 1)),
        episode=2 * one,
        returns=np.repeat(np.array(returns, dtype=float), 2),
        lengths=30 * one,
        successes=np.nan * one,
    )
    return replace(run, evaluations=table)


def test_runs_that_began_otherwise_than_the_baseline_are_no_pairs(made_up):
    _, variants = made_up
    (run, *_), (other, *_) = variants["ldm"], variants["rl2"]
    baseline = [trained(other, -3, 1, 2, 9, every=5)]  # of 100 frames the first tenth is the first three evaluations
    alike = {
        (-3, 1, 2, 5): True,  # until its option takes effect
        (-3, 1, 2): True,
        (-3, 1, 3, 9): False,
        (-3, 1): False,
        (-3,): False,
    }
    for returns, expected in alike.items():
        (difference,) = against_baseline([trained(run, *returns, every=5)], baseline, "test")
        assert difference.began_alike is expected, returns
    (seldom,) = against_baseline([trained(run, -3, 1, every=50)], [trained(other, -3, 1, every=50)], "test")
    assert not seldom.began_alike, "one evaluation, before training, tells nothing"


def test_curves_of_ablations_are_drawn_over_those_of_the_same_seeds(made_up):
    experiment, variants = made_up
    ldm = [trained(run, 0, 50 * run.seed, 100 * run.seed) for run in variants["ldm"]]
    rl2 = [trained(run, 0, 250, 500 * run.seed) for run in variants["rl2"]]
    ablations = replace(experiment, baseline="ldm")
    figure = curves_against_baseline(ablations, {"ldm": ldm, "rl2": rl2[2:], "mixreg": ldm[:2]})
    assert figure is not None
    panels = [axis for axis in figure.axes if axis.lines]
    assert [panel.get_title(loc="left") for panel in panels] == ["RL² (1)", "Mixreg (2)"]
    # The last points: of seed 2 against the baseline's, and of seeds 0 and 1 against theirs.
    assert [[line.get_ydata()[-1] for line in panel.lines] for panel in panels] == [[200.0, 1000.0], [50.0, 50.0]]
    more = curves_against_baseline(ablations, {"ldm": ldm[1:2], "rl2": rl2})
    assert more is not None and [line.get_ydata()[-1] for line in more.axes[0].lines] == [100.0, 500.0], "seed 1 alone"
    assert more.axes[0].get_title(loc="left") == "RL² (1)"
    assert curves_against_baseline(ablations, variants) is None, "evaluated at the end alone"


def test_comparisons_of_robots_show_what_standing_still_returns(tmp_path):
    made_up_run(tmp_path / "results", 0, {"train": -50.0, "test": -60.0}, env="HalfCheetahVelocity-v0")
    path = tmp_path / "results" / "tiny" / "final.csv.gz"
    renamed = re.sub(
        r",test,0,(\d) 6,", lambda row: f",eval,0,{1.0 + 0.01 * int(row[1])},", gzip.decompress(path.read_bytes()).decode()
    )
    renamed = re.sub(r",train,0,(\d) 6,", lambda row: f",train,0,{0.1 + 0.01 * int(row[1])},", renamed)
    path.write_bytes(gzip.compress(renamed.encode()))
    experiment = load_experiment("tiny", write(tmp_path / "yml", env="HalfCheetahVelocity-v0", seeds=[0]))
    figure = comparison(experiment, load_variants(experiment, tmp_path / "results"))
    assert "dashed: doing nothing" in figure.get_suptitle()
    told = [[line.get_xdata() for line in axis.lines if line.get_linestyle() == "--"] for axis in figure.axes]
    # A velocity v costs v in each of 200 steps.
    np.testing.assert_allclose([lines[0][0] for lines in told], [-200 * 0.11, -200 * 1.04])


def test_cost_is_the_processor_s_time_where_it_was_counted():
    assert report.core_hours({}) == 0.0
    assert report.core_hours({"wall_time_s": 3600.0}) == 1.0
    assert report.core_hours({"wall_time_s": 3600.0, "threads": 2}) == 2.0
    assert report.core_hours({"wall_time_s": 7200.0, "threads": 2, "cpu_time_s": 1800.0}) == 0.5


def test_the_budget_is_that_of_an_experiment_s_own_runs(made_up):
    experiment, variants = made_up
    own = [replace(one, experiment="another") if one.variant == "rl2" else one for one in experiment.runs]
    for one, told in ((experiment, "0.2"), (replace(experiment, runs=own), "0.1")):
        assert f"| 6 of 9 | {told} |" in report.overview([one], {"tiny": variants}, {"tiny": []})


def test_runs_of_another_experiment_alone_are_no_results(made_up, tmp_path):
    experiment, variants = made_up
    borrowed = replace(experiment, name="other")
    assert report.has_own_results(experiment, variants) and not report.has_own_results(borrowed, variants)
    assert "Not run yet: `python -m benchmarks.run other`" in report.section(
        borrowed, variants, [], tmp_path, tmp_path / "page.md"
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """An experiment on imagination, and the folder of the results of its first run."""
    tmp_path = tmp_path_factory.mktemp("study")
    options = {"updates": 3, "maps": 4, "n_partners": 3, "encoder_embeddings": [8, 0, 4], "n_elbo_terms": 4}
    variants = {
        "with_dropout": {"algo": "imagination", "label": "with dropout", "hyperparameters": {**options, "dropout_rate": 0.7}},
        "without_dropout": {"algo": "imagination", "hyperparameters": {**options, "dropout_rate": 0.0}},
    }
    expectations = [{"claim": "c", "result": "in_test", "better": "with_dropout", "worse": "without_dropout"}]
    folder = write(tmp_path / "yml", variants=variants, expectations=expectations, n_timesteps=7680)
    experiment = load_experiment("tiny", folder)
    job = run.make_jobs(experiment, tmp_path / "runs", tmp_path / "results")[0]
    imagination.main(job.run.command(job.folder)[3:])
    run.make_jobs(experiment, tmp_path / "runs", tmp_path / "results")
    return experiment, tmp_path / "results"


def test_what_mixtures_imagine_is_an_experiment(study, tmp_path):
    experiment, results = study
    assert experiment.is_study and all(isinstance(one, Study) for one in experiment.runs)
    states = [job.state for job in run.make_jobs(experiment, tmp_path / "runs", results)]
    assert states == ["done", "waiting", "waiting", "waiting"]
    variants = load_variants(experiment, results)
    (found,) = variants["with_dropout"]
    assert found.reward_maps is not None and len(found.reward_maps.maps) == 4
    assert {"in_test", "own_task_right", "unseen_task_right"} <= set(found.metadata["result"])
    assert [path.name for path in draw_experiment(experiment, results, tmp_path)] == ["reward_maps.png"]
    text = report.section(
        experiment, variants, report.judged(experiment, variants), tmp_path / "tiny", tmp_path / "page.md", results
    )
    assert "| with dropout | 1 | 3 |" in text and "(tiny/reward_maps.png)" in text
    assert "c: not run yet: without_dropout" in text


def test_studies_with_other_options_are_told(study, tmp_path):
    experiment, results = study
    first = experiment.runs[0]
    kept = first.kept(results)
    assert kept is not None and first.changed_settings(kept) == []
    other = replace(first, hyperparameters={**first.hyperparameters, "updates": 4, "dropout_rate": 0.5})
    assert other.changed_settings(kept) == ["dropout_rate", "updates"]
    assert replace(first, n_timesteps=10**6).kept(results), "but changed"
    assert replace(first, n_timesteps=1000).changed_settings(kept) == ["n_timesteps"]
    changed = replace(experiment, runs=[other, *experiment.runs[1:]])
    text = report.section(changed, {}, [], tmp_path, tmp_path / "page.md", results)
    assert "other settings than it has now (dropout_rate, updates)." in text and "Not run yet" not in text


def test_what_studies_found_is_compared(study, tmp_path):
    experiment, results = study
    (found,) = load_variants(experiment, results)["with_dropout"]

    def studies(*shares):
        return [replace(found, metadata={**found.metadata, "seed": i, "result": {"in_test": x}}) for i, x in enumerate(shares)]

    (expectation,) = experiment.expectations
    judged = [
        judge(expectation, {"with_dropout": studies(*better), "without_dropout": studies(0.1, 0.12, 0.2)})
        for better in ((0.5, 0.4, 0.6), (0.01, 0.02, 0.03), (0.15, 0.16, 0.3))
    ]
    assert [verdict.text.split(":")[0] for verdict in judged] == [
        "as expected",
        "NOT as expected",
        "undecided, the intervals overlap",
    ]


def test_figures_of_results_that_are_no_more_are_removed(tmp_path, monkeypatch):
    folder = write(tmp_path / "yml", name="a", seeds=[0], variants={"rl2": None})
    for function in (available_experiments, load_experiment):
        monkeypatch.setattr(function, "__defaults__", (folder,))
    figures = tmp_path / "figures"
    (figures / "a").mkdir(parents=True)
    for name in ("curves.png", "summary.md", "notes.txt"):
        (figures / "a" / name).touch()
    for draw, n_left in ((False, 3), (True, 1)):
        page = report.results_page(tmp_path / "results", figures, tmp_path / "RESULTS.md", draw)
        assert "Not run yet" in page and len(list((figures / "a").iterdir())) == n_left


def test_the_committed_page_is_that_of_the_committed_results():
    page = report.PAGE.read_text(encoding="utf-8")
    assert page == report.results_page(draw=False)
