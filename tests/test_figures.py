"""Figures and the summary table, from run folders with made-up results."""

import csv
import json
import warnings
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import warns_here
from matplotlib.figure import Figure

from sb3_ldm.envs import gridworld
from sb3_ldm.envs.locomotion import DOMAINS
from sb3_ldm.figures import draw_figures
from sb3_ldm.figures.__main__ import main
from sb3_ldm.figures.curves import _imagined, average_curves, imagination, learning_curves, smoothing_window
from sb3_ldm.figures.draw import _known_tasks
from sb3_ldm.figures.grid import _cell_means, _keep_right, return_map
from sb3_ldm.figures.locomotion import paths as draw_paths
from sb3_ldm.figures.locomotion import velocities
from sb3_ldm.figures.plan import Plan, evaluations_of
from sb3_ldm.registry import display_name
from sb3_ldm.results import group_runs, load_paths, load_run
from sb3_ldm.results.evaluation_table import EVALUATION_COLUMNS
from sb3_ldm.results.summary import format_timesteps, summary_table

TASKS = gridworld.grid_navi_tasks()
EXTRAPOLATION = "GridNaviExtrapolation-v0"
N_EPISODES = 4
PNG = b"\x89PNG"


def write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values))


def write_csv(path: Path, header, rows) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def make_run(
    folder: Path,
    algo: str = "ldm",
    seed: int = 0,
    env: str = "GridNavi-v0",
    skill: float = 0.6,
    n_evaluations: int = 3,
    both_actions: bool = False,
    **metadata,
) -> Path:
    """A run folder: ``skill`` is the share of unseen goals that the agent finds at the end."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, len(algo), int(100 * skill)])
    values = {"algo": algo, "env": env, "seed": seed, "frames": 10_000_000, "episodes_per_task": N_EPISODES}
    write_json(folder / "run.json", {**values, "commit": "0000000", "hyperparameters": {"beta": 1.0}, **metadata})
    tasks = gridworld.grid_navi_extrapolation_tasks() if env == EXTRAPOLATION else TASKS
    easy = rng.random((gridworld.SIZE, gridworld.SIZE)) + np.arange(gridworld.SIZE) / 20
    rows = []
    for step in np.linspace(0, 1e7, n_evaluations + 1)[1:]:
        progress = 1 / (1 + np.exp(-8 * (step / 1e7 - 0.35)))
        last = step == 1e7
        for split in ("train", "test"):
            for deterministic in (0, 1) if both_actions and last else (0,):
                for x, y in tasks.tasks(split):
                    for episode in range(1, N_EPISODES + 1):
                        share = progress * (1.0 if split == "train" else skill) * (0.35 + 0.65 * min(1, episode / 2))
                        found = share > 0.9 * easy[x, y] + 0.1 * rng.random()
                        way = (x + y) * (1 if episode > 2 else 1.5)
                        episode_return = 31 - way - 0.1 * (way - 1) - rng.random() if found else -3.0
                        task = f"{x} {y}"
                        rows.append([int(step), split, deterministic, task, episode, episode_return, 30, int(found)])
    write_csv(folder / "evaluations.csv", EVALUATION_COLUMNS, rows)
    return folder


def add_final_evaluation(folder: Path, step: int = 10_000_000, episode_return: float = 20.0) -> None:
    rows = []
    for split in ("train", "test"):
        for x, y in TASKS.tasks(split):
            for episode in range(1, N_EPISODES + 1):
                for deterministic, repeats in ((0, 4), (1, 1)):
                    for i in range(repeats):
                        rows.append([step, split, deterministic, f"{x} {y}", episode, episode_return, 30, int(i % 2 == 0)])
    write_csv(folder / "final_evaluation.csv", EVALUATION_COLUMNS, rows)


def add_imagination(folder: Path, n_rows: int = 30) -> None:
    seed = json.loads((folder / "run.json").read_text())["seed"]
    rng = np.random.default_rng(seed)
    names = ["share_unseen", "peak_reward", *(f"return_{k}" for k in range(1, N_EPISODES + 1))]
    rows = []
    for i in range(1, n_rows + 1):
        t = i / n_rows
        imagined = [0.85 * t + 0.1 * rng.random(), 0.3 + 0.5 * t + 0.05 * rng.random()]
        imagined += [20 * t * k / N_EPISODES + rng.random() for k in range(1, N_EPISODES + 1)]
        # The logger leaves a column empty where nothing was recorded.
        rows.append([int(1e7 * t), "text", *(imagined if i % 2 == 0 else [""] * len(imagined))])
    write_csv(folder / "progress.csv", ["time/total_timesteps", "note", *(f"imagination/{name}" for name in names)], rows)


def add_reward_maps(folder: Path, k: int = 8, beta: float = 1.0, tasks: gridworld.GridNaviTasks = TASKS) -> None:
    rng = np.random.default_rng(0)
    seen = tasks.tasks("train")[1:15]
    weights = beta * rng.dirichlet(np.ones(len(seen)), size=k) - (beta - 1) / len(seen)
    x, y = np.meshgrid(np.arange(7), np.arange(7), indexing="ij")
    centre = np.clip(weights @ seen + rng.normal(0, 1, (k, 2)), 0, 6)
    distance = (x - centre[:, :1, None]) ** 2 + (y - centre[:, 1:, None]) ** 2
    maps = 1.1 * 0.8 * np.exp(-distance / 3) - 0.1
    np.savez(folder / "reward_maps.npz", weights=weights, tasks=seen, maps=maps.reshape(k, -1))


def add_trajectories(folder: Path, goals=((4, 3), (5, 1)), with_beliefs: bool = True) -> None:
    horizon, n_cells = gridworld.HORIZON, gridworld.SIZE
    positions = np.zeros((len(goals), N_EPISODES, horizon + 1, 2), dtype=int)
    beliefs = np.full((len(goals), N_EPISODES, n_cells, n_cells), -0.1)
    rng = np.random.default_rng(0)
    for i, goal in enumerate(goals):
        for episode in range(N_EPISODES):
            at = np.zeros(2, dtype=int)
            targets = [(6, 2), (6, 6), (3, 6), (1, 3), goal] if episode == 0 else [goal]
            for t in range(1, horizon + 1):
                while targets and np.array_equal(at, targets[0]) and len(targets) > 1:
                    targets.pop(0)
                step = np.sign(np.array(targets[0]) - at)
                step[rng.integers(2)] *= 1 if 0 in step else 0
                at = np.clip(at + step, 0, 6)
                positions[i, episode, t] = at
            seen = np.zeros((n_cells, n_cells), dtype=bool)
            seen[tuple(positions[i, : episode + 1].reshape(-1, 2).T)] = True
            beliefs[i, episode] = np.where(seen, -0.09, 0.02 + 0.08 * rng.random((n_cells, n_cells)))
            beliefs[i, episode][:2, :2] = -0.1
            if (positions[i, : episode + 1] == goal).all(-1).any():
                beliefs[i, episode] = -0.08
                beliefs[i, episode][goal] = 0.9
    arrays = {"tasks": np.array(goals), "split": np.array(["test"] * len(goals)), "positions": positions}
    if with_beliefs:
        arrays["beliefs"] = beliefs
    np.savez(folder / "trajectories.npz", **arrays)  # type: ignore[arg-type]


@pytest.fixture
def ldm_run(tmp_path: Path) -> Path:
    folder = make_run(tmp_path / "ldm_0")
    add_imagination(folder)
    add_reward_maps(folder)
    add_trajectories(folder)
    return folder


def names(paths) -> set[str]:
    return {path.name for path in paths}


def test_everything_a_full_run_allows_is_drawn(ldm_run, tmp_path):
    written = draw_figures([ldm_run], tmp_path / "out")
    expected = {"learning_curves", "return_map", "reward_maps", "trajectory_0", "trajectory_1", "imagination"}
    assert names(written) == {f"{name}.png" for name in expected} | {"summary.md"}
    for path in written:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(PNG) and path.stat().st_size > 5_000


def test_several_algorithms_and_seeds(ldm_run, tmp_path):
    runs = [ldm_run, make_run(tmp_path / "ldm_1", seed=1), make_run(tmp_path / "rl2_0", "rl2", skill=0.3, n_evaluations=2)]
    for run in runs[1:]:
        add_trajectories(run, with_beliefs=False)
    add_imagination(runs[1])
    written = names(draw_figures(runs, tmp_path / "out", file_format="svg"))
    assert {"trajectory_ldm_0.svg", "trajectory_rl2_1.svg", "learning_curves.svg", "reward_maps.svg"} <= written


def test_a_bare_run_allows_what_needs_evaluations_only(tmp_path):
    written = draw_figures([make_run(tmp_path / "rl2_0", "rl2")], tmp_path / "out")
    assert names(written) == {"learning_curves.png", "return_map.png", "summary.md"}


def test_only_the_wanted_figures(ldm_run, tmp_path):
    written = draw_figures([ldm_run], tmp_path / "out", only=["fig4", "reward_maps"])
    assert names(written) == {"reward_maps.png", "summary.md"}


def test_other_environments_get_curves(tmp_path):
    run = make_run(tmp_path / "other", env="NotRegistered-v0")
    written = draw_figures([run, make_run(tmp_path / "grid")], tmp_path / "out")
    folders = {path.parent.name for path in written}
    assert folders == {"NotRegistered-v0", "GridNavi-v0", "out"}
    assert not (tmp_path / "out" / "NotRegistered-v0" / "return_map.png").exists()


def test_extrapolation(tmp_path):
    run = make_run(tmp_path / "run", env=EXTRAPOLATION)
    add_reward_maps(run, k=1, beta=2.0, tasks=gridworld.grid_navi_extrapolation_tasks())
    assert "reward_maps.png" in names(draw_figures([run], tmp_path / "out"))


def test_curves_between_the_training_tasks_and_outside_are_apart(tmp_path):
    """Training evaluates the test tasks as one split."""
    tasks, run = gridworld.grid_navi_extrapolation_tasks(), make_run(tmp_path / "run", env=EXTRAPOLATION)
    plan = Plan({"ldm": [load_run(run)]}, tasks, False, 5, {})
    ((_, figure),) = learning_curves(plan)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["Training tasks", "Inner unseen tasks", "Outer unseen tasks", "Unseen goals not reached"]
    whole, *parts = (evaluations_of(plan.runs[0], split, plan) for split in ("test", "test1", "test2"))
    assert [part.n_tasks for part in parts] == [16, 13] and len(whole) == sum(map(len, parts))
    assert {tuple(task) for task in parts[1].tasks} == {tuple(task) for task in tasks.tasks("test2")}
    (_, axis, *_) = figure.axes
    assert axis.lines[0].get_ydata()[-1] == pytest.approx(parts[0].last().returns.mean())


def test_an_impossible_figure_names_the_missing_file(tmp_path):
    run = make_run(tmp_path / "rl2_0", "rl2")
    with pytest.raises(ValueError, match=r"reward_maps of GridNavi-v0 \(no reward_maps.npz in .*rl2_0\)"):
        draw_figures([run], tmp_path / "out", only=["fig4"])
    with pytest.raises(ValueError, match="no evaluations with the most likely actions"):
        draw_figures([run], tmp_path / "out", only=["fig3"], actions="deterministic")
    with pytest.raises(ValueError, match="'fig99' is not a figure"):
        draw_figures([run], tmp_path / "out", only=["fig99"])
    (run / "evaluations.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"rl2_0 has no results yet"):
        draw_figures([run], tmp_path / "out")


def test_folders_without_results_are_named_and_left_out(tmp_path):
    """As ``logs/*/*`` finds them: folders of failed runs, of searches, and files."""
    good, bare, empty, file = make_run(tmp_path / "a", "rl2"), make_run(tmp_path / "b", "rl2"), tmp_path / "c", tmp_path / "d"
    (bare / "evaluations.csv").unlink()
    empty.mkdir()
    file.touch()
    with warns_here(rf"Left out: {bare} has no results yet; {empty}.run.json is missing.*; {file} is not", __file__):
        written = draw_figures([bare, empty, good, file], tmp_path / "out", only=["fig3"])
    assert names(written) == names(draw_figures([good], tmp_path / "alone", only=["fig3"]))
    with pytest.raises(FileNotFoundError, match=rf"{bare} has no results yet; {empty}.run.json is missing"):
        draw_figures([bare, empty], tmp_path / "out")


def test_a_cut_log_is_read_without_its_last_line(tmp_path):
    run = make_run(tmp_path / "a", "rl2")
    (run / "progress.csv").write_text("time/total_timesteps,rollout/ep_rew_mean\n1000,1.5\n20")
    steps, values = load_run(run).logged("rollout/ep_rew_mean")
    assert steps.tolist() == [1000] and values.tolist() == [1.5]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", b""),
        ("run.json", b'{"algo": "rl2", "env'),
        ("run.json", b"\xff\xfe"),
        ("evaluations.csv", b""),
        ("evaluations.csv", b"timesteps,spl"),
        ("final_evaluation.csv", b""),
        ("trajectories.npz", b""),
        ("trajectories.npz", b"PK\x03\x04 cut"),
        ("paths.npz", b"not an archive"),
    ],
)
def test_a_damaged_file_is_named_with_a_way_out(name, content, tmp_path):
    run = make_run(tmp_path / "a", "rl2")
    (run / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{run / name} .*(restore|remove)"):
        load_run(run)


def test_the_command_prints_files_and_the_table(ldm_run, tmp_path, capsys):
    main([str(ldm_run), "--out", str(tmp_path / "out"), "--only", "fig3,imagination"])
    printed = capsys.readouterr().out
    for name in ("learning_curves.png", "imagination.png", "summary.md"):
        assert str(tmp_path / "out" / name) in printed
    assert "| LDM | 1 | 10M | sampled | 4 |" in printed
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder"):
        main([str(tmp_path / "nowhere")])


def test_best_returns_are_those_of_the_paper():
    for split, best in (("train", 23.28), ("test", 24.50)):
        known = TASKS.reference_returns(TASKS.tasks(split))
        assert known["best possible"].mean() == pytest.approx(best, abs=5e-3)
        np.testing.assert_allclose(known["never found"], -3.0)


def test_imagination_shows_what_was_logged(tmp_path):
    run = make_run(tmp_path / "run", n_evaluations=1)
    write_csv(run / "progress.csv", ["time/total_timesteps", "imagination/return_4"], [[1000, 2.0]])
    plan = Plan(group_runs([load_run(run)]), None, False, 1, {})
    ((name, figure),) = imagination(plan)
    assert name == "imagination"
    assert [axis.get_title() for axis in figure.axes] == ["Return on imaginary tasks"]


def test_many_groups_with_long_names_leave_room_for_the_panels(tmp_path):
    runs = [load_run(make_run(tmp_path / f"run{i}", n_evaluations=2)) for i in range(9)]
    names = {f"group{i}": f"group {i}, whose name tells what it changes" for i in range(9)}
    plan = Plan({f"group{i}": [run] for i, run in enumerate(runs)}, TASKS, False, 5, names)
    heights = []
    for groups in (dict(list(plan.groups.items())[:1]), plan.groups):
        ((_, figure),) = learning_curves(plan._replace(groups=groups))
        figure.draw_without_rendering()
        heights.append([axis.get_window_extent().height for axis in figure.axes])
    assert np.min(heights[1]) > 0.8 * np.min(heights[0])
    ((_, figure),) = return_map(plan)
    figure.draw_without_rendering()
    rows = figure.axes[:36:4]
    extents = [axis.yaxis.label.get_window_extent() for axis in rows]
    assert all(below.y1 < above.y0 for above, below in pairwise(extents)), "names of rows run into each other"


def test_paths_keep_right():
    path = np.array([[0, 0], [1, 0], [1, 0], [2, 0], [2, 1], [2, 0]])
    shifted = [[0, 0], [0, -0.1], [1, -0.1], [2.1, -0.1], [2.1, 1], [1.9, 1], [1.9, 0], [2, 0]]
    np.testing.assert_allclose(_keep_right(path), shifted)
    np.testing.assert_allclose(_keep_right(np.zeros((3, 2), dtype=int)), np.zeros((2, 2)))


def test_curves_are_averaged_where_all_seeds_have_values():
    seeds = [(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0])), (np.array([2.0, 4.0]), np.array([3.0, 5.0]))]
    curve = average_curves(seeds)
    np.testing.assert_allclose(curve.steps, [2.0, 3.0])
    np.testing.assert_allclose(curve.mean, [2.0, 3.0])
    np.testing.assert_allclose(curve.std, [np.sqrt(2), np.sqrt(2)])
    steps = np.arange(30.0)
    np.testing.assert_allclose(average_curves([(steps, steps)], window=5).mean[[0, 1, 4, 29]], [0.0, 0.5, 2.0, 27.0])
    sparse = steps[::2]
    np.testing.assert_allclose(average_curves([(sparse, sparse)], window=5).mean[[0, 1, 2, 14]], [0.0, 1.0, 2.0, 26.0])


def test_all_curves_of_a_figure_are_smoothed_alike():
    steps = np.arange(0.0, 1200.0, 10.0)
    assert smoothing_window([steps, steps[::2], steps[:3]], 5) == 100.0  # five points of the sparsest
    assert smoothing_window([steps[::10], steps], 5) == 0.0  # of which there are too few
    assert smoothing_window([steps[:1], steps[:0]], 5) == 0.0


def test_a_figure_shows_the_longest_curve_to_its_end(tmp_path, monkeypatch):
    """Also where it is not the first one."""
    limits = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (limits.append(self.axes[0].get_xlim()), save(self, *a, **k)))
    short, long = runs = [make_run(tmp_path / name, n_evaluations=8) for name in ("short_seed0", "the_longer_seed0")]
    header, *rows = (short / "evaluations.csv").read_text().splitlines(keepends=True)
    (short / "evaluations.csv").write_text(header + "".join(row for row in rows if int(row.split(",")[0]) < 4e6))
    draw_figures(runs, tmp_path / "figures", only=["learning_curves"], label_by=("name",))
    evaluations = load_run(long).evaluations
    assert evaluations is not None and limits == [(0.0, pytest.approx(1e7, rel=0.1))] and limits[0][1] >= 1e7


def test_returns_on_imaginary_tasks_are_those_of_the_time(tmp_path):
    run = make_run(tmp_path / "run")
    names = ("time/total_timesteps", "imagination/share_imagining", "imagination/return_1", "imagination/peak_reward")
    rows = [(10, 1.0, 3.0, 0.5), (20, 0.0, 3.0, 0.6), (30, 0.0, 3.0, 0.7), (40, 0.5, 4.0, 0.8)]
    write_csv(run / "progress.csv", names, rows)
    steps, values = _imagined(load_run(run), "imagination/return_1")
    assert steps.tolist() == [10, 40] and values.tolist() == [3.0, 4.0]
    assert _imagined(load_run(run), "imagination/peak_reward")[0].tolist() == [10, 20, 30, 40]
    write_csv(run / "progress.csv", [names[0], names[2]], [(row[0], row[2]) for row in rows])  # logs of earlier versions
    assert len(_imagined(load_run(run), "imagination/return_1")[0]) == 4


def test_goals_are_counted_once_in_the_return_map(tmp_path):
    """Splits that are parts of another are evaluated, too."""
    run = make_run(tmp_path / "run", env=EXTRAPOLATION)
    plan = Plan({"ldm": [load_run(run)]}, None, False, 5, {})
    returns, reached = _cell_means(plan.runs, N_EPISODES, plan)
    x, y = gridworld.grid_navi_extrapolation_tasks().tasks("test1")[0]
    with (run / "evaluations.csv").open("a") as file:
        file.write(f"10000000,test1,0,{x} {y},{N_EPISODES},-99.0,30,0\n")
    plan = Plan({"ldm": [load_run(run)]}, None, False, 5, {})
    for before, after in zip((returns, reached), _cell_means(plan.runs, N_EPISODES, plan), strict=True):
        np.testing.assert_array_equal(before, after)


def test_groups_have_colours_of_their_own():
    names = ("ldm", *(f"mixture_{i}_of_16" for i in range(13)))
    groups: Any = {name: [SimpleNamespace(label="ldm")] for name in names}
    plan = Plan(groups, None, False, 5, {})
    assert len({plan.colour(name) for name in names}) == len(names)


def test_summary_table(tmp_path):
    runs = []
    for seed, offset in ((0, 0.0), (1, 2.0)):
        run = tmp_path / f"rl2_{seed}"
        run.mkdir()
        metadata = {"algo": "rl2", "env": "GridNavi-v0", "seed": seed, "frames": 2000, "episodes_per_task": 2}
        write_json(run / "run.json", metadata)
        rows = [[1000, "test", 0, "3 3", 1, 99.0, 30, 1]]
        for episode in (1, 2):
            rows.append([2000, "train", 0, "6 6", episode, 10.0 + offset + episode, 30, 1])
            rows += [[2000, "test", 0, f"3 {y}", episode, y, 30, int(y < episode)] for y in range(3)]
        rows.append([2000, "test", 1, "3 0", 2, -3.0, 30, 0])
        write_csv(run / "evaluations.csv", EVALUATION_COLUMNS, rows)
        runs.append(run)
    lines = summary_table(runs).splitlines()
    assert lines[0] == "**GridNavi-v0**"
    assert lines[2] == (
        "| algorithm | seeds | frames | actions | episode | training return | unseen return "
        "| training goals reached (of 1) | unseen goals reached (of 3) |"
    )
    assert lines[4] == "| RL² | 2 | 2k | sampled | 1 | 12.00 ± 1.41 | 1.00 ± 0.00 | 1.0 ± 0.0 | 1.0 ± 0.0 |"
    assert lines[5] == "| RL² | 2 | 2k | sampled | 2 | 13.00 ± 1.41 | 1.00 ± 0.00 | 1.0 ± 0.0 | 2.0 ± 0.0 |"
    assert lines[7] == "| RL² | 2 | 2k | most likely | 2 | - | -3.00 ± 0.00 | - | 0.0 ± 0.0 |"
    with_final = make_run(tmp_path / "ldm_1")
    add_final_evaluation(with_final)
    assert "| LDM | 1 | 10M | sampled | 4 | 20.00 | 20.00 | 9.0 | 13.5 |" in summary_table([with_final])
    single = summary_table([make_run(tmp_path / "ldm_0", both_actions=True)])
    assert "±" not in single and single.count("| most likely |") == N_EPISODES


def test_the_final_evaluation_counts_until_training_goes_on(tmp_path):
    folder = make_run(tmp_path / "run")
    last = load_run(folder).last_evaluation
    assert last is not None and last.path.name == "evaluations.csv"
    add_final_evaluation(folder)
    last = load_run(folder).last_evaluation
    assert last is not None and last.path.name == "final_evaluation.csv"
    assert {"return_map.png", "summary.md"} <= names(draw_figures([folder], tmp_path / "out"))
    add_final_evaluation(folder, step=5_000_000)
    last = load_run(folder).last_evaluation
    assert last is not None and last.path.name == "evaluations.csv"


def test_the_log_of_a_continued_run_is_joined(tmp_path):
    folder = make_run(tmp_path / "run")
    header = ["time/total_timesteps", "imagination/peak_reward"]
    write_csv(folder / "progress.csv", header, [[100, 0.1], [200, 0.2], [300, 0.3]])
    write_csv(folder / "progress_from_200.csv", header, [[300, 0.4], [1000, 1.0]])
    write_csv(folder / "progress_from_1000.csv", header[:1], [[1100]])
    run = load_run(folder)
    np.testing.assert_array_equal(run.progress["time/total_timesteps"], [100, 200, 300, 1000, 1100])
    steps, values = run.logged("imagination/peak_reward")
    np.testing.assert_array_equal(steps, [100, 200, 300, 1000])
    np.testing.assert_array_equal(values, [0.1, 0.2, 0.4, 1.0])


def test_groups(tmp_path):
    runs = [
        load_run(make_run(tmp_path / "a" / "1", seed=1)),
        load_run(make_run(tmp_path / "a" / "0")),
        load_run(make_run(tmp_path / "b", hyperparameters={"beta": 2.0})),
        load_run(make_run(tmp_path / "c", "rl2", env_kwargs={"task_split": "all"}, n_evaluations=1)),
    ]
    assert {label: len(members) for label, members in group_runs(runs).items()} == {"ldm": 3, "rl2 oracle": 1}
    assert list(group_runs(runs, ["algo", "beta"])) == ["ldm, beta=1.0", "ldm, beta=2.0", "rl2 oracle, beta=1.0"]
    assert list(group_runs(runs, ["path"])) == ["a/1", "a/0", "b", "c"]
    assert [run.seed for run in group_runs(runs[:2])["ldm"]] == [0, 1]
    assert load_run(make_run(tmp_path / "d", label="ours", n_evaluations=1)).label == "ours"
    assert display_name("rl2 oracle, beta=1.0") == "RL² oracle, beta=1.0"
    assert display_name("runs/ldm_3") == "runs/ldm_3"
    with pytest.raises(ValueError, match=r"run.json has no 'gamma' to label runs by, it has .*beta"):
        group_runs(runs, ["gamma"])


def test_runs_that_are_no_seeds_of_each_other_are_named(tmp_path):
    told = {"task_split": "all", "observe_task": True}
    runs = {
        "one": make_run(tmp_path / "one"),
        "seed": make_run(tmp_path / "seed", seed=1),
        "again": make_run(tmp_path / "again"),
        "other": make_run(tmp_path / "other", seed=2, hyperparameters={"beta": 2.0}),
        "told": make_run(tmp_path / "told", seed=3, env_kwargs=told),
    }
    loaded = {name: load_run(path) for name, path in runs.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group_runs([loaded["one"], loaded["seed"]])
        assert list(group_runs(loaded.values(), ["path"])) == list(runs)
    for name in ("again", "other"):
        with warns_here(f"{name} are averaged as seeds", __file__):
            group_runs([loaded["one"], loaded[name]])
    assert loaded["told"].label == "ldm oracle, told its task"


def test_goals_that_were_held_out_are_no_training_goals(tmp_path):
    path = make_run(tmp_path / "run", env_kwargs={"validation_tasks": 6})
    tasks = _known_tasks("GridNavi-v0", [load_run(path)])
    assert len(tasks.tasks("train")) == 12 and len(tasks.tasks("validation")) == 6


def test_load_run_reads_everything(ldm_run):
    run = load_run(ldm_run)
    assert (run.algo, run.env, run.seed, run.timesteps, run.episodes_per_task) == ("ldm", "GridNavi-v0", 0, 10_000_000, 4)
    assert run.hyperparameters == {"beta": 1.0}
    assert run.evaluations is not None and run.evaluations.splits == ("train", "test")
    last = run.evaluations.select("test", episode=4).last()
    assert len(last) == last.n_tasks == 27 and last.has_successes and 0 < last.n_reached <= 27
    steps, values = run.logged("imagination/share_unseen")
    assert len(steps) == len(values) == 15 and not np.isnan(values).any()
    assert len(run.logged("imagination/nothing")[0]) == 0
    assert run.reward_maps is not None and run.reward_maps.peaks().shape == (8, 2)
    assert run.trajectories is not None and run.trajectories.beliefs is not None


def test_broken_files_are_named(ldm_run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"out of the blue is not a folder"):
        load_run(tmp_path / "out of the blue")
    with pytest.raises(FileNotFoundError, match=r"run.json is missing"):
        load_run(tmp_path)
    np.savez(ldm_run / "trajectories.npz", tasks=np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"trajectories.npz lacks the arrays split, positions, it has tasks"):
        load_run(ldm_run)
    np.savez(ldm_run / "reward_maps.npz", tasks=np.zeros((1, 2)), weights=np.zeros((3, 2)), maps=np.zeros((3, 7, 7)))
    with pytest.raises(ValueError, match=r"reward_maps.npz has weights \(3, 2\)"):
        load_run(ldm_run)
    write_csv(ldm_run / "evaluations.csv", EVALUATION_COLUMNS, [[1, "test", 0, "3 3", "one", 0.0, 30, 1]])
    with pytest.raises(ValueError, match=r"evaluations.csv, line 2, cannot be read: .*'one'"):
        load_run(ldm_run)
    write_csv(ldm_run / "evaluations.csv", EVALUATION_COLUMNS[:-1], [])
    with pytest.raises(ValueError, match=r"evaluations.csv lacks the columns success"):
        load_run(ldm_run)
    write_json(ldm_run / "run.json", {"algo": "ldm"})
    with pytest.raises(ValueError, match=r"run.json lacks env, seed, frames, episodes_per_task"):
        load_run(ldm_run)
    (ldm_run / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json is not valid JSON"):
        load_run(ldm_run)


@pytest.mark.parametrize(("timesteps", "text"), [(0, "0"), (960, "960"), (61_440, "61.4k"), (999_999, "1M"), (1e7, "10M")])
def test_format_timesteps(timesteps, text):
    assert format_timesteps(timesteps) == text


def locomotion_run(folder: Path, env_id: str) -> Path:
    """A run's folder in the form that runs write, with evaluations of two episodes and paths."""
    domain = DOMAINS[env_id]
    tasks = domain.make_tasks().tasks("eval")
    folder.mkdir()
    write_json(folder / "run.json", {"algo": "ldm", "env": env_id, "seed": 0, "frames": 200, "episodes_per_task": 2})
    rows = [
        [step, split, 0, " ".join(map(str, task)), episode, -300.0 + step, 200, ""]
        for step in (100, 200)
        for split in ("train", "eval")
        for task in tasks
        for episode in (1, 2)
    ]
    write_csv(folder / "evaluations.csv", EVALUATION_COLUMNS, rows)
    paths = np.random.default_rng(0).normal(size=(len(tasks), 2, 200, domain.position_dim)).cumsum(2)
    paths[0, 1, 50:] = np.nan
    np.savez(folder / "paths.npz", tasks=tasks, split=np.full(len(tasks), "eval"), paths=paths)
    return folder


@pytest.mark.parametrize("env_id", [name for name, domain in DOMAINS.items() if domain.has_target])
def test_locomotion_runs_are_drawn(tmp_path: Path, env_id: str) -> None:
    """Learning curves of the first and the last episode, and paths."""
    folder = locomotion_run(tmp_path / "run", env_id)
    written = draw_figures([folder], tmp_path / "figures")
    assert sorted(path.name for path in written) == ["learning_curves.png", "paths.png", "summary.md"]
    assert all(path.read_bytes().startswith(PNG) for path in written[:2])
    plan = Plan(group_runs([load_run(folder)]), None, False, 1, {"ldm": "An agent"})
    ((_, figure),) = draw_paths(plan)
    assert figure.get_suptitle() == "An agent (seed 0) on evaluation tasks, most likely actions"


@pytest.mark.parametrize("env_id", [name for name, domain in DOMAINS.items() if not domain.has_target])
def test_runs_of_bodies_have_learning_curves_and_no_paths(tmp_path: Path, env_id: str) -> None:
    folder = locomotion_run(tmp_path / "run", env_id)
    assert [path.name for path in draw_figures([folder], tmp_path / "figures")] == ["learning_curves.png", "summary.md"]
    with pytest.raises(ValueError, match="have targets to draw paths to"):
        draw_figures([folder], tmp_path / "figures", ["paths"])


def test_paths_of_another_form_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "paths.npz", tasks=np.zeros((2, 1)), split=np.full(2, "eval"), paths=np.zeros((3, 2, 5, 1)))
    with pytest.raises(ValueError, match=r"paths\.npz has tasks \(2, 1\)"):
        load_paths(tmp_path / "paths.npz")


def test_velocities_are_distances_over_time() -> None:
    """A robot that moves 0.1 m in each step of 0.05 s."""
    np.testing.assert_allclose(velocities(0.1 * np.arange(30)), np.full(20, 2.0))
