"""
Write the results of all experiments: ``python -m benchmarks.report`` draws their figures and makes ``benchmarks/RESULTS.md``
of the files in ``benchmarks/results``.
"""

import argparse
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks import diversity
from benchmarks.experiment import Experiment, Run
from benchmarks.experiment_file import available_experiments, load_experiment
from benchmarks.figures import FIGURES, SHOWN, SHOWN_OF_ABLATIONS, draw_experiment, load_variants, remove_figures
from benchmarks.tables import RESULTS
from benchmarks.verdicts import Outcome, Variants, Verdict, found_by_studies, judge
from sb3_ldm.envs.tasks import SPLITS, VALIDATION
from sb3_ldm.figures import STYLE
from sb3_ldm.figures.draw import save_figure
from sb3_ldm.results import RunResult, statistics
from sb3_ldm.results.summary import format_timesteps, markdown_table, mean_and_std, ordered_splits, split_name

PAGE = Path(__file__).parent / "RESULTS.md"

INTRODUCTION = Path(__file__).with_name("introduction.md")  #: of the page

#: What is told of studies of imagination, where they have it.
_STUDIED = {
    "in_test": "imagined on unseen goals",
    "in_test1": "between the training goals",
    "in_test2": "outside",
    "no_goal": "nowhere",
    "own_task_right": "training tasks known",
    "unseen_task_right": "unseen tasks known",
}


Cell = Callable[[Sequence[RunResult]], str]  #: what a table tells of a variant's runs, which differ in their seed


def variants_tables(experiment: Experiment, variants: Variants) -> str:
    """
    :return: a table of last episodes, actions sampled, and one of first episodes (paper, Appendix F) and costs, as Markdown
    """
    splits = {one: split_name(one) for one in ordered_splits([run for members in variants.values() for run in members])}
    unseen = list(splits)[1:]
    last: dict[str, Cell] = {"seeds": partial(_seeds, experiment.learned)}
    last |= {f"{name} return": partial(_return_in, split, None) for split, name in splits.items()}
    if experiment.baseline is not None and experiment.baseline in variants:
        baseline, label = variants[experiment.baseline], experiment.label(experiment.baseline)
        last |= {f"{splits[one]} return minus that of {label}, by seed": partial(_more_than, baseline, one) for one in unseen}
    last |= {f"{name} tasks solved": partial(_solved, split) for split, name in splits.items()}
    for split in [one for one in unseen if one in (*SPLITS, VALIDATION)]:
        last[f"{splits[split]} tasks solved, second half of training"] = partial(_solved_in_second_half, split)
    further: dict[str, Cell] = {
        **{f"first episode, {name} return": partial(_return_in, split, 1) for split, name in splits.items()},
        "frames": lambda runs: format_timesteps(max(run.timesteps for run in runs)),
        "core minutes": partial(_minutes, "cpu_time_s"),
        "wall minutes": partial(_minutes, "wall_time_s"),
    }
    return f"{_table(experiment, variants, last)}\n{_table(experiment, variants, further)}"


def studies_table(experiment: Experiment, variants: Variants) -> str:
    """
    :return: one row each, as Markdown: the share of mixtures whose largest reward is on the goal of an unseen task, and how
        often the decoder knows the goal of the task at hand
    """
    told: dict[str, Cell] = {
        "seeds": lambda runs: str(len(runs)),
        "updates": lambda runs: f"{runs[0].hyperparameters['updates']:,}",
        **{title: partial(_share, name) for name, title in _STUDIED.items()},
    }
    return _table(experiment, variants, told)


def _table(experiment: Experiment, variants: Variants, told: Mapping[str, Cell]) -> str:
    """A row for each variant, without columns that nothing is known of."""
    columns = {title: [cell(members) for members in variants.values()] for title, cell in told.items()}
    known = {"": [experiment.label(variant) for variant in variants]}
    known |= {title: cells for title, cells in columns.items() if set(cells) != {"-"}}
    return markdown_table(list(known), list(zip(*known.values(), strict=True)), "l" + "r" * (len(known) - 1))


def _seeds(learned: float | None, runs: Sequence[RunResult]) -> str:
    failed = statistics.failed_seeds(runs, learned)
    return str(len(runs)) + (f" (training return below {learned:g}: {', '.join(map(str, failed))})" if failed else "")


