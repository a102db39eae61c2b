"""
See what LDM does that RL2 does not, in minutes: agents that come with the package, then a training of both from scratch.

``python -m sb3_ldm.quickstart`` shows both agents of the package on goals that neither was trained on, and trains both on a
corridor of doors, with two seeds each. Tables are printed; runs, logs and figures are in ``--out``.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_ldm.checks import check_integer
from sb3_ldm.command import CommandParser, run_command
from sb3_ldm.registry import get_algorithm

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from sb3_ldm.results import RunResult

ALGORITHMS = ("ldm", "rl2")
PRETRAINED_ENV_ID = "GridNavi-v0"
ENV_ID = "Doors-v0"  #: small enough to be learned within minutes
N_EVALUATIONS = 20  #: while a run trains
_LOG_PATH = "Log path: "
_EVALUATED = re.compile(r"(\d+) steps, (\w+): returns")


def main(argv: Sequence[str] | None = None) -> int:
    """
    :param argv: the command line, that of the process by default
    :return: exit status, 1 if a training failed
    :raises ValueError: if a number is below what it may be
    """
    parser = CommandParser("quickstart", description=__doc__)
    parser.add_argument("--frames", type=int, default=400_000, help="environment steps of each run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first run of each algorithm (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each algorithm (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("quickstart"), help="folder of runs, logs and figures (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    for name, least in (("frames", 1), ("seed", 0), ("seeds", 1)):
        check_integer(name, getattr(options, name), least)
    options.out.mkdir(parents=True, exist_ok=True)

    show_pretrained(options.out)
    seeds = range(options.seed, options.seed + options.seeds)
    folders = train_all(options.frames, seeds, options.out)
    if folders is None:
        return 1
    show_trained(folders, options.out)
    return 0


def show_pretrained(out: Path) -> None:
    """
    Evaluate the agents of the package on all goals; print the table and draw where they arrive.

    :param out: folder of what is written
    """
    from rich.console import Console

    from sb3_ldm.figures import draw_figures
    from sb3_ldm.results import load_run
    from sb3_ldm.zoo.pretrained import about_pretrained, evaluate_pretrained

    console = Console()
    console.print("[bold]1. Agents that come with the package[/bold], trained on the training goals alone.")
    folders = {algo: out / "pretrained" / algo for algo in ALGORITHMS}
    with console.status("They search for every goal ..."), open(out / "pretrained.log", "w") as log, redirect_stdout(log):
        for algo, folder in folders.items():
            evaluate_pretrained(algo, PRETRAINED_ENV_ID, folder)
        drawn = draw_figures(list(folders.values()), out / "pretrained" / "figures", ["return_map"])
    console.print(overview({algo: [load_run(folder)] for algo, folder in folders.items()}))
    steps = about_pretrained(ALGORITHMS[0], PRETRAINED_ENV_ID)["timesteps"]
    console.print(
        f"One agent each, of {steps / 1e6:.0f} million steps, the median one of three seeds. "
        f"A picture: {drawn[0]}. To hide goals yourself: python -m sb3_ldm.demo\n"
    )


def train_all(frames: int, seeds: Sequence[int], out: Path) -> dict[str, list[Path]] | None:
    """
    Train every algorithm with every seed, each run in a process of its own and as many at a time as there are cores.

    :param frames: environment steps of a run
    :param seeds: of the runs
    :param out: folder of runs and logs
    :return: folders of the runs by algorithm; None if one failed, after the end of its log
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console()
    console.print(
        f"[bold]2. From scratch[/bold]: {len(seeds)} runs of each algorithm on {ENV_ID}, {frames:,} steps each. One of nine "
        "doors hides a prize. In training it is one of the outer six; the three in the middle are unseen tasks."
    )
    jobs = [(algo, seed) for algo in ALGORITHMS for seed in seeds]
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[doing]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(min(len(jobs), _n_cores())) as pool:
        bars = [
            progress.add_task(f"{_label(algo)}, seed {seed}", total=frames, doing="waits", start=False) for algo, seed in jobs
        ]
        trained = list(pool.map(partial(_train, frames, out, progress), jobs, bars))
    failed = [job for job, folder in zip(jobs, trained, strict=True) if folder is None]
    for algo, seed in failed:
        log = _log_file(out, algo, seed)
        print(f"Training {algo} failed; the end of {log}:", *log.read_text().splitlines()[-15:], sep="\n", file=sys.stderr)
    if failed:
        return None
    folders: dict[str, list[Path]] = {algo: [] for algo in ALGORITHMS}
    for (algo, _), folder in zip(jobs, trained, strict=True):
        assert folder is not None
        folders[algo].append(folder)
    return folders


