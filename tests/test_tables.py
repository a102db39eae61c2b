"""Results as tables: that they say what the runs' own files say, to the last digit."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tables
from sb3_ldm.results import RunResult, load_run
from sb3_ldm.results.evaluation_table import EVALUATION_COLUMNS

GOALS = ("0 6", "1 6", "0.1 0.2")


@pytest.fixture
def run(tmp_path: Path) -> RunResult:
    """A run of two episodes, evaluated twice during training and ten times in the end."""
    rng, folder = np.random.default_rng(0), tmp_path / "run"
    folder.mkdir()
    for file, times, repeats in (("evaluations.csv", (50, 100), 1), ("final_evaluation.csv", (100,), 10)):
        tasks = [(t, split, goal) for t in times for _ in range(repeats) for split in ("train", "test") for goal in GOALS]
        rows = [
            [t, split, 0, goal, episode, f"{rng.normal():.6g}", 30, rng.integers(2)]
            for t, split, goal in tasks
            for episode in (1, 2)
        ]
        if repeats > 1:  # a part of the test tasks, that evaluations during training do not tell apart
            rows += [[row[0], "test1", *row[2:]] for row in rows if row[1] == "test" and row[3] != GOALS[0]]
        with open(folder / file, "w", newline="") as opened:
            csv.writer(opened).writerows([EVALUATION_COLUMNS, *rows])
    (folder / "progress.csv").write_text("time/total_timesteps,imagination/return_2,train/loss\n10,,1\n20,1.2345678,2\n")
    state = {"algo": "ldm", "env": "GridNavi-v0", "seed": 3, "frames": 100, "episodes_per_task": 2}
    (folder / "run.json").write_text(json.dumps(state))
    np.savez(folder / "reward_maps.npz", weights=np.eye(9), tasks=np.ones((9, 2)), maps=np.eye(9, 49).reshape(9, 7, 7))
    return load_run(folder)


def test_means_are_those_of_the_run_to_the_last_digit(run: RunResult, tmp_path: Path) -> None:
    tables.keep_run(run.path, tmp_path / "kept", "ldm_seed3")
    kept = tables.load_results(tmp_path / "kept")["ldm_seed3"]
    assert {**run.metadata, "longest_episode": 30}.items() <= kept.metadata.items()
    assert run.final_evaluation and kept.final_evaluation and run.evaluations and kept.evaluations
    assert kept.metadata["returned"]["test"] == run.final_evaluation.select("test", False, 2).returns.mean()
    for episode, split in ((1, "train"), (2, "train"), (1, "test"), (2, "test"), (1, "test1"), (2, "test1")):
        mine, theirs = (one.select(split, False, episode) for one in (run.final_evaluation, kept.final_evaluation))
        for found, expected in zip(theirs.per_task(theirs.returns), mine.per_task(mine.returns), strict=True):
            np.testing.assert_array_equal(found, expected)
        assert theirs.n_reached == mine.n_reached and len(mine) == len(theirs)
        mine = run.evaluations.select(split.replace("1", ""), False, episode)
        if split == "test1":
            mine = mine.where((mine.tasks != [0.0, 6.0]).any(1))
        theirs = kept.evaluations.select(split, False, episode)
        for quantity in ("returns", "successes"):
            for found, expected in zip(*(one.over_time(getattr(one, quantity)) for one in (theirs, mine)), strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert [values.tolist() for values in kept.logged("imagination/return_2")] == [[20.0], [1.2346]]
    assert list(kept.progress) == ["time/total_timesteps", "imagination/return_2"]
    assert run.reward_maps and kept.reward_maps and len(kept.reward_maps.maps) == 6
    np.testing.assert_array_equal(kept.reward_maps.peaks(), run.reward_maps.peaks())


def test_a_new_run_changes_no_line_of_others(run: RunResult, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    tables.keep_run(run.path, kept, "ldm_seed3")

    def texts() -> dict[str, bytes]:
        found = {path.name: path.read_bytes() for path in kept.iterdir() if path.suffix != ".npz"}
        return {name: gzip.decompress(read) if name.endswith(".gz") else read for name, read in found.items()}

    before, written = texts(), (kept / tables.FINAL_FILE).read_bytes()
    for name in ("rl2_seed0", "a_seed7", "rl2_seed0"):
        tables.keep_run(run.path, kept, name)
    assert all({*text.splitlines()} <= {*texts()[file].splitlines()} for file, text in before.items())
    assert list(tables.load_results(kept)) == ["a_seed7", "ldm_seed3", "rl2_seed0"]
    for name in ("rl2_seed0", "a_seed7"):
        tables.main(["kept", name, "--forget", "--results", str(tmp_path)])
    assert texts() == before and (kept / tables.FINAL_FILE).read_bytes() == written, "the same rows are the same file"


def test_recordings_are_those_of_the_first_seed(run: RunResult, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for seed in (3, 1, 2):
        (run.path / "run.json").write_text(json.dumps({**run.metadata, "seed": seed}))
        tables.keep_run(run.path, kept, f"ldm_seed{seed}")
    assert [path.name for path in kept.glob("*.npz")] == ["ldm_seed1_reward_maps.npz"]


def test_mistakes_are_told(run: RunResult, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no run 'ldm_seed9', but none"):
        tables.main(["kept", "ldm_seed9", "--forget", "--results", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        tables.main(["kept", "ldm_seed9", str(tmp_path / "nowhere"), "--results", str(tmp_path)])
    assert not (tmp_path / "kept").exists()
    for words in (["kept", "ldm_seed3"], ["kept", "ldm_seed3", str(run.path), "--forget"]):
        with pytest.raises(SystemExit, match="2"):
            tables.main(words)
    tables.main(["kept", "ldm_seed3", str(run.path), "--results", str(tmp_path)])
    assert "ldm_seed3" in tables.kept_metadata(tmp_path / "kept")


def test_of_ablations_nothing_is_kept_that_is_only_drawn(run: RunResult, tmp_path: Path) -> None:
    tables.keep_run(run.path, tmp_path / "kept", "ldm_seed3", recordings=False)
    assert "ldm_seed3" in tables.kept_metadata(tmp_path / "kept") and not list((tmp_path / "kept").glob("*.npz"))
