"""The documents are correct: links are valid, code runs, and commands, options, names and keys exist."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import rollforge
from rollforge.cli import exit_codes
from rollforge.cli.main import app
from rollforge.cli.pool import app as pool_app
from rollforge.drivers import LEDGERS, STORES, TRACKERS
from rollforge.plan import make_plan
from rollforge.run.execute import TOKEN_TAG, TRIAL_TAG
from rollforge.session import Session
from rollforge.track.mlflow.registry import OWNER_TAG
from rollforge.trust import PLUGIN_GROUP
from rollforge.workflow import _Document, _Rollforge, _Rolling, _Task, load_workflow
from rollforge.yaml12 import read_yaml

sys.path.insert(0, str(Path(__file__).parent))

import site_pages

ROOT = Path(__file__).parents[1]
PAGES = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
GUIDES = [p for p in PAGES if p.name != "CHANGELOG.md" and "decisions" not in p.parts]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_are_valid(page: Path) -> None:
    """Every relative link of a page leads to a file of the project."""
    for target in re.findall(r"\]\(([^)#]+)\)", text_of(page)):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def terms_of_glossary() -> dict[str, str]:
    """Term -> meaning."""
    rows = re.findall(r"^\| ([^|]+) \| (.+) \|$", text_of(ROOT / "docs" / "glossary.md"), re.MULTILINE)
    return {term: meaning for term, meaning in rows if term not in ("term", "---")}


def names_in(code: str) -> set[str]:
    """Every identifier that code defines or uses: names, parameters, attributes, keys."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        names = (getattr(node, kind, None) for kind in ("name", "id", "attr", "arg", "value"))
        found.update(name for name in names if isinstance(name, str))
    return found


def test_the_glossary_names_what_exists() -> None:
    """Everything in backticks is an identifier, a status or a key of the code, and the terms are in order."""
    terms = terms_of_glossary()
    assert list(terms) == sorted(terms, key=str.lower)
    assert len(terms) > 40
    known = set().union(*(names_in(p.read_text(encoding="utf-8")) for p in (ROOT / "src").rglob("*.py")))
    named = {name for meaning in terms.values() for name in re.findall(r"`([^`]+)`", meaning)}
    assert named - known == set()


def test_the_glossary_is_found() -> None:
    """From the front page, the map of the code and the guide for contributors."""
    for page in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"):
        assert "(docs/glossary.md)" in text_of(ROOT / page)


def test_every_public_name_exists() -> None:
    """Every name in ``__all__`` of ``rollforge`` and its rooms can be imported."""
    for room in (
        "",
        ".data",
        ".market",
        ".expressions",
        ".features",
        ".generate",
        ".store",
        ".track",
        ".models",
        ".record",
        ".run",
        ".collect",
        ".online",
    ):
        module = importlib.import_module(f"rollforge{room}")
        assert len(module.__all__) > 1
        for name in module.__all__:
            assert getattr(module, name) is not None
            assert name in dir(module) or name == "__version__"
    with pytest.raises(AttributeError, match="attribute"):
        rollforge.Rollforge  # noqa: B018


def test_the_pages_of_public_names_are_current() -> None:
    """``make tables`` writes the pages of ``docs/api`` as they are."""
    expected = {file.name: text for file, text in site_pages.api_pages()}
    assert {file.name: text_of(file) for file in (ROOT / "docs" / "api").glob("*")} == expected


def test_every_page_is_in_the_menu_of_the_site() -> None:
    """A new page gets a line in ``nav`` of ``zensical.toml``."""
    menu = text_of(ROOT / "zensical.toml")
    pages = [str(page.relative_to(ROOT)) for page in PAGES if not page.name[0].isdigit()]
    assert [page for page in pages if f'"{page}"' not in menu] == []


