"""Workflow files in both formats, with their templates, and everything that is planned from them."""

from __future__ import annotations

import copy
import datetime as dt
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzzing import EXAMPLES, WORDS, Target, attempt, check, fuzzed, json_values, outcome_of_seed
from hypothesis import strategies as st
from test_expressions import market

from rollforge.compat.qlib.objects import parse_config
from rollforge.errors import shown
from rollforge.plan import make_plan
from rollforge.session import using
from rollforge.workflow import load_workflow
from rollforge.yaml12 import read_yaml


def document(data: str) -> dict[str, Any]:
    """Return a valid workflow."""
    handler = {
        "class": "Alpha158",
        "module_path": "qlib.contrib.data.handler",
        "kwargs": {
            "instruments": "all", "start_time": "2023-06-01", "end_time": "2023-12-29", "fit_start_time": "2023-06-01",
            "fit_end_time": "2023-08-31", "label": ["Ref($close, -2)/Ref($close, -1) - 1"],
            "infer_processors": [{"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature", "clip_outlier": True}}],
        },
    }  # fmt: skip
    segments = {
        "train": ["2023-06-01", "2023-08-31"],
        "valid": ["2023-09-01", "2023-09-29"],
        "test": ["2023-10-02", "2023-12-29"],
    }
    return {
        "rollforge": {"data": data, "store": "sqlite:///tasks.db", "tracking": "folder:runs", "experiment": "small", "memory": "1G"},
        "label_days": 2,
        "task": {
            "model": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear", "kwargs": {"estimator": "ridge"}},
            "dataset": {"class": "DatasetH", "module_path": "qlib.data.dataset", "kwargs": {"handler": handler, "segments": segments}},
            "record": [
                {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
                {"class": "SigAnaRecord", "kwargs": {"ana_long_short": False, "ann_scaler": 252}},
                {"class": "PortAnaRecord", "kwargs": {"config": {
                    "strategy": {"class": "TopkDropoutStrategy", "kwargs": {"signal": "<PRED>", "topk": 2, "n_drop": 1}},
                    "backtest": {"account": 1e6, "benchmark": None, "exchange_kwargs": {"limit_threshold": 0.095, "deal_price": "close"}},
                }}},
            ],
        },
        "rolling": {"step": 20, "rtype": "sliding", "trunc_days": "auto"},
        "grid": {"model.kwargs.alpha": [0.1, 0.2]},
    }  # fmt: skip


def _qlib_form(data: str) -> dict[str, Any]:
    own = document(data)
    del own["rolling"], own["grid"]
    own["qlib_init"] = {"provider_uri": data, "region": "cn", "kernels": 1}
    del own["rollforge"]
    own["sys"] = {"rel_path": "."}
    own["models"] = {
        "a": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear"},
        "b": {"model": {"kwargs": {"estimator": "ridge"}}},
    }
    return own


def _as_yaml(value: Any) -> bytes:
    return yaml.dump(value, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


MARKET = "@market@"


def _of_several_days(data: str) -> dict[str, Any]:
    own = document(data)
    own["task"]["dataset"] |= {"class": "TSDatasetH", "module_path": "qlib.data.dataset"}
    own["task"]["dataset"]["kwargs"] |= {"step_len": 5, "flt_col": None}
    del own["task"]["record"], own["grid"]
    own["task"]["dataset"]["kwargs"]["handler"]["kwargs"]["filter_pipe"] = [
        {"filter_type": "NameDFilter", "name_rule_re": "D.*"}
    ]
    return own


VALID = [document(MARKET), _qlib_form(MARKET), _of_several_days(MARKET)]
SEEDS = [
    *map(_as_yaml, VALID),
    b"# comment\n" + _as_yaml(VALID[0]).replace(b"'2023-06-01'", b"2023-06-01") + b"market: &m all\nbenchmark: *m\n",
    _as_yaml(VALID[0]).replace(b"small", b"{{ NAME_OF_IT }}"),
]


def _load(data: bytes, folder: Path, *, planned: bool = False) -> Any:
    file = folder / "workflow.yaml"
    file.write_bytes(data.replace(MARKET.encode(), os.fsencode(market())))
    before, path, variable = list(sys.path), Path.cwd(), os.environ.get("NAME_OF_IT")
    os.environ["NAME_OF_IT"] = "named"
    os.chdir(folder / "out")  # where a store or a folder of runs would be made
    try:
        workflow = load_workflow(file)
        if planned:
            with using(workflow.session.with_(threads=1)):
                return len(make_plan(workflow, limit=20).tasks)
        return workflow.experiment_name
    finally:
        sys.path[:] = before
        os.chdir(path)
        if variable is None:
            del os.environ["NAME_OF_IT"]


def _plan(data: bytes, folder: Path) -> Any:
    return _load(data, folder, planned=True)


def _yaml(data: bytes, folder: Path) -> Any:
    return read_yaml(data.decode("utf-8", "replace"))


def _qlib_config(data: bytes, folder: Path) -> Any:
    """Use what Qlib's own functions read: a string, and a file with settings."""
    text = data.decode("utf-8", "replace")
    (folder / "config.yaml").write_bytes(data)
    attempt(lambda: parse_config(text))
    return parse_config(str(folder / "config.yaml"))


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*path, key)
        yield from _places(value, (*path, key))


_hostile = st.one_of(
    json_values,
    st.dates(),
    st.datetimes(),
    st.sampled_from([float("nan"), float("inf"), -1, 0, 10**30, 2**63, "", None, [], {}, True, ["a"] * 50, {1: 2}, {None: 1}, "<model.kwargs>", "x.y",
                     "file:///dev/null", "rollforge.errors.nearest", "2020-02-30", b"bytes", {"class": "DatasetH"}, "~nobody_of_that_name"]),
    st.integers(0, len(WORDS) - 1).map(lambda i: WORDS[i].decode("utf-8", "replace")[:3000]),
)  # fmt: skip


@st.composite
def _changed(draw: st.DrawFn) -> bytes:
    made = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(made))
        *parents, last = places[draw(st.integers(0, len(places) - 1))]
        node: Any = made
        for part in parents:
            node = node[part]
        what = draw(st.integers(0, 9))
        if what == 0:
            del node[last]
        elif what == 1 and isinstance(node, dict):
            node[draw(st.one_of(st.text(max_size=5), st.integers(), st.none(), st.dates()))] = copy.deepcopy(node[last])
        else:
            node[last] = copy.deepcopy(draw(_hostile))
        if not made:
            break
    return _as_yaml(made)


