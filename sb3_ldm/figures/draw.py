"""Every figure that result files allow."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from sb3_ldm.envs.registration import TASKS
from sb3_ldm.envs.tasks import TaskDistribution
from sb3_ldm.figures.curves import imagination, learning_curves
from sb3_ldm.figures.grid import return_map, reward_maps, trajectories
from sb3_ldm.figures.locomotion import paths
from sb3_ldm.figures.plan import STYLE, Drawing, NothingToDraw, Plan, slug
from sb3_ldm.files import replacing
from sb3_ldm.results import RunResult, group_runs, load_runs
from sb3_ldm.results.summary import summary_table

#: The figures by name; learning curves first, as most runs allow them.
FIGURES: dict[str, Callable[[Plan], Drawing]] = {
    "learning_curves": learning_curves,
    "return_map": return_map,
    "reward_maps": reward_maps,
    "trajectories": trajectories,
    "paths": paths,
    "imagination": imagination,
}
_COLOURS = 128  # in a PNG
#: Numbers of the paper's figures.
ALIASES = {
    "fig3": "learning_curves",
    "fig4": "reward_maps",
    "fig6": "return_map",
    "fig7": "learning_curves",
    "fig8": "trajectories",
    "fig8a": "trajectories",
    "fig8b": "paths",
    "fig8c": "paths",
    "fig8d": "paths",
}


def draw_figures(
    run_dirs: Sequence[str | Path | RunResult],
    out: str | Path,
    only: Sequence[str] | None = None,
    label_by: Sequence[str] = ("algo",),
    actions: str | None = None,
    window: int = 5,
    file_format: str = "png",
    names: Mapping[str, str] | None = None,
) -> list[Path]:
    """
    Draw what the run folders allow, and write ``summary.md``.

    :param run_dirs: folders of runs, or runs that are loaded already; those that differ only in their seed become one line
    :param out: folder to write to; with several environments, one folder inside it for each
    :param only: names of figures (``"learning_curves"`` or ``"fig3"``, ...); None for all that can be drawn
    :param label_by: what tells groups of runs apart, see :func:`~sb3_ldm.results.group_runs`
    :param actions: draw evaluations with ``"sampled"`` or with ``"deterministic"`` actions; None for those that most runs have
    :param window: evaluations in the moving average of learning curves (the paper's 5), of the run that has the fewest; short
        runs are not smoothed
    :param file_format: ``"png"``, ``"svg"`` or ``"pdf"``
    :param names: of groups, for people, by label
    :return: the files that were written
    :raises FileNotFoundError: if none of the folders has results; those among others that have none are named in a warning
    :raises ValueError: if a wanted figure cannot be drawn or nothing can, naming what is missing
    """
    wanted = list(FIGURES) if only is None else list(dict.fromkeys(_figure_name(name) for name in only))
    if window < 1:
        raise ValueError(f"window={window}: average over at least 1 evaluation")
    runs = load_runs(run_dirs)
    envs = list(dict.fromkeys(run.env for run in runs))
    written: list[Path] = []
    missing: list[str] = []
    for env in envs:
        members = [run for run in runs if run.env == env]
        folder = Path(out) / slug(env) if len(envs) > 1 else Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        groups, tasks = group_runs(members, label_by), _known_tasks(env, members)
        plan = Plan(groups, tasks, _choose_actions(members, actions), window, names or {})
        for name in wanted:
            try:
                written += _write(name, plan, folder, file_format)
            except NothingToDraw as error:
                missing.append(f"{name} of {env} ({error})")
    if missing and (only is not None or not written):
        raise ValueError(f"Cannot draw {'; '.join(missing)}")
    if any(run.last_evaluation is not None for run in runs):
        path = Path(out) / "summary.md"
        with replacing(path) as partial:
            partial.write_text(summary_table(runs, label_by, names), encoding="utf-8")
        written.append(path)
    return written


def _write(name: str, plan: Plan, folder: Path, file_format: str) -> list[Path]:
    written = []
    with mpl.rc_context(STYLE):
        for stem, figure in FIGURES[name](plan):
            written.append(folder / f"{stem}.{file_format}")
            save_figure(figure, written[-1])
    return written


def save_figure(figure: Figure, path: Path) -> None:
    """
    :param figure: a figure
    :param path: where to write it, a PNG with a palette, which is a third as large
    """
    with replacing(path) as partial:
        if path.suffix != ".png":
            figure.savefig(partial)
            return
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        with Image.open(drawn) as image:
            rgb, cover = image.convert("RGB"), Image.Quantize.MAXCOVERAGE  # rare colours, too
            rgb.quantize(_COLOURS, cover, kmeans=1, dither=Image.Dither.NONE).save(partial, "png", optimize=True)


def _figure_name(name: str) -> str:
    resolved = ALIASES.get(name, name)
    if resolved not in FIGURES:
        raise ValueError(f"{name!r} is not a figure, choose of {', '.join([*FIGURES, *ALIASES])}")
    return resolved


def _known_tasks(env: str, runs: Sequence[RunResult]) -> TaskDistribution | None:
    """The environment's task distribution as the runs have it, None for one of others that is not installed."""
    held_out = {int(run.env_kwargs.get("validation_tasks", 0)) for run in runs}
    # Runs that differ in the tasks that they hold out have no splits in common but those of the environment.
    n_held_out = held_out.pop() if len(held_out) == 1 else 0
    if env in TASKS:
        return TASKS[env]().hold_out(n_held_out)
    try:
        kwargs: dict[str, Any] = {"validation_tasks": n_held_out} if n_held_out else {}
        return gym.make(env, **kwargs).get_wrapper_attr("task_distribution")
    except (gym.error.Error, AttributeError):
        return None


def _choose_actions(runs: Sequence[RunResult], actions: str | None) -> bool:
    """Whether to draw the evaluations with deterministic actions."""
    if actions is not None:
        return actions == "deterministic"
    tables = [table.deterministic for run in runs for table in (run.evaluations or run.last_evaluation,) if table is not None]
    sampled, deterministic = ((sum((t == d).any() for t in tables), sum((t == d).sum() for t in tables)) for d in (0, 1))
    return bool(deterministic > sampled)
