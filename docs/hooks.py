"""What MkDocs is told beside mkdocs.yml: pages from outside of this folder, and docstrings' roles."""

import functools
import importlib
import inspect
import os
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
#: Pages that are not in this folder, by their places in the repository.
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "benchmarks/RESULTS.md")
#: The page to play with, beside demo.md in the site.
DEMO = "demo/page.html"
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)#\s]*)(#[^)\s]*)?\)")
_ROLE = re.compile(r":(?:class|meth|func|mod|attr|data|obj):`~?([^`]+)`")
_CODE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Headings are linked to as on GitHub."""
    config["mdx_configs"].setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def place_in_site(path: str) -> str:
    """
    :param path: of a file, from the repository's root
    :return: its path from the site's root, as MkDocs names sources
    """
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def place_in_repository(source: str) -> str:
    """
    :param source: what MkDocs calls a page
    :return: its path from the repository's root
    """
    if source == "index.md":
        return "README.md"
    return source if source in OUTSIDE or source.startswith("benchmarks/") else f"docs/{source}"


def links_of(text: str) -> list[str]:
    """
    :param text: a page
    :return: the relative links in it, without headings
    """
    prose = "".join(_CODE.split(text)[::2])
    return [target for _, target, _ in _LINK.findall(prose) if target and ":" not in target]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside, and all files that pages link to."""
    waiting = [*OUTSIDE, *(place_in_repository(file.src_uri) for file in files.documentation_pages())]
    known: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in known or not (ROOT / path).is_file():  # MkDocs warns of the latter
            continue
        known.add(path)
        source = place_in_site(path)
        if files.get_file_from_path(source) is None:
            files.append(File.generated(config, source, abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            folder = posixpath.dirname(path)
            text = (ROOT / path).read_text(encoding="utf-8")
            waiting += [posixpath.normpath(posixpath.join(folder, link)) for link in links_of(text)]
    files.append(File.generated(config, DEMO, content=demo()))
    return files


@functools.cache
def demo() -> str:
    """:return: the page of :mod:`sb3_ldm.demo`"""
    from sb3_ldm.demo import ALGORITHMS, ENV_ID, pretrained_page
    from sb3_ldm.zoo.pretrained import available_pretrained

    if not {(algo, ENV_ID) for algo in ALGORITHMS} <= set(available_pretrained()):
        return "<!doctype html><title>No agents</title><p>The agents do not come with this copy of the package.</p>"
    return pretrained_page()


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links of the repository become links of the site; those to folders, which a site does not list, become text."""
    path = place_in_repository(page.file.src_uri)
    return rewritten(markdown, path, page.file.src_uri)


def rewritten(markdown: str, path: str, source: str) -> str:
    """
    :param markdown: a page
    :param path: where it is in the repository
    :param source: where it is in the site
    :return: the page, with the site's links
    """
    parts = _CODE.split(markdown)
    parts[::2] = [_LINK.sub(_link_of(path, source), part) for part in parts[::2]]
    return "".join(parts)


def _link_of(path: str, source: str) -> Callable[[re.Match[str]], str]:
    def link(found: re.Match[str]) -> str:
        text, target, heading = found[1], found[2], found[3] or ""
        if not target or ":" in target:
            return found[0]
        linked = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if (ROOT / linked).is_dir():
            return text.strip("![]")
        place = os.path.relpath(place_in_site(linked), posixpath.dirname(source) or ".")
        return f"{text}({place}{heading})"

    return link


class Docstrings(griffe.Extension):
    """Sphinx's roles, which docstrings have, become code; options that a constructor hands on are among its own."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """:param obj: any module, class, function or attribute"""
        if isinstance(obj, griffe.Class) and any("takes_options_of" in str(one.value) for one in obj.decorators):
            _take_options(obj)
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(lambda role: f"`{role[1].rsplit('.', 1)[-1]}`", obj.docstring.value)


def _take_options(obj: griffe.Class) -> None:
    """Signature and docstring as they are at run time."""
    assert obj.docstring is not None
    cls = getattr(importlib.import_module(obj.module.path), obj.name)
    obj.docstring.value = inspect.cleandoc(cls.__doc__)
    parameters = [
        griffe.Parameter(
            one.name,
            annotation=None if one.annotation is one.empty else inspect.formatannotation(one.annotation),
            kind=griffe.ParameterKind.positional_or_keyword,
            default=None if one.default is one.empty else repr(one.default),
        )
        for one in inspect.signature(cls.__init__).parameters.values()
    ]
    obj.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*parameters)))
