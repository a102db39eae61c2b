"""Every command of the READMEs is accepted as printed, and ends well or is still at work after a while."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.report import anchor

CLONE = Path(__file__).parent.parent
#: Seconds in which a command would have failed if its options were wrong.
PATIENCE_S = 25.0
ELSEWHERE = ("make ", "Reach-v0")  #: commands that are run to their ends by `make` and by test_own_environment.py


def commands(readme: str) -> list[str]:
    """
    :param readme: a text with blocks of Bash
    :return: its commands, each behind the variables of its block
    """
    found = []
    for block in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL):
        variables: list[str] = []
        for line in block.strip().splitlines():
            if re.match(r"[A-Z]+=", line):
                variables.append(line)
            elif not any(word in line for word in ELSEWHERE):
                found.append("\n".join([*variables, line]))
    return found


PAGES = ("README.md", "benchmarks/README.md")
COMMANDS = [command for page in PAGES for command in commands((CLONE / page).read_text(encoding="utf-8"))]


def run(command: str, folder: Path, patience_s: float) -> tuple[int | None, str]:
    """Exit status, None if it was still at work, and output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MPLBACKEND": "agg", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(folder)}
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=patience_s)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None, ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the clone in which short runs have left what later commands look at."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("sb3_ldm", "benchmarks", "zoo_configs"):
        shutil.copytree(CLONE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    short = {"ldm --env GridNavi-v0": 7680, "rl2 --env GridNavi-v0": 7680, "ldm --env HalfCheetahVelocity-v0": 6400}
    for words, n_timesteps in short.items():
        status, output = run(f"python -m sb3_ldm.train --algo {words} --eval-freq -1 -n {n_timesteps}", folder, 300.0)
        assert status == 0, output
    shutil.copyfile(folder / "logs/ldm/GridNavi-v0_1/GridNavi-v0.zip", folder / "logs/ldm/GridNavi-v0_1/checkpoint.zip")
    tuned = folder / "logs/ldm/tune/ldm_GridNavi-v0"
    tuned.mkdir(parents=True)
    shutil.copyfile(CLONE / "zoo_configs/ldm.yml", tuned / "best.yml")
    shutil.copytree(folder / "logs", folder / "logs_before")
    yield folder


def test_commands_are_found_with_their_variables():
    found = commands("```bash\nmake a\nA=1\npython -m a $A\n```\ntext\n```python\nno\n```\n```bash\npython -m b # c\n```\n")
    assert found == ["A=1\npython -m a $A", "python -m b # c"]
    assert len(COMMANDS) > 20 and all("python -m" in command for command in COMMANDS)


@pytest.mark.parametrize("page", [*PAGES, "benchmarks/RESULTS.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", (CLONE / page).read_text(encoding="utf-8"))
    inside = [(target, heading) for target, heading in targets if "://" not in target]
    for target, heading in inside:
        path = (CLONE / page).parent / target if target else CLONE / page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        assert not heading or heading in map(anchor, headings), f"{target}#{heading}"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_runs_as_printed(command, trained):
    pytest.importorskip("mujoco")
    shutil.rmtree(trained / "logs")
    shutil.copytree(trained / "logs_before", trained / "logs")
    status, output = run(command, trained, PATIENCE_S)
    assert status in (0, None), output