def _minutes(time: str, runs: Sequence[RunResult]) -> str:
    minutes = [run.metadata[time] / 60 for run in runs if time in run.metadata]
    return mean_and_std(minutes, 0) if minutes else "-"


def _return_in(split: str, episode: int | None, runs: Sequence[RunResult]) -> str:
    return statistics.iqm_interval(statistics.task_scores(runs, split, episode or statistics.last_episode(runs))).text()


def _more_than(baseline: Sequence[RunResult], split: str, runs: Sequence[RunResult]) -> str:
    if runs is baseline:
        return "-"
    differences = statistics.against_baseline(runs, baseline, split)
    told = [f"{one.seed}: {round(one.more, 2) + 0.0:+.2f}{'' if one.began_alike else '*'}" for one in differences]
    return ", ".join(told) or "-"


def _solved(split: str, runs: Sequence[RunResult]) -> str:
    reached = statistics.n_reached(runs, split)
    return "-" if reached is None else mean_and_std(reached, 1)


def _solved_in_second_half(split: str, runs: Sequence[RunResult]) -> str:
    numbers = [number for run in runs if (number := statistics.n_reached_in_second_half(run, split)) is not None]
    return mean_and_std(numbers, 1) if len(numbers) == len(runs) else "-"


def _share(name: str, runs: Sequence[RunResult]) -> str:
    if any(name not in run.metadata["result"] for run in runs):
        return "-"
    return mean_and_std((100 * found_by_studies(runs, name)[:, 0]).tolist(), 0) + "%"


def has_own_results(experiment: Experiment, variants: Variants) -> bool:
    """:return: whether there are others than those of another experiment"""
    return any(run.variant in variants for run in experiment.own_runs)


def judged(experiment: Experiment, variants: Variants) -> list[Verdict]:
    """:return: what became of its expectations"""
    return [judge(one, variants, experiment.learned, experiment.label) for one in experiment.expectations]


def section(
    experiment: Experiment, variants: Variants, verdicts: Sequence[Verdict], figures: Path, page: Path, results: Path = RESULTS
) -> str:
    """:return: its part of the page, as Markdown"""
    lines = [f"## {experiment.title}", f"({experiment.source})", experiment.about]
    if not has_own_results(experiment, variants):
        changed = _changed(experiment.own_runs, results)
        lines += changed or [f"Not run yet: `python -m benchmarks.run {experiment.name}`."]
        return "\n\n".join(line for line in lines if line) + "\n"
    table = studies_table if experiment.is_study else variants_tables
    lines.append(table(experiment, variants).rstrip())
    claims = zip(experiment.expectations, verdicts, strict=True)
    lines.append("\n".join(f"- {one.claim}: {verdict.text}" for one, verdict in claims))
    shown = SHOWN if experiment.baseline is None else SHOWN_OF_ABLATIONS
    for figure in [path for pattern in shown for path in sorted(figures.glob(pattern))]:
        lines.append(f"![{figure.stem.replace('_', ' ')}]({_relative(figure, page)})")
    tables = {"summary.md": "both kinds of actions and every episode", "per_task.md": "every task"}
    links = [f"[{what}]({_relative(figures / name, page)})" for name, what in tables.items() if (figures / name).is_file()]
    if links:
        lines.append(f"More numbers: {', '.join(links)}; [all figures]({_relative(figures, page)}).")
    lines += _notes(experiment, variants, results)
    lines.append(f"```bash\npython -m benchmarks.run {experiment.name}\npython -m benchmarks.figures {experiment.name}\n```")
    return "\n\n".join(line for line in lines if line) + "\n"


def _relative(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path, page.parent)).as_posix()


def _notes(experiment: Experiment, variants: Variants, results: Path) -> list[str]:
    """Paragraphs on runs whose code cannot be restored from the commits that they name, and on those that are left out."""
    runs = [run for members in variants.values() for run in members]
    commits = {run.path.name: [*run.metadata.get("commits_before", []), run.metadata.get("commit") or ""] for run in runs}
    uncommitted = [name for name, its_commits in commits.items() if any(one.endswith("-dirty") for one in its_commits)]
    done = {(variant, run.seed) for variant, members in variants.items() for run in members}
    missing = [run for run in experiment.runs if (run.variant, run.seed) not in done]
    lines = [f"Trained with changes that were not committed: {', '.join(uncommitted)}."] if uncommitted else []
    lines += _changed(missing, results)
    if missing:
        names = ", ".join(run.name for run in missing)
        lines.append(f"Without results so far (not run, or not to the end): {names}.")
    return lines