def _train(frames: int, out: Path, progress: "Progress", job: tuple[str, int], bar: "TaskID") -> Path | None:
    """Train in a process whose output goes to a log file; the run's folder, None if it failed."""
    algo, seed = job
    command = [sys.executable, "-u", "-m", "sb3_ldm.train", "--algo", algo, "--env", ENV_ID, "--num-threads", "1"]
    command += ["-n", str(frames), "--seed", str(seed), "-f", str(out / "runs")]
    command += ["--eval-freq", str(max(1, frames // N_EVALUATIONS))]
    folder = None
    progress.start_task(bar)
    progress.update(bar, doing="trains")
    with open(_log_file(out, algo, seed), "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            log.flush()
            evaluated = _EVALUATED.match(line)
            if line.startswith(_LOG_PATH):
                folder = Path(line.removeprefix(_LOG_PATH).strip())
            elif evaluated is not None:
                progress.update(bar, completed=min(frames, int(evaluated[1])), doing="trains")
                if not progress.console.is_terminal:
                    print(f"[{algo}, seed {seed}] {line.rstrip()}", flush=True)
        succeeded = process.wait() == 0
    progress.update(bar, completed=frames, doing="done" if succeeded else "failed")
    progress.stop_task(bar)
    return folder if succeeded else None


def show_trained(folders: Mapping[str, Sequence[Path]], out: Path) -> None:
    """
    :param folders: of the runs by algorithm
    :param out: folder that gets the figures
    """
    from rich.console import Console

    from sb3_ldm.figures import draw_figures
    from sb3_ldm.results import load_run

    runs = {algo: [load_run(folder) for folder in members] for algo, members in folders.items()}
    console = Console()
    console.print(overview(runs))
    console.print(
        "RL² learns to walk past doors that never hid the prize in training. LDM would, too, but some of its workers had "
        "imaginary tasks, whose prize a network put behind other doors. Seeds differ much: the results are of longer training "
        "and more seeds.\n"
    )
    drawn = draw_figures([run for members in runs.values() for run in members], out / "figures")
    console.print(f"Figures are in {out / 'figures'}: {', '.join(path.name for path in drawn)}")


def overview(runs: "Mapping[str, Sequence[RunResult]]") -> "Table":
    """
    :param runs: finished runs by algorithm
    :return: a line an algorithm: tasks solved in the last episode (the goal was reached), and the returns of all episodes
    """
    from rich.table import Table

    first = next(iter(runs.values()))[0]
    table = Table(title=f"{first.env}: means over agents, actions sampled", title_justify="left")
    for name in ("", "agents", "training tasks solved", "unseen tasks solved", "returns on unseen tasks"):
        table.add_column(name)
    for algo, members in runs.items():
        reached = [_reached(members, split) for split in ("train", "test")]
        returns = [f"{_mean_return(members, k):.1f}" for k in range(1, first.episodes_per_task + 1)]
        table.add_row(_label(algo), str(len(members)), *reached, ", ".join(returns))
    table.caption = f"Solved in the last of {first.episodes_per_task} episodes; returns of the first to the last one."
    return table


def _reached(runs: "Sequence[RunResult]", split: str) -> str:
    import numpy as np

    from sb3_ldm.results.statistics import n_reached

    reached, table = n_reached(runs, split), runs[0].final_evaluation
    assert reached is not None and table is not None
    each = f" ({', '.join(f'{one:.1f}' for one in reached)})" if len(reached) > 1 else ""
    return f"{np.mean(reached):.1f} of {len(np.unique(table.select(split).tasks, axis=0))}{each}"


def _mean_return(runs: "Sequence[RunResult]", episode: int) -> float:
    import numpy as np

    tables = [run.final_evaluation for run in runs if run.final_evaluation is not None]
    return float(np.mean([table.select("test", False, episode).returns.mean() for table in tables]))


def _label(algo: str) -> str:
    return get_algorithm(algo).label


def _log_file(out: Path, algo: str, seed: int) -> Path:
    return out / f"{algo}-{seed}.log"


def _n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(run_command(main))
