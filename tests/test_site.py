"""The documentation site: its pages, its navigation, the API reference, and the check of what was built."""

from __future__ import annotations

import ast
import html
import importlib
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rollforge
from rollforge.data import open_provider
from rollforge.task import Cause

sys.path.insert(0, str(Path(__file__).parent))

import site_check
import site_messages
import site_pages

ROOT = Path(__file__).parents[1]
SITE = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the pages as the site has them."""
    folder = tmp_path_factory.mktemp("pages")
    site_pages.stage(folder)
    return folder


@pytest.mark.parametrize("package", ["", *site_pages.ROOMS])
def test_the_api_reference_has_every_public_name(package: str, pages: Path) -> None:
    """Each name of ``__all__`` is in the table of its package, and its definition is documented on exactly one page."""
    module = importlib.import_module(f"rollforge.{package}" if package else "rollforge")
    page = (pages / "docs" / "api" / f"{package or 'rollforge'}.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[`(\w+)`\]\[([\w.]+)\] \| (.+) \|$", page, re.MULTILINE)
    assert {name for name, _, _ in listed} == set(module.__all__) - {"__version__"}
    everywhere = "".join(file.read_text(encoding="utf-8") for file in (pages / "docs" / "api").glob("*.md"))
    documented = re.findall(r"^::: ([\w.]+)$", everywhere, re.MULTILINE)
    for name, path, _ in listed:
        assert documented.count(path) == 1
        home, _, attribute = path.rpartition(".")
        found: Any = getattr(module, name)
        assert found is getattr(importlib.import_module(home), attribute)


def test_every_package_with_public_names_is_in_the_reference() -> None:
    """A package that exports names lazily, and ``plot``, has a page."""
    packages = {stub.parent.name for stub in (ROOT / "src" / "rollforge").glob("*/__init__.pyi")}
    assert packages | {"plot"} == set(site_pages.ROOMS)


def _files(navigation: Any) -> list[str]:
    if isinstance(navigation, str):
        return [navigation]
    values = navigation if isinstance(navigation, list) else navigation.values()
    return [file for value in values for file in _files(value)]


def test_every_page_is_in_the_navigation(pages: Path) -> None:
    """Each page can be reached from the menu, once; a decision can be reached from the page of decisions."""
    files = _files(SITE["nav"])
    assert len(files) == len(set(files))
    existing = {str(file.relative_to(pages)) for file in pages.rglob("*.md")}
    assert set(files) <= existing
    assert {name for name in existing - set(files) if not re.match(r"docs/decisions/\d", name)} == set()


def _titles(navigation: Any) -> list[str]:
    if isinstance(navigation, str):
        return []
    if isinstance(navigation, list):
        return [title for one in navigation for title in _titles(one)]
    return [title for name, value in navigation.items() for title in (name, *_titles(value))]


def test_every_title_of_the_menu_has_a_chinese_one() -> None:
    """Chinese pages show it, except for names of packages."""
    template = (ROOT / "docs" / "theme" / "partials" / "chinese.html").read_text(encoding="utf-8")
    chinese = dict(re.findall(r'^  "(.+?)": "(.+?)",?$', template, re.MULTILINE))
    titles = {title for title in _titles(SITE["nav"]) if title.isascii() and not title.lower().startswith("rollforge")}
    assert titles - {"Python"} == set(chinese)
    assert not any(title.isascii() for title in chinese.values())


def test_the_page_of_decisions_lists_them_all() -> None:
    """With number, file and title, in order."""
    folder = ROOT / "docs" / "decisions"
    rows = re.findall(r"^\| \[(\d+)\]\((.+?)\) \| (.+) \|$", (folder / "README.md").read_text("utf-8"), re.MULTILINE)
    expected = []
    for file in sorted(folder.glob("[0-9]*.md")):
        number, title = file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split(": ", 1)
        expected.append((number, file.name, title))
    assert rows == expected


def test_a_fence_with_words_after_the_language_is_one_that_the_site_reads(pages: Path) -> None:
    """Without it, the following headings would be part of the block, as in docs/windows.md."""
    assert site_pages.for_site("```text label\nx\n```\n") == "```text\nx\n```\n"
    assert not re.findall(r"^```\w+ .+$", (pages / "docs" / "windows.md").read_text("utf-8"), re.MULTILINE)


# -- messages ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every_message(pages: Path) -> str:
    """Return the text of the page of messages as the site shows it."""
    text = (pages / "docs" / "messages.md").read_text(encoding="utf-8")
    return html.unescape(re.sub(r"\\([\\`*_\[\]#|])", r"\1", text))


def test_every_message_of_an_error_is_on_its_page(every_message: str) -> None:
    """For each ``raise`` of an error with a message in the source, the longest part without values is on the page."""
    classes = site_messages.error_classes()
    missing, found = [], 0
    for file in (ROOT / "src" / "rollforge").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args):
                continue
            given = node.exc.args[0]
            if ast.unparse(node.exc.func).rpartition(".")[2] in classes and "testing" not in file.parts:
                parts = given.values if isinstance(given, ast.JoinedStr) else [given]
                texts = [one.value for one in parts if isinstance(one, ast.Constant) and isinstance(one.value, str)]
                longest = " ".join(max(texts, key=len, default="").split())
                found += bool(longest)
                if longest not in every_message:
                    missing.append((file.name, node.lineno, longest))
    assert found > 900
    assert missing == []


def test_the_messages_of_real_errors_are_found(tmp_path: Path) -> None:
    """A message that a user sees matches one of the page, with values in place of the gaps."""
    (tmp_path / "a.yaml").write_text(
        "rollforge: {data: x}\ntask: {model: m, dataset: d}\nroling: {step: 1}\nrun: {at: x}\n"
    )
    tries: list[Callable[[], object]] = [
        lambda: rollforge.load_workflow(tmp_path / "a.yaml"),
        lambda: rollforge.load_workflow(tmp_path / "b.yaml"),
        lambda: open_provider(str(tmp_path)),
        lambda: rollforge.TaskManager("p", store="memory://site").create_task([{"model": object()}]),
        lambda: rollforge.LinearModel(estimator="rigde"),
    ]
    patterns = [re.escape(one.text).replace("…", ".*") for one in site_messages.messages()]
    for attempt in tries:
        with pytest.raises(rollforge.RollforgeError) as raised:
            attempt()
        text = " ".join(str(raised.value).split())
        assert any(re.search(pattern, text) for pattern in patterns), text


def test_troubleshooting_quotes_messages_that_exist() -> None:
    """Each message of the page is one of the package, or a part of one, and each cause is one of a task's."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    known = [one.text for one in site_messages.messages()]
    causes = {str(cause) for cause in Cause}
    quoted = [message for message, _, _ in rows if message not in causes]
    assert len(quoted) > 40
    assert len(rows) - len(quoted) > 5
    for message in quoted:
        pattern = ".*".join(re.escape(part) for part in message.removeprefix("…").removesuffix("…").split("…"))
        assert any(re.search(pattern, text) for text in known), message


