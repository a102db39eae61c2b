"""
Train RL2 and LDM on the gridworld side by side for a few minutes, then draw the figures and print the table.

``python -m sb3_ldm.quickstart`` (or ``make quickstart``); ``--frames 20000000`` for full runs.
"""

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from sb3_ldm.checks import check_integer
from sb3_ldm.command import CommandParser, run_command
from sb3_ldm.envs.registration import TASKS
from sb3_ldm.figures.__main__ import main as draw
from sb3_ldm.registry import display_name, get_algorithm
from sb3_ldm.zoo.configs import read_preset

ALGORITHMS = ("rl2", "ldm")
ENV_ID = "GridNavi-v0"
_LOG_PATH = "Log path: "


def run_training(algo: str, frames: int, seed: int, folder: Path, runs: dict[str, Path]) -> None:
    """
    Train one algorithm in a process of its own; its evaluations are printed, all of its output goes to a log file.

    :param algo: name of the algorithm
    :param frames: environment steps
    :param seed: seed of the run
    :param folder: folder of all runs and logs
    :param runs: gets the run's folder under the algorithm's name if it succeeds
    """
    command = [sys.executable, "-u", "-m", "sb3_ldm.train", "--algo", algo, "--env", ENV_ID]
    command += ["-n", str(frames), "--seed", str(seed), "-f", str(folder / "runs"), "--eval-freq", str(max(1, frames // 10))]
    begins = get_algorithm(algo).beginning(read_preset(algo, ENV_ID))
    if begins is not None:
        command += ["-params", f"{begins.option}:{min(begins.timestep(frames), frames // 2)}"]
    run_folder = None
    with open(folder / f"{algo}.log", "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            log.flush()
            if line.startswith(_LOG_PATH):
                run_folder = Path(line.removeprefix(_LOG_PATH).strip())
            elif "returns" in line:
                print(f"[{algo}] {line.rstrip()}", flush=True)
        if process.wait() == 0 and run_folder is not None:
            runs[algo] = run_folder


def main(argv: Sequence[str] | None = None) -> int:
    """
    :param argv: the command line, that of the process by default
    :return: exit status, 1 if a training failed
    :raises ValueError: if ``frames`` is below 1
    """
    parser = CommandParser("quickstart", description=__doc__)
    parser.add_argument(
        "--frames", type=int, default=2_500_000, help="environment steps for each algorithm (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of both runs (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("quickstart"), help="folder of runs, logs and figures (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    check_integer("frames", arguments.frames, 1)
    arguments.out.mkdir(parents=True, exist_ok=True)

    print(
        f"Training {' and '.join(map(display_name, ALGORITHMS))} for {arguments.frames:,} steps each, one process each; "
        f"logs in {arguments.out}/"
    )
    tasks = TASKS[ENV_ID]()
    best = {split: next(iter(tasks.reference_returns(tasks.tasks(split)).values())).mean() for split in ("train", "test")}
    print(
        "Returns are the means of the 1st to 4th episode on a task; "
        f"the best possible is {best['train']:.2f} on train, {best['test']:.2f} on test tasks."
    )
    runs: dict[str, Path] = {}
    threads = [
        threading.Thread(target=run_training, args=(algo, arguments.frames, arguments.seed, arguments.out, runs))
        for algo in ALGORITHMS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = [algo for algo in ALGORITHMS if algo not in runs]
    for algo in failed:
        log = arguments.out / f"{algo}.log"
        print(f"Training {algo} failed; the end of {log}:", *log.read_text().splitlines()[-15:], sep="\n", file=sys.stderr)
    if failed:
        return 1
    draw([*map(str, runs.values()), "--out", str(arguments.out / "figures")])
    print(f"The runs are in {', '.join(map(str, runs.values()))}.")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
