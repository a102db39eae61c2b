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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # on Windows, where nobody is kept from running a run twice
    fcntl = None  # type: ignore[assignment]

from benchmarks.experiment import Experiment, Run, Study
from benchmarks.experiment_file import available_experiments, load_experiment
from benchmarks.tables import RESULTS, keep_run, load_results
from sb3_ldm.cluster import RemoteProcess, connect, n_at_once
from sb3_ldm.command import run_command
from sb3_ldm.evaluation.callbacks import CHECKPOINT_FILE
from sb3_ldm.results import EvaluationTable, files_of_attempts, load_evaluations, newest_file
from sb3_ldm.results.evaluation_table import EVALUATIONS_FILE
from sb3_ldm.results.summary import format_timesteps, markdown_table
from sb3_ldm.zoo.script import exit_when_terminated

RUNS = Path("runs")  #: where agents are trained
ALL = "all"  #: stands for all experiments, in their order
_POLL_S = 2.0


@dataclass
class Job:
    """
    A run and how it is going.

    :param run: the run
    :param folder: its own folder, where agents are trained
    :param results: where all results are
    :param records: whether what is only drawn is kept, too: of ablations that of the baseline alone, which others borrow
    :param state: ``waiting``, ``running``, ``done``, ``failed``, ``elsewhere``, which is run by someone else, or ``changed``:
        it has results of other settings or another budget, which stay until someone deletes them
    """

    run: Run
    folder: Path
    results: Path
    records: bool = True
    state: str = "waiting"
    process: subprocess.Popen[bytes] | RemoteProcess | None = None
    log: IO[bytes] | None = None

    @property
    def log_path(self) -> Path:
        """What the run prints."""
        return self.folder / "log.txt"

    def start(self, launch: "Launch | None" = None) -> None:
        """
        Train, from the last checkpoint if there is one.

        :param launch: starts the process, by default on this machine
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.log_path.open("ab")
        if not _lock(self.log):
            self.state = "elsewhere"
        elif not self.keep_results():  # nobody else has run it since
            self.process = (launch or launch_here)(self)
            self.state = "running"
            return
        self.log.close()

    def checkpoint(self) -> Path | None:
        """:return: where to go on from, None to begin anew: there is none, or all were trained with other settings"""
        found = files_of_attempts(self.folder, CHECKPOINT_FILE)[::-1]
        return next((path for path in found if not self.run.changed_in(path.parent)), None)

    def update(self) -> None:
        """See whether it has ended, and keep its results."""
        if self.process is not None and self.log is not None and self.state == "running" and self.process.poll() is not None:
            self.log.close()
            if self.process.returncode != 0 or not self.keep_results():
                self.state = "failed"

    def keep_results(self) -> bool:
        """
        Put the run into the tables of its experiment if it was trained to the end, whoever did it.

        :return: whether it was
        """
        for attempt in self.run.attempts(self.folder)[::-1]:
            if self.run.has_ended_in(attempt):
                keep_run(attempt, self.results / self.run.experiment, self.run.name, self.records)
                self.state = "done"
                return True
        return False

    def last_evaluation(self) -> EvaluationTable | None:
        """:return: the last one of its kept results, or else of the latest attempt, None without any"""
        if self.state in ("done", "changed"):
            return load_results(self.results / self.run.experiment)[self.run.name].last_evaluation
        path = newest_file(self.folder, EVALUATIONS_FILE)
        return None if path is None else load_evaluations(path).last()


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
        if (kept := run.kept(results)) is not None:
            job.state = "changed" if run.changed_settings(kept) else "done"
        else:
            job.keep_results()
        jobs.append(job)
    return jobs


def status_table(jobs: Sequence[Job]) -> str:
    """:return: how they stand, as Markdown: one row each, with the returns in the last episode, actions sampled"""
    rows, splits = [], dict[str, None]()
    for job in jobs:
        table = job.last_evaluation()
        sampled = None if table is None else table.select(deterministic=False)
        row = {"run": f"{job.run.experiment}/{job.run.name}", "state": job.state, "of": format_timesteps(job.run.n_timesteps)}
        if sampled is not None and len(sampled):
            row["frames"] = format_timesteps(sampled.timesteps.max())
            row |= {one: f"{sampled.select(one).last_returns()[1][-1]:.2f}" for one in sampled.splits}
            splits |= dict.fromkeys(sampled.splits)
        rows.append(row)
    header = ["run", "state", "frames", "of", *splits]
    cells = [[row.get(name, "-") for name in header] for row in rows]
    return markdown_table(header, cells, "llrr" + "r" * len(splits))


def run_jobs(jobs: Sequence[Job], n_jobs: int, launch: Launch = launch_here) -> list[Job]:
    """
    Train everything that waits, several at a time; whoever interrupts it may call it again.

    :param n_jobs: how many at a time
    :param launch: starts the process of a run
    :return: the runs that failed
    :raises ValueError: if ``n_jobs`` is not positive
    """
    if n_jobs < 1:
        raise ValueError(f"jobs={n_jobs}: use at least 1.")
    try:
        while any(job.state in ("waiting", "running") for job in jobs):
            before = [job.state for job in jobs]
            for job in jobs:
                job.update()
            n_running = sum(job.state == "running" for job in jobs)
            for job in [job for job in jobs if job.state == "waiting"][: n_jobs - n_running]:
                job.start(launch)
            _tell_changes(jobs, before)
            time.sleep(_POLL_S)
    finally:
        _stop([job for job in jobs if job.state == "running"])
    return [job for job in jobs if job.state == "failed"]


def _stop(jobs: Sequence[Job]) -> None:
    """They save checkpoints first; on a cluster or Windows, what they did since the last ones is lost."""
    for job in jobs:
        if job.process is not None and job.process.poll() is None:
            job.process.terminate()
    for job in jobs:
        if job.process is not None and job.log is not None:
            job.process.wait()
            job.log.close()
            job.state = "waiting"


def _tell_changes(jobs: Sequence[Job], before: Sequence[str]) -> None:
    """Print a line for each run whose state is another one than before."""
    n_done = sum(job.state == "done" for job in jobs)
    for job, state in zip(jobs, before, strict=True):
        if job.state != state:
            told = f"{job.run.experiment}/{job.run.name}: {job.state} ({n_done} of {len(jobs)} done)"
            print(time.strftime("%Y-%m-%d %H:%M:%S"), told, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: the command line, that of the process by default
    :return: exit status, 1 if a run has failed
    :raises ValueError: if there is no such run, or no room for it
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="+", help=f"one or more of {', '.join(available_experiments())}, or {ALL}")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: the processors, or what the cluster can take)")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these seeds")
    parser.add_argument("--variants", nargs="+", help="only these variants")
    parser.add_argument(
        "--ray-address", nargs="?", const="", help="run on this Ray cluster; without an address, on one of this machine"
    )
    parser.add_argument("--gpus-per-run", type=float, default=0.0, help="GPUs of a cluster's node that a run needs")
    parser.add_argument("--status", action="store_true", help="show how it stands, run nothing")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where agents are trained (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where all results are")
    options = parser.parse_args(arguments)
    jobs, failed = select_jobs(options), []
    if not options.status:
        launch, n_jobs = _launcher(options)
        with exit_when_terminated():
            failed = run_jobs(jobs, n_jobs, launch)
    print(status_table(jobs))
    for job in jobs:
        _tell_what_to_do(job)
    return 1 if failed else 0


def _tell_what_to_do(job: Job) -> None:
    name = f"{job.run.experiment} {job.run.name}"
    if job.state == "failed":
        print(f"{name} failed, see {job.log_path}")
    if job.state == "elsewhere":
        print(f"{name} is run by another process, see {job.log_path}")
    if job.state == "changed":
        settings = ", ".join(job.run.changed_settings(job.run.kept(job.results) or {}))
        print(
            f"{name} has results of other settings ({settings}), which are kept and reported nowhere: "
            f"to train it again, remove them by python -m benchmarks.tables {name} --forget"
        )


def select_jobs(options: argparse.Namespace) -> list[Job]:
    """
    :return: the runs that it asks for, each once
    :raises ValueError: if there is no such experiment, variant or seed
    """
    names = available_experiments() if ALL in options.experiment else options.experiment
    # Experiments share runs.
    jobs = {job.folder: job for name in names for job in make_jobs(load_experiment(name), options.runs, options.results)}
    selected = list(jobs.values())
    for what, asked in (("variant", options.variants), ("seed", options.seeds)):
        known = list(dict.fromkeys(getattr(job.run, what) for job in selected))
        if unknown := [one for one in asked or () if one not in known]:
            raise ValueError(f"{what}s={unknown}: there are no such runs; there are {what}s {known}")
        selected = [job for job in selected if asked is None or getattr(job.run, what) in asked]
    return selected


def _launcher(options: argparse.Namespace) -> tuple[Launch, int]:
    """How runs are started, and how many at a time."""
    launch: Launch = launch_here
    most = os.cpu_count() or 1
    if options.ray_address is not None:
        connect(options.ray_address)
        launch, most = partial(launch_on_cluster, n_gpus=options.gpus_per_run), n_at_once(n_gpus=options.gpus_per_run)
    return launch, most if options.jobs is None else options.jobs


if __name__ == "__main__":
    sys.exit(run_command(main))
