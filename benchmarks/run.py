"""
Run what is missing of an experiment: ``python -m benchmarks.run <experiment> [--jobs N]``.

Runs are processes of one thread each, several at a time, on this machine or on the nodes of a Ray cluster (``--ray-address``).
Killed and called again, it goes on from the last checkpoints; a run whose node is lost goes on by itself on another one.
Results of a finished run go into the tables in ``benchmarks/results/<experiment>``.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # on Windows, where nobody is kept from running a run twice
    fcntl = None  # type: ignore[assignment]

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.budget import Paces, wall_hours
from benchmarks.experiment import Experiment, Run, Study
from benchmarks.experiment_file import available_experiments, load_experiment
from benchmarks.tables import RESULTS, keep_run, load_results
from sb3_ldm.cluster import RemoteProcess, connect, n_at_once
from sb3_ldm.evaluation.callbacks import CHECKPOINT_FILE
from sb3_ldm.results import RUN_FILE, files_of_attempts, load_metadata, newest_file
from sb3_ldm.results.evaluation_table import EVALUATIONS_FILE, EvaluationTable, load_evaluations
from sb3_ldm.results.summary import format_frames
from sb3_ldm.zoo.script import exit_when_terminated

RUNS = Path("runs")  #: where agents are trained
_POLL_S = 2.0
_FILE_WIDTH = 160  # characters of the status table where nobody looks at a terminal


def finished_folder(run: Run, folder: Path) -> Path | None:
    """:return: the attempt that was trained to the end, None if there is none"""
    for attempt in run.attempts(folder)[::-1]:
        metadata = load_metadata(attempt / RUN_FILE) if (attempt / RUN_FILE).is_file() else None
        if metadata is not None and run.has_ended(metadata) and not run.changed_settings(metadata):
            return attempt
    return None


@dataclass
class Job:
    """
    A run and how it is going.

    :param run: the run
    :param folder: its own folder, where agents are trained
    :param results: where all results are
    :param records: whether what is only drawn is kept, too: of ablations that of the baseline alone, which others borrow
    :param state: ``waiting``, ``queued`` (for a node of a cluster), ``running``, ``done``, ``failed``, ``elsewhere``, which is
        run by someone else, ``late``, which would not end in the time that there is, or ``changed``: it has results of other
        settings or another budget, which stay until someone deletes them
    """

    run: Run
    folder: Path
    results: Path
    records: bool = True
    state: str = "waiting"
    process: subprocess.Popen[bytes] | RemoteProcess | None = None
    log: IO[bytes] | None = None
    _looked_at: tuple[Path, float] | None = None
    _last: tuple[int, dict[str, float]] = field(default_factory=lambda: (0, {}))

    @property
    def log_path(self) -> Path:
        """What the run prints."""
        return self.folder / "log.txt"

    @property
    def is_active(self) -> bool:
        """Whether it is being run."""
        return self.state in ("queued", "running")

    def start(self, launch: "Launch | None" = None) -> None:
        """
        Train, from the last checkpoint if there is one.

        :param launch: starts the process, by default on this machine
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.log_path.open("ab")
        if not _lock(self.log):
            self._close()
            self.state = "elsewhere"
            return
        if self.keep_results():  # someone else has run it since
            self._close()
            return
        self.process = (launch or launch_here)(self)
        self.state = "running"

    def checkpoint(self) -> Path | None:
        """:return: where to go on from, None to begin anew: there is none, or all were trained with other settings"""
        for found in files_of_attempts(self.folder, CHECKPOINT_FILE)[::-1]:
            if not self.run.changed_in(found.parent):
                return found
        return None

    def update(self) -> None:
        """See whether it has ended, and keep its results."""
        if self.process is None or not self.is_active:
            return
        if self.process.poll() is None:
            is_started = not isinstance(self.process, RemoteProcess) or self.process.is_started
            self.state = "running" if is_started else "queued"
            return
        self._close()
        if self.process.returncode != 0:
            self.state = "failed"
            return
        if not self.keep_results():
            self.state = "failed"

    def keep_results(self) -> bool:
        """
        Put the run into the tables of its experiment if it was trained to the end, whoever did it.

        :return: whether it was
        """
        attempt = finished_folder(self.run, self.folder)
        if attempt is None:
            return False
        keep_run(attempt, self.results / self.run.experiment, self.run.name, self.records)
        self.state = "done"
        return True

    def terminate(self) -> None:
        """Ask it to end. It saves a checkpoint first; on a cluster or Windows, what it did since the last one is lost."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> None:
        """Wait for its end, after :meth:`terminate`."""
        if self.process is not None and self.is_active:
            self.process.wait()
            self._close()
            self.state = "waiting"

    def _close(self) -> None:
        if self.log is not None:
            self.log.close()

    def last_evaluation(self) -> tuple[int, dict[str, float]]:
        """:return: frames at the last evaluation (of a finished run, its final one), and the last episode's mean returns"""
        if self.state in ("done", "changed"):
            kept = load_results(self.results / self.run.experiment)[self.run.name]
            return (self.run.n_timesteps, {}) if kept.final_evaluation is None else _last(kept.final_evaluation)
        path = None if isinstance(self.run, Study) else newest_file(self.folder, EVALUATIONS_FILE)
        if path is not None and path.is_file() and (path, path.stat().st_mtime) != self._looked_at:
            self._looked_at = path, path.stat().st_mtime
            self._last = _last(load_evaluations(path))
        return self._last


