"""A workflow file that would take forever or exhaust memory is soon refused with one message."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rollforge.errors import ConfigError
from rollforge.limits import LIMITS, TooLarge
from rollforge.rendering import render
from rollforge.workflow import load_workflow
from rollforge.yaml12 import read_yaml

TASK = "task: {model: {class: M, module_path: m}, dataset: {class: D, module_path: d}}\n"


@contextmanager
def soon(seconds: float = 5.0) -> Iterator[None]:
    """Fail if the block takes more CPU time; on an idle machine it takes at most one second."""
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


def nested(levels: int, line: str) -> str:
    """Return YAML with anchors, each of which refers to the previous one nine times."""
    return "a0: &a0 {k0: 1}\n" + "".join(line.format(i=i, j=i - 1) for i in range(1, levels + 1))


@pytest.mark.parametrize(
    "line",
    [
        "a{i}: &a{i} [" + ", ".join(["*a{j}"] * 9) + "]\n",
        "a{i}: &a{i} {{" + ", ".join(f"x{n}: *a{{j}}" for n in range(9)) + "}}\n",
        "a{i}: &a{i} {{<<: [" + ", ".join(["*a{j}"] * 9) + "], k{i}: 1}}\n",
        "a{i}: &a{i}\n" + "".join("  - *a{j}\n" for _ in range(9)),
    ],
    ids=["lists", "mappings", "merges", "block"],
)
def test_anchors_that_expand_exponentially_are_refused(line: str, tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    file.write_text(nested(12, line) + TASK)
    with (
        soon(),
        pytest.raises(TooLarge, match=r"bomb\.yaml, line \d+: the document expands to more than 300,000") as caught,
    ):
        load_workflow(file)
    assert "ROLLFORGE_LIMIT_EXPANDED_VALUES" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_anchors_within_the_limit_are_read_with_their_lines() -> None:
    document, lines = read_yaml(nested(3, "a{i}: &a{i} [" + ", ".join(["*a{j}"] * 9) + "]\n"))
    assert document["a3"][8][8][8] == {"k0": 1}
    assert lines.get("a3.8.8.8.k0") == 1  # where it is written
    assert lines.get("a3.9") == 0
    assert lines.nearest("a3.9") == 4


def test_lines_are_found_for_keys_with_dots_and_through_a_merge() -> None:
    _, lines = read_yaml("grid:\n  model.kwargs.loss: [a, b]\nbase: &base\n  x: 1\nown:\n  <<: *base\n  y: 2\n")
    assert lines.get("grid.model.kwargs.loss.1") == 2
    assert (lines.get("own.x"), lines.get("own.y")) == (4, 7)


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a\n  <<: *a\n", "a: &a {b: &b [*a, *b]}"])
def test_an_alias_inside_its_own_anchor_is_refused(text: str) -> None:
    with soon(), pytest.raises(TooLarge, match=r"line 1: the alias \*a|line 2: the alias \*a"):
        read_yaml(text)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_nesting_deeper_than_the_limit_is_refused(opening: str) -> None:
    with soon(), pytest.raises(TooLarge, match="is nested deeper than 100 levels"):
        read_yaml("a:\n  " + opening * 50_000)


def test_more_values_than_the_limit_are_refused() -> None:
    with soon(), pytest.raises(TooLarge, match="contains more than 50,000 values"):
        read_yaml("a: [" + "1," * 200_000 + "1]")


def test_a_limit_can_be_raised_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "a: " + "[" * 105 + "]" * 105
    with pytest.raises(TooLarge, match="raise the limit with ROLLFORGE_LIMIT_DEPTH"):
        read_yaml(deep)
    monkeypatch.setenv("ROLLFORGE_LIMIT_DEPTH", "200")
    assert "a" in read_yaml(deep)[0]
    monkeypatch.setenv("ROLLFORGE_LIMIT_DEPTH", "many")
    with pytest.raises(ConfigError, match="ROLLFORGE_LIMIT_DEPTH: 'many' is not a size"):
        read_yaml(deep)


# -- templates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
        "{{ 7 ** (7 ** 12) }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ ('x' * 10 ** 8)|length }}{{ ('x' * 10 ** 9)|length }}",
        "{{ 'x'.center(10 ** 10) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ [[0] * 10 ** 6] * 10 ** 6 }}",
        "{% set ns = namespace(a='x' * 99) %}{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{{ 1 / 0 }}",
        "{{ range(10 ** 9) }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "-" * 100_000 + "1 }}",
        "{{ lipsum(n=100000) }}",
    ],
)
def test_a_template_that_computes_too_much_is_refused(template: str) -> None:
    with soon(12), pytest.raises(ConfigError, match=r"w\.yaml: ") as caught:
        render(template, "w.yaml")
    assert len(str(caught.value)) < 1000


def test_a_template_with_a_small_computation_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH", "4")
    text = (
        "a: {{ DEPTH|int + 1 }}\nb: [{% for i in range(3) %}{{ i }},{% endfor %}]\nc: {{ MISSING|default('none') }}\n"
    )
    assert render(text, "w.yaml") == "a: 5\nb: [0,1,2,]\nc: none"
    assert render("d: {{ DEPTH }}{{ NONE_SUCH }}", "w.yaml") == "d: 4"


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_regular_is_refused_before_it_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, message in [(pipe, "a named pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")]:
        own = tmp_path / "own.yaml"
        own.write_text(f"BASE_CONFIG_PATH: {path}\n{TASK}")
        for file in (path, own):
            with soon(), pytest.raises(ConfigError, match=message):
                load_workflow(file)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "huge.yaml"
    with file.open("wb") as stream:
        stream.truncate(50 * 2**30)  # sparse
    with soon(), pytest.raises(TooLarge, match=r"contains 50 GiB; the limit is 1 MiB"):
        load_workflow(file)


def test_cyclic_or_endless_base_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "self.yaml").write_text("BASE_CONFIG_PATH: self.yaml\n")
    (tmp_path / "one.yaml").write_text("BASE_CONFIG_PATH: two.yaml\n")
    (tmp_path / "two.yaml").write_text("BASE_CONFIG_PATH: one.yaml\n")
    for i in range(10_000):
        (tmp_path / f"{i}.yaml").write_text(f"BASE_CONFIG_PATH: {tmp_path}/{i + 1}.yaml\n")
    for name, message in [
        ("self", "is based on itself"),
        ("one", "is based on itself"),
        ("0", "the limit is 10 files"),
    ]:
        with soon(), pytest.raises(ConfigError, match=message):
            load_workflow(tmp_path / f"{name}.yaml")


def test_a_loop_of_links_is_an_error_of_the_file(tmp_path: Path) -> None:
    """Before Python 3.13, ``Path.resolve`` raises a RuntimeError for it."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "w.yaml").write_text("BASE_CONFIG_PATH: loop\n")
    for name in ("loop", "w.yaml"):
        with pytest.raises(ConfigError, match="symbolic links"):
            load_workflow(tmp_path / name)


def test_the_documented_limits_are_correct() -> None:
    """The page lists every limit with its variable, default and meaning."""
    page = (Path(__file__).parents[1] / "docs" / "limits.md").read_text(encoding="utf-8")
    for limit in LIMITS.values():
        assert f"| `{limit.variable}` | {limit.shown(limit.default)} | {limit.about} |" in page
    assert page.count("ROLLFORGE_LIMIT_") == len(LIMITS) + 1  # and one example