def _changed(runs: Sequence[Run], results: Path) -> list[str]:
    """Paragraphs on the runs whose results are of other settings."""
    changed = {run.name: run.changed_settings(kept) for run in runs if (kept := run.kept(results)) is not None}
    return [
        f"Left out: results of {name}, which had other settings than it has now ({', '.join(settings)})."
        for name, settings in changed.items()
        if settings
    ]


def results_page(results: Path = RESULTS, figures: Path = FIGURES, page: Path = PAGE, draw: bool = True) -> str:
    """
    :param draw: whether to draw the figures again
    :return: the page, as Markdown
    """
    experiments = [load_experiment(name) for name in available_experiments()]
    found = {experiment.name: load_variants(experiment, results) for experiment in experiments}
    verdicts = {experiment.name: judged(experiment, found[experiment.name]) for experiment in experiments}
    parts = [INTRODUCTION.read_text(encoding="utf-8"), overview(experiments, found, verdicts)]
    for experiment in experiments:
        variants = found[experiment.name]
        if draw and has_own_results(experiment, variants):
            draw_experiment(experiment, results, figures)
        elif draw:
            remove_figures(figures / experiment.name)
        parts.append(section(experiment, variants, verdicts[experiment.name], figures / experiment.name, page, results))
    parts.append(_diversity_section(experiments, found, figures, page, draw))
    return "\n".join(part for part in parts if part)


def _diversity_section(
    experiments: Sequence[Experiment], found: Mapping[str, Variants], figures: Path, page: Path, draw: bool
) -> str:
    points = diversity.imagined_and_reached(experiments, found)
    path = figures / diversity.FIGURE
    if draw and points:
        with mpl.rc_context(STYLE):  # has the resolution
            save_figure(diversity.draw(points), path)
    return diversity.section(points, _relative(path, page))


def overview(
    experiments: Sequence[Experiment], found: Mapping[str, Variants], verdicts: Mapping[str, Sequence[Verdict]]
) -> str:
    """:return: how far each is, what its own runs took, and how many of its expectations hold, as Markdown"""
    decided = [one for one in Outcome if one is not Outcome.NOT_RUN]
    rows = []
    for one in experiments:
        became = Counter(
            (claim.paper, verdict.outcome) for claim, verdict in zip(one.expectations, verdicts[one.name], strict=True)
        )
        counts = [became[paper, outcome] for paper in (True, False) for outcome in decided]
        counts.append(became[True, Outcome.NOT_RUN] + became[False, Outcome.NOT_RUN])
        n_runs, own = sum(map(len, found[one.name].values())), {(run.variant, run.seed) for run in one.own_runs}
        ended = [run for variant, runs in found[one.name].items() for run in runs if (variant, run.seed) in own]
        hours = f"{sum(core_hours(run.metadata) for run in ended):.1f}"
        rows.append([f"[{one.title}](#{anchor(one.title)})", f"{n_runs} of {len(one.runs)}", hours, *map(str, counts)])
    header = ["experiment", "runs finished", "core hours"]
    for whose in ("the paper's claims", "ours"):
        header += [f"{whose}: {decided[0].value}", *(outcome.value for outcome in decided[1:])]
    header.append(Outcome.NOT_RUN.value)
    return markdown_table(header, rows, "l" + "r" * (len(header) - 1))


def core_hours(metadata: Mapping[str, Any]) -> float:
    """:return: what a run took of a processor core, where that was not counted the wall time of its threads; 0 if not told"""
    wall_time_s = metadata.get("wall_time_s", 0.0) * metadata.get("threads", 1)
    return metadata.get("cpu_time_s", wall_time_s) / 3600


def anchor(title: str) -> str:
    """:return: what GitHub links it by"""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def main(arguments: Sequence[str] | None = None) -> None:
    """:param arguments: the command line, that of the process by default"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where all results are")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="where all figures are")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page")
    parser.add_argument("--no-figures", action="store_true", help="leave the figures as they are")
    options = parser.parse_args(arguments)
    text = results_page(options.results, options.figures, options.out, not options.no_figures)
    options.out.write_text(text, encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