ALL = "all"  #: stands for all experiments, in their order

Launch = Callable[[Job], subprocess.Popen[bytes] | RemoteProcess]


def launch_here(job: Job) -> subprocess.Popen[bytes]:
    """:return: its process on this machine"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    command = job.run.command(job.folder, job.checkpoint())
    return subprocess.Popen(command, stdout=job.log, stderr=subprocess.STDOUT, env=environment)


def launch_on_cluster(job: Job, n_gpus: float = 0.0) -> subprocess.Popen[bytes] | RemoteProcess:
    """
    :param n_gpus: GPUs that it needs
    :return: its process on some node of the connected Ray cluster, whose files come back to the job's folder; a study of
        imagination, which nodes with nothing but the package have not got, runs on this machine
    """
    if isinstance(job.run, Study):
        return launch_here(job)

    def command() -> list[str]:
        checkpoint = job.checkpoint()
        return job.run.command(Path(), None if checkpoint is None else checkpoint.relative_to(job.folder))

    return RemoteProcess(command, job.folder, job.log, keep=[job.log_path.name], progress=CHECKPOINT_FILE, n_gpus=n_gpus)


def _last(evaluations: EvaluationTable) -> tuple[int, dict[str, float]]:
    table = evaluations.last().select(deterministic=False)
    if len(table) == 0:
        return 0, {}
    return int(table.timesteps[0]), {split: float(table.select(split).last_returns()[1][-1]) for split in table.splits}


def _lock(file: IO[bytes]) -> bool:
    """Lock a file until it is closed, by this process and by those that it starts with it; False if someone else did."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_jobs(experiment: Experiment, root: Path = RUNS, results: Path = RESULTS) -> list[Job]:
    """:return: its runs; those that have results are done, and so are those whose results were not in the tables yet"""
    jobs = []
    for run in experiment.runs:
        records = experiment.baseline in (None, run.variant)
        job = Job(run, root / run.experiment / run.name, results, records)
        kept = run.kept(results)
        if kept is not None:
            job.state = "changed" if run.changed_settings(kept) else "done"
        else:
            job.keep_results()
        jobs.append(job)
    return jobs


def look_elsewhere(jobs: Sequence[Job]) -> None:
    """Find out which of the runs that wait are run by someone else."""
    for job in jobs:
        if job.state == "waiting" and job.log_path.is_file():
            with job.log_path.open("ab") as log:
                job.state = "waiting" if _lock(log) else "elsewhere"


def status_table(jobs: Sequence[Job], title: str) -> Table:
    """:return: one row each"""
    table = Table(title=title)
    for name in ("run", "state", "frames", "of"):
        # Long names go on in the next line instead of losing their end, which tells runs apart.
        table.add_column(name, justify="left" if name in ("run", "state") else "right", overflow="fold")
    looks = [job.last_evaluation() for job in jobs]
    splits = list(dict.fromkeys(split for _, returns in looks for split in returns))
    for split in splits:
        table.add_column(split, justify="right")
    for job, (frames, returns) in zip(jobs, looks, strict=True):
        cells = [f"{returns[split]:.2f}" if split in returns else "-" for split in splits]
        name = f"{job.run.experiment}/{job.run.name}"
        table.add_row(name, job.state, format_frames(frames), format_frames(job.run.n_timesteps), *cells)
    return table


