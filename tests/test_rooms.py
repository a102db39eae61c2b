"""Imports go one way: each room knows those before it, and none behind it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sb3_ldm
from sb3_ldm.inference import RewardVAE
from sb3_ldm.moved import MOVED
from sb3_ldm.on_policy import VAEPPO

PACKAGE = Path(sb3_ldm.__file__).parent
#: The rooms in the order of the data's way; those of one line know nothing of each other.
ROOMS = (
    ("checks",),
    ("command", "env_ids", "files", "moved", "registry", "version"),
    ("memory", "options"),
    ("envs",),
    ("results",),
    ("nets",),
    ("data",),
    ("inference",),
    ("evaluation",),
    ("meta_algorithm",),
    ("gradient", "on_policy"),
    ("algorithms",),
    ("cluster", "figures"),
    ("zoo",),
    ("demo", "enjoy", "evaluate", "quickstart", "train", "tune"),
    ("__main__",),
)
RANKS = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}


def _imported_rooms(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            modules.update([node.module] if node.module != "sb3_ldm" else [f"sb3_ldm.{alias.name}" for alias in node.names])
    return {module.split(".")[1] for module in modules if module.startswith("sb3_ldm.")}


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.name != "__init__.py"]


def test_every_module_has_a_room():
    assert {_room(path) for path in FILES} <= RANKS.keys()


@pytest.mark.parametrize("room", RANKS)
def test_imports_go_one_way(room):
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {imported}"
        for path in FILES
        if _room(path) == room
        for imported in _imported_rooms(path)
        if imported != room and RANKS[imported] >= RANKS[room]
    }
    assert not wrong


def test_algorithms_do_not_know_each_other():
    folders = [path for path in (PACKAGE / "algorithms").iterdir() if path.is_dir() and path.name != "__pycache__"]
    for folder in folders:
        others = [f"sb3_ldm.algorithms.{other.name}" for other in folders if other != folder]
        for path in folder.rglob("*.py"):
            assert not [other for other in others if f"from {other}" in path.read_text()], path


def test_results_need_no_torch():
    code = "import sys, sb3_ldm.results, sb3_ldm.results.summary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", MOVED)
def test_former_names_can_be_imported(name):
    code = f"import warnings; warnings.simplefilter('ignore'); import {name}"
    exec(code)


def test_former_names_of_classes_can_be_imported():
    with pytest.warns(DeprecationWarning, match="has moved"):
        sys.modules.pop("sb3_ldm.common.latent_dynamics", None)
        from sb3_ldm.common.latent_dynamics import LatentDynamics, LatentDynamicsPPO
    assert (LatentDynamics, LatentDynamicsPPO) == (RewardVAE, VAEPPO)
