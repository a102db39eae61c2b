"""
What the README and the pages of docs/ say is so: links lead somewhere, lines of code are the code's, and every command is
accepted as printed, and ends well or is still at work after a while.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks.report import anchor
from sb3_ldm.zoo.pretrained import available_pretrained

CLONE = Path(__file__).parent.parent
#: Seconds in which a command would have failed if its options were wrong.
PATIENCE_S = 25.0
#: Commands that are run to their ends by `make` (which installs, too) and by test_own_environment.py.
ELSEWHERE = ("make ", "pip install ", "Reach-v0")


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


DOCS = sorted(path.relative_to(CLONE).as_posix() for path in (CLONE / "docs").rglob("*.md"))
PAGES = ("README.md", *DOCS, "benchmarks/README.md")
TEXTS = {page: (CLONE / page).read_text(encoding="utf-8") for page in (*PAGES, "CONTRIBUTING.md")}
COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(TEXTS[page])))
#: Lines that several pages claim to be those of some files: page, files, lines.
CITED = [
    (page, files.split(), block)
    for page, text in TEXTS.items()
    for files, block in re.findall(r"<!-- lines of (.*?) -->\n```python\n(.*?)```", text, re.DOTALL)
]


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
    (folder / "my_meta").mkdir()
    for name, text in re.findall(r"```\w+\n# my_meta/([\w.]+)(.*?)```", TEXTS["docs/adding_an_algorithm.md"], re.DOTALL):
        (folder / "my_meta" / name).write_text(f"#{text}")
    short = {"ldm --env GridNavi-v0": 7680, "rl2 --env GridNavi-v0": 7680, "ldm --env HalfCheetahVelocity-v0": 6400}
    short["mine --env GridNavi-v0 --gym-packages my_meta"] = 2000
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
    assert len(COMMANDS) > 20 and all(re.search("python -m|sb3-ldm", command) for command in COMMANDS)


def links(page: str) -> list[tuple[str, str]]:
    """Targets inside of the repository, and their headings."""
    text = re.sub(r"^```.*?^```$", "", (CLONE / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [(target, heading) for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", text) if "://" not in target]


def anchors(page: Path) -> list[str]:
    """What the headings of a page are linked by."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("page", [*TEXTS, "benchmarks/RESULTS.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    for target, heading in links(page):
        path = (CLONE / page).parent / target if target else CLONE / page
        assert path.exists(), target
        assert not heading or heading in anchors(path), f"{target}#{heading}"


def test_headings_are_those_outside_of_code(tmp_path):
    (tmp_path / "page.md").write_text("# One, two\n\n```bash\n# no heading\n```\n## `three`\n")
    assert anchors(tmp_path / "page.md") == ["one-two", "three"]


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 200


def test_the_paper_is_cited_alike():
    citation = yaml.safe_load((CLONE / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "type"} <= citation.keys()
    (paper,) = citation["references"]
    entry = dict(re.findall(r"^  (\w+) = \{(.*)\}", TEXTS["README.md"], re.MULTILINE))
    names = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in paper["authors"])
    assert entry["title"].replace("{", "").replace("}", "") == paper["title"] and entry["author"] == names
    assert (entry["booktitle"], int(entry["year"])) == (paper["collection-title"], paper["year"])
    assert paper["url"] in TEXTS["README.md"]


def test_the_site_has_every_page():
    def pages(entries):
        for entry in entries:
            for what in entry.values():
                yield from pages(what) if isinstance(what, list) else [what]

    shown = list(pages(yaml.safe_load((CLONE / "mkdocs.yml").read_text())["nav"]))
    places = {"index.md": "README.md", **{name.removeprefix("docs/"): name for name in DOCS}}
    assert all((CLONE / places.get(page, page)).is_file() for page in shown), shown
    assert len(shown) == len(set(shown)) and places.keys() <= set(shown)


def test_every_page_of_an_algorithm_shows_its_lines():
    algorithms = ("emaml", "ldm", "maml", "mixreg", "promp", "rl2", "varibad")
    assert {page for page, *_ in CITED} == {f"docs/{name}.md" for name in algorithms}


@pytest.mark.parametrize("page, files, block", CITED, ids=[f"{page}-{i}" for i, (page, *_) in enumerate(CITED)])
def test_lines_on_pages_are_those_of_the_code(page, files, block):
    def bare(line):
        return re.sub(r"\s+#.*$", "", line).strip()

    code = {bare(line) for name in files for line in (CLONE / name).read_text(encoding="utf-8").splitlines()}
    shown = [bare(line) for line in block.splitlines() if not line.strip().startswith("#")]
    assert [line for line in shown if line and line not in code] == []


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link(tmp_path):
    pytest.importorskip("mkdocs")
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "mkdocs.yml"):
        shutil.copyfile(CLONE / name, tmp_path / name)
    for name in ("docs", "benchmarks", "sb3_ldm", "zoo_configs"):
        shutil.copytree(CLONE / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    status, output = run("python -m mkdocs build --strict", tmp_path, 300.0)
    assert status == 0, output
    api, front = ((tmp_path / "site" / name / "index.html").read_text() for name in ("api", "."))
    assert all(f"<code>{name}</code>" in api for name in ("imagination_starts", "beta", "gae_lambda")) and ":class:" not in api
    assert (
        'src="benchmarks/figures/' in front and (tmp_path / "site/benchmarks/figures/gridworld/learning_curves.png").is_file()
    )
    assert "default-src 'none'" in (tmp_path / "site/demo/page.html").read_text() or not available_pretrained()
    with (tmp_path / "docs/rl2.md").open("a") as page:
        page.write("\n[nowhere](ldm.md#nowhere)\n")
    status, output = run("python -m mkdocs build --strict", tmp_path, 300.0)
    assert status == 1 and "#nowhere" in output


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_runs_as_printed(command, trained):
    pytest.importorskip("mujoco")
    shutil.rmtree(trained / "logs")
    shutil.copytree(trained / "logs_before", trained / "logs")
    status, output = run(command, trained, PATIENCE_S)
    assert status in (0, None), output
