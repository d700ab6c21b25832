"""The JSON Schema of a workflow file says what the reader says: for all examples, and for workflows with any mistake."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings, strategies as st
from tests.documents.command_line import call

from rollforge.engine.options import ENGINE_PATTERN, read_engine
from rollforge.errors import ConfigError, RollforgeError
from rollforge.generators import build_generators
from rollforge.limits import SIZE_PATTERN, parse_size
from rollforge.workflow import load_workflow
from rollforge.workflow_schema import SCHEMA_URL, schema_text, workflow_schema
from rollforge.yaml12 import read_yaml

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: pip install jsonschema")

ROOT = Path(__file__).parents[1]
FILES = [
    file
    for folder in ("examples", "src/rollforge/project_templates", "tests/golden/rolling")
    for file in sorted((ROOT / folder).rglob("*.yaml"))
    if "\ntask:" in file.read_text(encoding="utf-8")
]
SCHEMA = jsonschema.Draft202012Validator(workflow_schema())
FIRST_LINE = f"# yaml-language-server: $schema={SCHEMA_URL}\n"

Path_ = tuple[Any, ...]
MODEL = {"class": "LGBModel", "module_path": "rollforge.models", "kwargs": {"num_leaves": 3}}
DATASET = {"class": "DatasetH", "module_path": "rollforge.features", "kwargs": {"handler": {}, "segments": {}}}
OWN = {
    "rollforge": {
        "data": "d", "region": "us", "exchange": {"deal_price": "close"}, "cache_limit": "50G", "threads": 2,
        "operators": [{"class": "X", "module_path": "x.py"}],
    },
    "plugins": [], "leakage": "warn", "label_horizon": 2,
    "task": {
        "model": MODEL, "dataset": DATASET, "label_horizon": 2, "resources": {"cpus": 2, "memory": "2G", "gpus": 0.5},
        "record": ["SignalRecord", {"class": "SigAnaRecord", "module_path": "rollforge.record"}],
    },
    "rolling": {"step": 20, "rtype": "sliding", "trunc_days": "auto", "roll_backtest": True},
    "grid": {"model.kwargs.num_leaves": [3, 4]},
    "ensemble": {"windows": {"class": "RollingEnsemble", "module_path": "rollforge.collect"}, "models": "x.py:f"},
    "policy": {"shadow_days": 5, "metric": "ic", "margin": 0.1, "lost": "keep"},
    "signals": {"table": True}, "registry": "name",
    "run": {"on": "dask://h:8786", "jobs": 2, "cpus": 1, "memory": "1G", "gpus": 1, "data": "sent"},
    "checks": {"universe": 0.9, "score_psi": {"limit": 0.5, "level": "fail", "days": 10}, "gap": False, "block": True},
    "notify": [
        {"command": "mail me"}, {"webhook": "https://h/x"},
        {"email": {"to": "a@b.c", "server": "h:25", "user": "u", "password": "env:P"}},
    ],
}  # fmt: skip
QLIBS = {
    "qlib_init": {
        "provider_uri": "d", "region": "cn", "redis_port": 3, "provider": "LocalProvider", "kernels": 2,
        "exp_manager": {"class": "MLflowExpManager", "kwargs": {"uri": "x", "default_exp_name": "e"}},
        "custom_ops": [{"class": "X", "module_path": "x.py"}],
    },
    "task": {"dataset": DATASET, "record": {"class": "SigAnaRecord", "module_path": "rollforge.record"}},
    "models": {
        "a": MODEL,
        "b": {"model": MODEL, "label_horizon": 3},
        "c": {"dataset": {"kwargs": {"handler": {"class": "Alpha158"}}}, "model": "a.py:f"},
    },
    "generate": [
        {"SeedGen": {"seeds": 3}}, {"RollingGen": {"step": 20}},
        {"class": "MultiHorizonGen", "module_path": "rollforge.generate", "kwargs": {"horizon": [1, 2]}},
    ],
}  # fmt: skip
DOCUMENTS = (OWN, QLIBS)
"""Between them, they use every section."""
VALUES = (3.7, "text", [], {}, [1], {"a": 1}, None, True, False, -1, 0, 5, "5")


def places(node: Any, at: Path_ = ()) -> Iterator[Path_]:
    yield at
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*at, key))


def inside(document: Any, at: Path_) -> Any:
    for key in at:
        document = document[key]
    return document


def changed(document: Any, at: Path_, key: Any, value: Any) -> Any:
    """Return a copy with another value; without the key if the value is ``...``."""
    made = copy.deepcopy(document)
    around = inside(made, at)
    if value is ...:
        del around[key]
    else:
        around[key] = value
    return made


def read(document: Any, folder: Path) -> str:
    """Read a workflow and build its generators, and return the error; empty if there is none."""
    file = folder / "workflow.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    (folder / "x.py").write_text("class X: ...\n")
    try:
        workflow = load_workflow(file)
        build_generators(workflow.generate, workflow.form)
    except RollforgeError as exc:
        return str(exc)
    return ""


def refused(document: Any) -> list[str]:
    return [f"{error.json_path}: {error.message:.100}" for error in SCHEMA.iter_errors(document)]


def free(at: Path_) -> bool:
    """Return whether the keys of a mapping are not the workflow's: arguments of a class, or anchors of the document."""
    return not at or "kwargs" in at or at in (("run", "slurm"), ("qlib_init", "exp_manager"))