def test_the_page_of_the_workflow_file_has_every_key() -> None:
    """The sections of a file, and the keys of ``rollforge``, ``task`` and ``rolling``."""
    page = text_of(ROOT / "docs" / "workflow.md")
    parts = re.split(r"^## The section `(\w+)`$", page, flags=re.MULTILINE)
    tables = {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))
    models = {"": _Document, "rollforge": _Rollforge, "task": _Task, "rolling": _Rolling}
    assert list(tables) == list(models)
    for name, table in tables.items():
        cells = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.MULTILINE)
        assert {key for cell in cells for key in re.findall(r"\w+", cell)} == set(models[name].model_fields)


# -- Python ------------------------------------------------------------------------------------------------------------


def example(folder: Path, market: Path, name: str = "rolling_lightgbm") -> Path:
    """Write an example workflow for a small market, with few boosting rounds."""
    document = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8"))
    document["rollforge"] |= {
        "data": str(market),
        "store": f"sqlite:///{folder}/tasks.db",
        "tracking": f"folder:{folder}/runs",
    }
    kwargs = document["task"]["dataset"]["kwargs"]
    kwargs["handler"]["kwargs"] |= {"start_time": "2022-01-03", "instruments": "all"}
    kwargs["segments"] = {
        "train": ["2022-01-03", "2022-10-31"],
        "valid": ["2022-11-01", "2022-12-30"],
        "test": ["2023-01-02", "2023-12-29"],
    }
    document["task"]["model"]["kwargs"] |= {"num_boost_round": 5, "learning_rate": 0.05}
    file = folder / "example.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return file


def test_the_example_can_be_planned(small_market: Path, tmp_path: Path) -> None:
    """The windows of the example are purged, so there are no warnings about leakage."""
    plan = make_plan(load_workflow(example(tmp_path, small_market)))
    assert len(plan.tasks) == 3
    assert plan.warnings == ()


def test_the_example_of_generators_can_be_planned(small_market: Path, tmp_path: Path) -> None:
    """Two horizons and two seeds, trained again every half-year; each label ends before the next segment."""
    file = example(tmp_path, small_market, "generators")
    text = file.read_text(encoding="utf-8").replace("30 months", "6 months").replace("6 months\n", "2 months\n", 1)
    file.write_text(text, encoding="utf-8")
    plan = make_plan(load_workflow(file))
    models = [f"horizon {h}, seed {s}" for h in (1, 5) for s in (7, 8)]
    assert list(dict.fromkeys(plan.model_names)) == models
    assert [w.index for w in plan.windows] == [0, 1] * 4
    assert not [w for w in plan.warnings if "reach" in w]


SETTING = {
    "pool.md": "from rollforge import TaskManager\n"
    "manager = TaskManager('p')\nwindows, ensemble = [{'stage': 'window', 'n': 1}, {'stage': 'window', 'n': 2}], {'n': 3}\n",
}
"""Code that a page assumes before its first line."""


def python_blocks() -> Iterator[Any]:
    for page in GUIDES:
        if page.name in ("extending.md", "online.md"):
            continue  # tests/test_extending.py and tests/cli/test_online_page.py run their blocks
        if page.parent.name == "zh":
            continue  # the code is that of the original
        blocks = re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)
        if blocks:
            slow = [pytest.mark.slow] if page.name in ("README.md", "start.md") else []
            yield pytest.param(page, blocks, id=page.name, marks=slow)