class TimeLimit:
    """
    The time that there is for runs, which begins now.

    :param hours: how long
    :param paces: how long runs take
    :raises ValueError: if there is no time at all
    """

    def __init__(self, hours: float, paces: Paces):
        if not hours > 0:
            raise ValueError(f"hours={hours}: use a positive number, or leave it out for no limit.")
        self._paces = paces
        self._end = time.monotonic() + 3600 * hours

    def hours_of(self, job: Job) -> float:
        """:return: hours that it is expected to take from its last checkpoint on, NaN if no run tells"""
        checkpoint = job.checkpoint()
        evaluations = None if checkpoint is None else checkpoint.parent / EVALUATIONS_FILE
        frames = _last(load_evaluations(evaluations))[0] if evaluations is not None and evaluations.is_file() else 0
        return self._paces.hours(job.run) * max(0.0, 1.0 - frames / job.run.n_timesteps)

    def allows(self, job: Job) -> bool:
        """:return: whether it is expected to end in time if it is started now; not if no run tells how long it takes"""
        return time.monotonic() + 3600 * self.hours_of(job) <= self._end


def run_jobs(
    jobs: Sequence[Job],
    n_jobs: int,
    title: str = "",
    console: Console | None = None,
    launch: Launch = launch_here,
    limit: TimeLimit | None = None,
) -> list[Job]:
    """
    Train everything that waits, several at a time; whoever interrupts it may call it again.

    :param n_jobs: how many at a time
    :param launch: starts the process of a run
    :param limit: runs that would not end in time are not started, but shorter ones behind them
    :return: the runs that failed
    :raises ValueError: if ``n_jobs`` is not positive
    """
    if n_jobs < 1:
        raise ValueError(f"jobs={n_jobs}: use at least 1.")
    console = Console() if console is None else console
    seen = [job.state for job in jobs]
    try:
        with Live(status_table(jobs, title), console=console, refresh_per_second=1, transient=not console.is_terminal) as live:
            while any(job.state == "waiting" or job.is_active for job in jobs):
                for job in jobs:
                    job.update()
                n_active = sum(job.is_active for job in jobs)
                for job in _next_jobs(jobs, n_jobs - n_active, limit):
                    job.start(launch)
                live.update(status_table(jobs, title))
                if not console.is_terminal:  # where no table is drawn anew
                    seen = _tell_changes(jobs, seen, console)
                time.sleep(_POLL_S)
    finally:
        for job in jobs:
            job.terminate()
        for job in jobs:
            job.wait()
    return [job for job in jobs if job.state == "failed"]


def _next_jobs(jobs: Sequence[Job], count: int, limit: TimeLimit | None) -> list[Job]:
    """The first ones that wait and end in time; those before them that would not are late, unless someone else runs them."""
    chosen: list[Job] = []
    for job in [job for job in jobs if job.state == "waiting"]:
        if len(chosen) == count:
            break
        if limit is None or limit.allows(job):
            chosen.append(job)
            continue
        look_elsewhere([job])
        if job.state == "waiting" and not job.keep_results():
            job.state = "late"
    return chosen


def _tell_changes(jobs: Sequence[Job], before: Sequence[str], console: Console) -> list[str]:
    """A line for each run whose state is another one than before; the states now."""
    n_done = sum(job.state == "done" for job in jobs)
    for job, state in zip(jobs, before, strict=True):
        if job.state != state:
            when = time.strftime("%Y-%m-%d %H:%M:%S")
            console.print(f"{when} {job.run.experiment}/{job.run.name}: {job.state} ({n_done} of {len(jobs)} done)")
    return [job.state for job in jobs]