# -- what was built ----------------------------------------------------------------------------------------------------

POLICY = '<meta http-equiv="Content-Security-Policy" content="default-src \'self\'">'


def built(folder: Path, body: str, *, head: str = POLICY) -> list[str]:
    """Return what is wrong with a site of two pages, of which the first one has this body."""
    (folder / "other").mkdir()
    (folder / "index.html").write_text(f"<html><head>{head}</head><body>{body}</body></html>")
    (folder / "other" / "index.html").write_text(f"<html><head>{POLICY}</head><body id='here'></body></html>")
    return site_check.problems(folder)


@pytest.mark.parametrize(
    "body",
    [
        '<a href="other/#here">x</a> <a href="https://example.com/">elsewhere, but only after a click</a>',
        '<a href="#top">x</a><p id="top"></p><img src="data:image/png;base64,AA">',
        "<code>```</code> in code",
    ],
)
def test_a_site_without_problems(body: str, tmp_path: Path) -> None:
    """Links and anchors that exist, and links to other hosts, which nothing follows by itself."""
    assert built(tmp_path, body) == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="nowhere/">x</a>', "links to nowhere/, which does not exist"),
        ('<a href="other/#there">x</a>', "links to other/#there, which has no such anchor"),
        ('<script src="https://example.com/a.js"></script>', "loads https://example.com/a.js"),
        ('<link rel="stylesheet" href="//fonts.example.com/a.css">', "loads //fonts.example.com/a.css"),
        ('<p style="background: url(https://example.com/a.png)">', "loads https://example.com/a.png"),
        ('<img src="a.png">', "loads a.png, which does not exist"),
        ('<img src="data:," srcset="https://example.com/b.png 2x">', "loads https://example.com/b.png"),
        ('<pre class="mermaid">', "class mermaid makes the theme request something"),
        ("<p>```yaml</p>", "the text contains ```"),
        ("<p>[x](y.md</p>", "the text contains ]("),
    ],
)
def test_a_problem_of_the_site_is_found(body: str, problem: str, tmp_path: Path) -> None:
    """A dead link, a missing anchor, a request to another host, and Markdown that was not understood."""
    assert built(tmp_path, body) == [f"index.html: {problem}"]


def test_a_page_without_policy_is_found(tmp_path: Path) -> None:
    """The browser would not stop its requests."""
    assert built(tmp_path, "", head="") == ["index.html: no Content-Security-Policy"]


def test_a_style_sheet_with_a_font_of_another_host_is_found(tmp_path: Path) -> None:
    """The check reads every style sheet, whether or not a page names it."""
    (tmp_path / "a.css").write_text("@import 'https://fonts.example.com/x';\n@font-face { src: url(local.woff2) }\n")
    assert built(tmp_path, "") == ["a.css: loads https://fonts.example.com/x"]