YAML_WORDS = [b"&a ", b"*a", b"<<: *a", b"!!set", b"!!timestamp 2020", b"!!int abc", b"!!float x", b"!!binary $$", b"!!bool 5", b"!!pairs [1]", b"? [a]: b",
              b"0b1", b"0x1F", b"1:30", b"2020-02-30", b"2020-01-01 25:00:00", b"2020-01-01T00:00:00+99:00", b"{{ 1/0 }}", b"{{ x.y.z }}", b"{% if %}", b"{{ ''.__class__ }}",
              b"|\n", b">-\n", b"%YAML 9.9\n---\n", b"...\n---\n", b"\xff\xfe", b"BASE_CONFIG_PATH: workflow.yaml\n", b"BASE_CONFIG_PATH: /dev/zero\n",
              b"sys: {path: 5}\n", b"sys: {path: [null, 1]}\n", b"sys: {rel_path: ~nobody_of_that_name/x}\n"]  # fmt: skip


@fuzzed(
    Target("yaml", _yaml, SEEDS[:3], YAML_WORDS),
    Target("qlib-config", _qlib_config, SEEDS[:2], YAML_WORDS),
    Target("workflow", _load, SEEDS, YAML_WORDS, _changed()),
    Target("plan", _plan, SEEDS, YAML_WORDS, _changed()),
)
class TestWorkflows:
    """Workflow files."""


EVIL: list[Any] = [5, -1.5, True, None, "", "~nobody_of_that_name", "a\ud800", "x" * 300, [], [None], {}, {"a": {"b": 1}}, {5: 6}, 10**400, float("nan"),
                   dt.date(2020, 1, 1), dt.datetime(2020, 1, 1, tzinfo=dt.UTC), b"bytes"]  # fmt: skip


FULL = [
    VALID[0] | {"BASE_CONFIG_PATH": "", "market": "all", "benchmark": "x", "data_handler_config": {"a": 1}, "port_analysis_config": {"b": 1}},
    VALID[1]
    | {
        "qlib_init": {
            "provider_uri": MARKET, "region": "cn", "kernels": 1, "mount_path": None, "default_exp_name": "x", "custom_ops": [], "logging_level": 20,
            "exp_manager": {"class": "MLflowExpManager", "module_path": "qlib.workflow.expm", "kwargs": {"uri": "folder:runs", "default_exp_name": "x"}},
            "flask_server": None, "mongo": {"task_url": "mongodb://x", "task_db_name": "y"}, "limit_threshold": 0.1, "deal_price": "close",
        },
        "sys": {"path": ["."], "rel_path": ["."]},
        "experiment_name": "x",
    },
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("form", range(len(FULL)), ids=["own", "qlib"])
@pytest.mark.parametrize("half", [0, 1], ids=["even", "odd"])  # so that two processes share the work
def test_no_value_anywhere_in_a_workflow_gives_a_traceback(form: int, half: int) -> None:
    """Every key and element of a workflow is replaced with each of these values, and what can be read is planned.

    `FUZZ_EXAMPLES=200` tries all values everywhere; by default each place gets a quarter of them, in turn.
    """
    target = Target("place", _plan, [])
    outcome_of_seed(target, SEEDS[form])
    parts = max(1, 200 // max(1, EXAMPLES))
    broken = []
    for number, (*parents, last) in enumerate(_places(FULL[form])):
        for value in EVIL[half::2][number % parts :: parts]:
            made = copy.deepcopy(FULL[form])
            node: Any = made
            for part in parents:
                node = node[part]
            node[last] = value
            try:
                check(target, _as_yaml(made))
            except Exception as exc:  # noqa: BLE001 - all of them are listed
                broken.append(
                    f"{'.'.join(map(str, [*parents, last]))} = {shown(value)}: {type(exc).__name__}: {str(exc)[:100]}"
                )
    assert not broken, "\n".join(broken)