def main(arguments: Sequence[str] | None = None) -> None:
    """:param arguments: the command line, that of the process by default"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="+", help=f"one or more of {', '.join(available_experiments())}, or {ALL}")
    parser.add_argument(
        "--jobs", type=int, help="runs at a time (default: the processors; on a cluster, as many as it can take)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="only these seeds")
    parser.add_argument("--variants", nargs="+", help="only these variants")
    parser.add_argument(
        "--ray-address",
        nargs="?",
        const="",
        help="run on this Ray cluster; without an address, Ray is started on this machine",
    )
    parser.add_argument("--gpus-per-run", type=float, default=0.0, help="GPUs of a cluster's node that a run needs")
    parser.add_argument(
        "--hours", type=float, help="start no run that is expected to end later, as those in benchmarks/results took"
    )
    parser.add_argument("--status", action="store_true", help="show how it stands, run nothing")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where agents are trained (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where all results are")
    options = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:  # a file has room for whole names, however wide the terminal is
        console.width = max(console.width, _FILE_WIDTH)
    try:
        jobs, title = select_jobs(options)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if options.status:
        look_elsewhere(jobs)
    else:
        try:
            launch, n_jobs = _launcher(options)
            limit = None if options.hours is None else TimeLimit(options.hours, measured_paces())
            with exit_when_terminated():
                failed = run_jobs(jobs, n_jobs, title, console, launch, limit)
        except KeyboardInterrupt:
            sys.exit("Interrupted: the same command goes on from the last checkpoints.")
        except (ValueError, ImportError, ConnectionError) as error:
            sys.exit(f"error: {error}")
        for job in failed:
            console.print(f"{job.run.name} failed, see {job.log_path}")
        for job in [job for job in jobs if job.state == "elsewhere"]:
            console.print(f"{job.run.name} is run by another process, see {job.log_path}")
    console.print(status_table(jobs, title))
    if late := [job for job in jobs if job.state == "late"]:
        console.print(f"{len(late)} runs were not started: they would have ended later, or no run tells how long they take.")
    for job in [job for job in jobs if job.state == "changed"]:
        settings = ", ".join(job.run.changed_settings(job.run.kept(job.results) or {}))
        one = f"{job.run.experiment} {job.run.name}"
        console.print(
            f"{one} has results of other settings ({settings}), which are kept and reported nowhere: "
            f"to train it again, remove them by python -m benchmarks.tables {one} --forget"
        )
    if not options.status and any(job.state == "failed" for job in jobs):
        sys.exit(1)


def measured_paces() -> Paces:
    """:return: how long all runs with results in the repository took"""
    paces = Paces(wall_hours)
    for name in available_experiments():
        paces.add_results(load_experiment(name))
    return paces


def select_jobs(options: argparse.Namespace) -> tuple[list[Job], str]:
    """
    :return: the runs that it asks for, each once, and the titles of their experiments
    :raises ValueError: if there is no such experiment, variant or seed
    """
    names = available_experiments() if ALL in options.experiment else options.experiment
    experiments = [load_experiment(name) for name in names]
    known = list(dict.fromkeys(variant for experiment in experiments for variant in experiment.variants))
    unknown = sorted(set(options.variants or ()) - set(known))
    if unknown:
        raise ValueError(f"variants={unknown}: {', '.join(options.experiment)} has {', '.join(known)}")
    jobs = [
        job
        for experiment in experiments
        for job in make_jobs(experiment, options.runs, options.results)
        if (options.seeds is None or job.run.seed in options.seeds)
        and (options.variants is None or job.run.variant in options.variants)
    ]
    if not jobs:
        seeds = sorted({run.seed for experiment in experiments for run in experiment.runs})
        asked = f"variants={options.variants}, seeds={options.seeds}"
        raise ValueError(f"{asked}: there is no such run, leave one of them out; there are seeds {seeds}")
    # Experiments share runs.
    return list({job.folder: job for job in jobs}.values()), ", ".join(experiment.title for experiment in experiments)


def _launcher(options: argparse.Namespace) -> tuple[Launch, int]:
    """How runs are started, and how many at a time."""
    if options.ray_address is None:
        return launch_here, (os.cpu_count() or 1) if options.jobs is None else options.jobs
    connect(options.ray_address)
    most = n_at_once(n_gpus=options.gpus_per_run)
    return partial(launch_on_cluster, n_gpus=options.gpus_per_run), most if options.jobs is None else options.jobs


if __name__ == "__main__":
    main()