def more_than_a_schema(document: Any, at: Path_) -> bool:
    """Return whether the reader checks a value there by more than its form: it builds it, or merges it into the task."""
    if at[:2] == ("rollforge", "exchange") or at[:1] in (("generate",), ("models",)) or at == ("run", "jobs"):
        return True
    return at == ("task", "dataset") and "models" in document


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_published_schema_is_up_to_date() -> None:
    """``make tables`` writes it, ``rollforge schema`` prints it, and it is a valid schema."""
    text = (ROOT / "docs" / "workflow.schema.json").read_text(encoding="utf-8")
    assert text == schema_text()
    assert json.loads(call("schema").stdout) == json.loads(text)
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


def test_the_schema_is_written_to_a_file(tmp_path: Path) -> None:
    """A folder that does not exist is one message with exit code 2."""
    assert call("schema", "--output", tmp_path / "s.json").exit_code == 0
    assert (tmp_path / "s.json").read_text(encoding="utf-8") == schema_text()
    done = call("schema", "--output", tmp_path / "none" / "s.json")
    assert isinstance(done.exception, ConfigError)
    assert "cannot be written: No such file or directory" in str(done.exception)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_examples_and_templates_have_the_schema_in_their_first_line_and_satisfy_it(file: Path) -> None:
    """Editors read that line."""
    text = file.read_text(encoding="utf-8")
    assert text.startswith(FIRST_LINE) or "tests" in file.parts
    assert refused(read_yaml(text)[0]) == []


def test_an_editor_proposes_classes_and_explains_keys() -> None:
    """Every key of a section has a description, and models, records and generators of Rollforge are proposed."""
    parts = workflow_schema()["$defs"]
    for name in ("Document", "Rollforge", "Rolling", "Run", "Policy", "Task", "Object", "Ensembles", "Resources"):
        for key, described in parts[name]["properties"].items():
            assert described.get("description", "").endswith("."), (name, key)
    assert "LGBModel" in parts["Model"]["properties"]["class"]["anyOf"][0]["enum"]
    assert "SigAnaRecord" in parts["Record"]["properties"]["class"]["anyOf"][0]["enum"]
    assert parts["Generator"]["anyOf"][2]["properties"]["SeedGen"]["required"] == ["seeds"]


# -- the same answers as the reader ------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=["rollforge", "qlib"])
def test_unknown_keys_are_rejected_by_both(document: Any, tmp_path: Path) -> None:
    """In every mapping whose keys belong to the workflow; in all others, both accept any key."""
    assert refused(document) == []
    assert read(document, tmp_path) == ""
    for at in places(document):
        if not isinstance(inside(document, at), dict):
            continue
        wrong = changed(document, at, "zzqq", 1)
        if at == ("grid",):  # its keys are paths in the task
            continue
        if not free(at):
            assert refused(wrong) != [], at
            assert "zzqq" in read(wrong, tmp_path) or isinstance(at[-1], int), at  # an entry with two keys
        elif at[:1] != ("generate",):
            assert (refused(wrong), read(wrong, tmp_path)) == ([], ""), at


@settings(max_examples=120)
@given(st.data())
@example(None)
def test_a_changed_workflow_has_the_same_answer_from_both(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject | None
) -> None:
    """A key is removed or has another value. The schema may only reject what the reader converts, such as ``"5"`` for
    a number, and may only accept what the reader checks by building it."""
    logging.disable(logging.WARNING)
    try:
        if data is None:
            return
        document = data.draw(st.sampled_from(DOCUMENTS))
        at = data.draw(st.sampled_from([place for place in places(document) if place]))
        value = data.draw(st.sampled_from([..., *VALUES]))
        wrong = changed(document, at[:-1], at[-1], value)
        error, rejected = read(wrong, tmp_path_factory.mktemp("w")), refused(wrong)
        if error:
            assert rejected or more_than_a_schema(wrong, at), error
        if rejected:
            assert error or value in ("5", 0, True, False) or at[:1] == ("generate",), rejected
    finally:
        logging.disable(logging.NOTSET)


def test_sections_that_cannot_be_combined_are_rejected_by_both(tmp_path: Path) -> None:
    """Both formats, two lists of generators, no model, and no model besides ``models``."""
    for wrong in (
        {**OWN, "qlib_init": {}},
        {**OWN, "generate": ["SeedGen"], "generators": ["SeedGen"]},
        {**OWN, "task": {"dataset": DATASET}},
        {**OWN, "models": {}},
        {key: value for key, value in OWN.items() if key != "task"},
    ):
        assert read(wrong, tmp_path)
        assert refused(wrong)


def test_a_file_with_a_base_file_may_leave_out_anything(tmp_path: Path) -> None:
    """What it leaves out is in the base file, which an editor does not read."""
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(OWN), encoding="utf-8")
    document = {"BASE_CONFIG_PATH": "base.yaml", "task": {"model": {"kwargs": {"num_leaves": 5}}}}
    assert read(document, tmp_path) == ""
    assert refused(document) == []


@given(
    st.from_regex(ENGINE_PATTERN, fullmatch=True)
    | st.sampled_from(
        ["", "ray:", "ray:h", "ray:h:x", "dask://h:1/", "slurm:h:1", "local:", "ray:///h:1", "k8s", "ray:a:b:1"]
    )
)
def test_the_pattern_of_engines(text: str) -> None:
    """The pattern accepts what the reader accepts."""
    try:
        read_engine(text)
    except ConfigError:
        assert not re.search(ENGINE_PATTERN, text)
    else:
        assert re.search(ENGINE_PATTERN, text)


@given(
    st.from_regex(SIZE_PATTERN, fullmatch=True)
    | st.sampled_from(["", "G", "1 G", "1.5MiB", "-1", "1e3", "2GG", "1iB", "3B"])
)
def test_the_pattern_of_sizes(text: str) -> None:
    """The pattern accepts what the reader accepts."""
    try:
        parse_size(text)
    except ConfigError:
        assert not re.search(SIZE_PATTERN, text)
    else:
        assert re.search(SIZE_PATTERN, text)
