"""What is built of the repository carries the package with its data, and works alone in an environment of its own."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

CLONE = Path(__file__).parent.parent
FILES = ("README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "mkdocs.yml")
BUILD_FILES = ("constraints.txt", "pyproject.toml", "setup.cfg", "setup.py")
FOLDERS = ("sb3_ldm", "zoo_configs", "tests", "docs")

FIRST_STEPS = """
import sb3_ldm
from sb3_ldm import LDM, make_meta_vec_env
from sb3_ldm.evaluation import evaluate_meta
from sb3_ldm.zoo.configs import load_preset

env = make_meta_vec_env("GridNavi-v0", n_envs=8, seed=0)
LDM("MlpLstmPolicy", env, seed=0).learn(2 * 8 * env.get_attr("layout")[0].meta_episode_steps)
preset = load_preset("ldm", "GridNavi-v0") | {"imagination_starts": 0, "batch_size": None}
model = LDM(**preset, env=env, seed=0).learn(8 * 120)
model.save("model")
print(evaluate_meta(LDM.load("model"), "GridNavi-v0").returns.shape, sb3_ldm.__version__, sb3_ldm.__file__)
"""


def done(command: list[str | Path], folder: Path) -> str:
    """What a command says that ends well, in a folder outside of the clone and without its modules."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An sdist, and the wheel that is built of it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "clone"
    for name in FOLDERS:
        shutil.copytree(CLONE / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*FILES, *BUILD_FILES):
        shutil.copyfile(CLONE / name, copy / name)
    done([sys.executable, "-m", "build", "--outdir", folder / "dist", copy], folder)
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return sdist, wheel


def modules_and_data(presets: str) -> set[str]:
    """Paths of what the package needs, presets in the folder where they are."""
    modules = {path.relative_to(CLONE).as_posix() for path in (CLONE / "sb3_ldm").rglob("*.py")}
    configs = {f"{presets}/{path.name}" for path in (CLONE / "zoo_configs").glob("*.yml")}
    agents = {path.relative_to(CLONE).as_posix() for path in (CLONE / "sb3_ldm/pretrained").iterdir()}
    return modules | configs | agents | {f"sb3_ldm/{name}" for name in ("demo.html", "py.typed", "version.txt")}


@pytest.mark.slow
def test_both_carry_modules_presets_types_and_the_version(built):
    sdist, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert in_wheel == modules_and_data("sb3_ldm/zoo_configs")
    with tarfile.open(sdist) as archive:
        in_sdist = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert modules_and_data("zoo_configs") | {*FILES, *BUILD_FILES, "docs/ldm.md", "tests/test_package.py"} <= in_sdist


@pytest.mark.slow
def test_the_wheel_trains_in_an_environment_without_extras(built, tmp_path):
    _, wheel = built
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    done([python, "-m", "pip", "install", "-q", "-c", CLONE / "constraints.txt", wheel], tmp_path)
    assert "mujoco" not in done([python, "-m", "pip", "list"], tmp_path)
    shape, version, path = done([python, "-c", FIRST_STEPS], tmp_path).strip().splitlines()[-1].rsplit(" ", 2)
    assert shape == "(27, 4)" and version in wheel.name and Path(path).is_relative_to(tmp_path / "venv")
    assert "--algo" in done([python, "-m", "sb3_ldm.train", "--help"], tmp_path)
    assert "  train " in done([tmp_path / "venv/bin/sb3-ldm", "--help"], tmp_path)