@pytest.mark.parametrize(("page", "blocks"), list(python_blocks()))
def test_the_code_of_a_page_runs(page: Path, blocks: list[str], small_market: Path, tmp_path: Path) -> None:
    """All blocks run in order as one script, with the example workflow for a small market."""
    code = SETTING.get(page.name, "") + "\n".join(blocks)
    file = example(tmp_path, small_market)
    for name in ("examples/rolling_lightgbm.yaml", "workflow.yaml", "qlib.yaml"):
        code = code.replace(f'"{name}"', f'"{file}"')
    script = tmp_path / "script.py"
    body = "".join(f"    {line}" for line in code.splitlines(keepends=True))
    script.write_text(f'if __name__ == "__main__":\n{body}\n', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)],
        cwd=tmp_path,
        env={**os.environ, "ROLLFORGE_DATA": str(small_market)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_table_of_qlibs_names_is_correct() -> None:
    """In the rows "the same, from `rollforge.room`" of the README, every name exists in that room."""
    rows = re.findall(r"^\| (.+?) \| the same, from `([\w.]+)`", text_of(ROOT / "README.md"), re.MULTILINE)
    assert len(rows) > 5
    for names, module in rows:
        room = importlib.import_module(module)
        for name in re.findall(r"`([\w.]+)`", names):
            where: Any = room
            for part in name.split("."):
                where = getattr(where, part)


@pytest.mark.parametrize("page", GUIDES, ids=lambda p: p.name)
def test_dotted_names_exist(page: Path) -> None:
    """A module, class or function that a page names by its dotted path exists."""
    others = {
        STORES.group,
        LEDGERS.group,
        TRACKERS.group,
        PLUGIN_GROUP,
        TRIAL_TAG,
        TOKEN_TAG,
        OWNER_TAG,
    }  # entry points, tags
    for dotted in set(re.findall(r"`(rollforge(?:\.\w+)+)(?:\(\w*…?\)|\(\))?`", text_of(page))) - others:
        parts = dotted.split(".")
        for end in range(len(parts), 0, -1):
            try:
                found: Any = importlib.import_module(".".join(parts[:end]))
            except ImportError:
                continue
            for name in parts[end:]:
                found = getattr(found, name)
            break


# -- commands ----------------------------------------------------------------------------------------------------------


def commands() -> Iterator[Any]:
    """Yield every command line of the program, in code blocks and in sentences."""
    for page in GUIDES:
        text = text_of(page)
        lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
        lines += re.findall(r"`(rollforge [^`]+)`", text.replace("\n", " "))
        for line in dict.fromkeys(lines):
            if line.startswith(("rollforge ", "python -m rollforge.store.manager ")):
                yield pytest.param(line, id=f"{page.name}: {line[:60]}")


@pytest.mark.parametrize("line", list(commands()))
def test_commands_and_options_exist(line: str) -> None:
    """Each command that a page shows exists and has the options that are shown with it."""
    words = shlex.split(line.split("#")[0])
    root = typer.main.get_command(pool_app if "manager" in words[2:3] or words[0] == "python" else app)
    words = words[3:] if words[0] == "python" else words[1:]
    for alternative in _alternatives(words):
        _resolve(root, alternative)


def _alternatives(words: list[str]) -> Iterator[list[str]]:
    """Yield the commands of a line such as ``pool -t POOL watch | wait``, which stands for two commands."""
    if "|" not in words:
        yield words
        return
    at = words.index("|") - 1
    yield from ([*words[:at], word] for word in words[at:] if word != "|")


def _resolve(command: Any, words: list[str]) -> None:
    options = {name: param for param in command.params for name in param.opts}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            name, given, _ = word.partition("=")
            option = next((options[n] for n in (name, name.replace("_", "-")) if n in options), None)
            assert option is not None or name == "--help", f"{command.name} has no option {name}"
            if option is not None and not given and not getattr(option, "is_flag", False):
                rest = rest[1:]
        elif getattr(command, "commands", None) and word[0].islower():
            assert word.replace("_", "-") in command.commands, f"{command.name} has no command {word}"
            _resolve(command.commands[word.replace("_", "-")], rest)
            return


def test_the_table_of_exit_codes_is_correct() -> None:
    """The table is the same in the page, in the docstring of the module, and in the code."""
    page = re.findall(r"^\| (\d+) \| (.+?) \|$", text_of(ROOT / "docs" / "commands.md"), re.MULTILINE)
    module = re.findall(r"^(\d+)\s+(.+)$", exit_codes.__doc__ or "", re.MULTILINE)
    assert page == module
    assert [int(code) for code, _ in page] == [int(code) for code in exit_codes.Exit]


# -- workflow files ----------------------------------------------------------------------------------------------------


def _skeleton(page: Path) -> tuple[list[str], set[str], int]:
    """Return the code of a page without its comments, the pages that it links to, and the number of its headings."""
    text = text_of(page)
    lines = "".join(re.findall(r"^```\w+\n(.*?)```", text, re.DOTALL | re.MULTILINE)).splitlines()
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines += re.findall(r"^    (\S.*)$", outside, re.MULTILINE)
    links = {re.sub(r"^(\.\./|zh/)", "", link) for link in re.findall(r"\]\(([^)]+)\)", text)}
    # A drawing of arrows has words of the language.
    code = [re.sub(r" +# .*", "", line) for line in lines if "-->" not in line]
    return code, links, len(re.findall(r"^##? ", text, re.MULTILINE))


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/zh/*.md")), ids=lambda p: p.name)
def test_a_translation_has_the_code_and_the_links_of_its_original(page: Path) -> None:
    """The commands and the code are equal, there are as many headings, and links lead to the same pages."""
    assert _skeleton(page) == _skeleton(page.parents[1] / page.name)


def sections() -> Iterator[Any]:
    """Yield every part of a workflow that a page shows: ``key: {…}`` in sentences and blocks, and YAML blocks.

    ``rollforge: The …`` is an error that a command prints.
    """
    keys = "|".join(_Document.model_fields)
    for page in GUIDES:
        text = text_of(page)
        inline = re.findall(rf"`((?:{keys}): \{{[^`]*\}})`", text.replace("\n", " "))
        indented = re.findall(rf"^    (?!rollforge: The )((?:{keys}): .+)$", text, re.MULTILINE)
        for piece in dict.fromkeys([*inline, *indented, *re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]):
            yield pytest.param(piece, id=f"{page.name}: {piece[:50]}")


@pytest.mark.parametrize("piece", list(sections()))
def test_keys_of_workflow_files_exist(
    piece: str, small_market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workflow with that part in it can be loaded."""
    for module in read_yaml(piece.replace("…", ""))[0].get("plugins") or ():
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    file = example(tmp_path, small_market)
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    for key, value in read_yaml(piece.replace("…", ""))[0].items():
        document[key] = {**document[key], **value} if isinstance(document.get(key), dict) else value
    if "qlib_init" in document:
        del document["rollforge"]
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    load_workflow(file)


def test_every_field_of_a_session_is_a_key_of_the_file() -> None:
    """``data`` (also of ``folders``), ``store`` and ``tracking`` are the keys of its addresses, ``plugins`` is a separate
    key, ``sys`` has the folders, only workers need ``allow``, and ``data_until`` holds for a part of a program."""
    keys = set(_Rollforge.model_fields) | (set(_Document.model_fields) & {"plugins"})
    others = {
        "provider_uri",
        "folders",
        "store_uri",
        "tracking_uri",
        "experiment_name",
        "sys_path",
        "allow",
        "data_until",
    }
    assert {f.name for f in dataclasses.fields(Session)} - keys <= others


def test_sizes_may_have_units(small_market: Path, tmp_path: Path) -> None:
    """The value ``memory: 1G`` in a file is 2**30 bytes in the session."""
    file = example(tmp_path, small_market)
    file.write_text(file.read_text().replace("rollforge:\n", "rollforge:\n  memory: 1G\n  cache_limit: 5000000\n"))
    session = load_workflow(file).session
    assert (session.memory, session.cache_limit) == (2**30, 5_000_000)


def test_every_command_is_listed_with_what_it_is_in_python() -> None:
    """In docs/commands.md; the names exist. The dashboard is a program to look at, and a schema is a file."""
    section = text_of(ROOT / "docs" / "commands.md").partition("## In Python")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| (.+) \|$", section, re.MULTILINE)
    listed = {name for left, _ in rows for name in re.findall(r"`([a-z]+)`", left)}
    commands = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback is not None}
    groups = {group.name for group in app.registered_groups}
    assert listed == (commands | groups) - {"dashboard", "schema"}
    for _, right in rows:
        for name in re.findall(r"rollforge(?:\.\w+)+", right):
            parts = name.split(".")
            found = next(i for i in range(len(parts), 0, -1) if _is_module(".".join(parts[:i])))
            value: Any = importlib.import_module(".".join(parts[:found]))
            for part in parts[found:]:
                value = getattr(value, part)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
