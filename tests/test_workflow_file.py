"""Reading a workflow file: Qlib's format and Rollforge's own, YAML 1.2, and errors with their lines."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest

from rollforge.errors import ConfigError, MissingCode
from rollforge.generators import rolling_entry
from rollforge.plan import make_plan
from rollforge.workflow import Workflow, _Document, load_workflow
from rollforge.yaml12 import read_yaml

QLIB_FORM = """\
qlib_init:
    provider_uri: "~/.qlib/qlib_data/cn_data"
    region: cn
market: &market csi300
benchmark: &benchmark SH000300
data_handler_config: &data_handler_config
    start_time: 2008-01-01
    end_time: 2020-08-01
    fit_start_time: <dataset.kwargs.segments.train.0>
    fit_end_time: <dataset.kwargs.segments.train.1>
    instruments: *market
port_analysis_config: &port_analysis_config
    strategy:
        class: TopkDropoutStrategy
        module_path: qlib.contrib.strategy
        kwargs: {signal: <PRED>, topk: 50, n_drop: 5}
    backtest: {start_time: 2017-01-01, end_time: 2020-08-01, account: 100000000, benchmark: *benchmark}
task:
    model:
        class: LGBModel
        module_path: qlib.contrib.model.gbdt
        kwargs: {loss: mse, learning_rate: 1e-3, lambda_l1: 205.6999, num_threads: 20, name: no}
    dataset:
        class: DatasetH
        module_path: qlib.data.dataset
        kwargs:
            handler: {class: Alpha158, module_path: qlib.contrib.data.handler, kwargs: *data_handler_config}
            segments:
                train: [2008-01-01, 2014-12-31]
                valid: [2015-01-01, 2016-12-31]
                test: [2017-01-01, 2020-08-01]
    record:
        - class: SignalRecord
          module_path: qlib.workflow.record_temp
          kwargs: {model: <MODEL>, dataset: <DATASET>}
        - class: PortAnaRecord
          module_path: qlib.workflow.record_temp
          kwargs: {config: *port_analysis_config}
"""

OWN_FORM = """\
rollforge:
  data: market
  store: sqlite:///tasks.db
  tracking: folder:runs
  experiment: mine
task:
  model: {class: LGBModel, module_path: rollforge.models}
  dataset: {class: DatasetH, module_path: rollforge.features.dataset, kwargs: {handler: x, segments: {}}}
rolling: {step: 60, rtype: sliding}
"""


def load(folder: Path, text: str, **overrides: object) -> Workflow:
    file = folder / "workflow.yaml"
    file.write_text(text, encoding="utf-8")
    return load_workflow(file, **overrides)


def message(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return str(caught.value)


def test_a_qlib_workflow_is_read_unchanged(tmp_path: Path) -> None:
    """Anchors, placeholders, references and dates are read as by Qlib's own runner."""
    workflow = load(tmp_path, QLIB_FORM)
    handler = workflow.template["dataset"]["kwargs"]["handler"]["kwargs"]
    assert workflow.form == "qlib"
    assert workflow.session.region == "cn"
    assert workflow.rolling is None
    assert handler["instruments"] == "csi300"
    assert handler["start_time"] == dt.date(2008, 1, 1)
    assert handler["fit_end_time"] == "<dataset.kwargs.segments.train.1>"
    assert workflow.template["record"][0]["kwargs"]["model"] == "<MODEL>"
    assert workflow.template["record"][1]["kwargs"]["config"]["backtest"]["benchmark"] == "SH000300"


def test_numbers_and_strings_follow_yaml_1_2(tmp_path: Path) -> None:
    """``1e-3`` is a number and ``no`` is a string, unlike in PyYAML."""
    kwargs = load(tmp_path, QLIB_FORM).template["model"]["kwargs"]
    assert kwargs["learning_rate"] == 0.001
    assert kwargs["name"] == "no"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("0", 0),
        ("-0", 0),
        ("000300", "000300"),
        ("010", "010"),
        ("00.5", 0.5),
        ("yes", "yes"),
        ("true", True),
        ("1:30", "1:30"),
        ("12e", "12e"),
    ],
)
def test_scalars_are_read_by_the_rules_of_yaml_1_2(text: str, value: object) -> None:
    """A leading zero does not mean octal, but a code, such as that of an index; there are no sexagesimal numbers and no yes/no
    booleans."""
    found = read_yaml(f"a: {text}")[0]["a"]
    assert (found, type(found)) == (value, type(value))


def test_rollforges_own_format_has_a_section_for_stores(tmp_path: Path) -> None:
    """``rollforge:`` has the data, store, tracking and experiment; by default windows are purged by the label's
    horizon."""
    workflow = load(tmp_path, OWN_FORM)
    assert workflow.form == "rollforge"
    assert (workflow.experiment_name, workflow.session.tracking_uri) == ("mine", "folder:runs")
    assert workflow.rolling == {"step": 60, "rtype": "sliding", "train_key": "train", "test_key": "test"}
    assert rolling_entry(workflow.rolling, workflow.form).config["kwargs"]["trunc_days"] == "auto"


def test_windows_in_qlibs_format_are_as_in_qlib(tmp_path: Path) -> None:
    """No truncation is added to a workflow in Qlib's format."""
    workflow = load(tmp_path, QLIB_FORM + "rolling: {step: 20}\n")
    assert workflow.rolling is not None
    assert rolling_entry(workflow.rolling, workflow.form).config["kwargs"]["trunc_days"] is None


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    """Overrides replace the values of the file; None is not an override."""
    workflow = load(tmp_path, OWN_FORM, experiment_name="other", tracking_uri="folder:elsewhere", store_uri=None)
    assert (workflow.experiment_name, workflow.session.tracking_uri) == ("other", "folder:elsewhere")
    assert workflow.session.store_uri == "sqlite:///tasks.db"
    short = load(tmp_path, OWN_FORM, experiment="other", tracking="folder:elsewhere")
    assert (short.experiment_name, short.session) == (workflow.experiment_name, workflow.session)


def test_the_file_name_is_the_default_experiment_name(tmp_path: Path) -> None:
    """A workflow without an experiment name uses the file name."""
    assert load(tmp_path, QLIB_FORM).experiment_name == "workflow"


def test_a_base_file_is_merged(tmp_path: Path) -> None:
    """``BASE_CONFIG_PATH`` is relative to the file; the values of the file override those of the base, key by key."""
    (tmp_path / "base.yaml").write_text(QLIB_FORM, encoding="utf-8")
    workflow = load(tmp_path, "BASE_CONFIG_PATH: base.yaml\ntask: {model: {kwargs: {num_threads: 1}}}\n")
    assert workflow.template["model"]["class"] == "LGBModel"
    assert workflow.template["model"]["kwargs"]["num_threads"] == 1
    assert workflow.template["model"]["kwargs"]["loss"] == "mse"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("task:", "taks:", "line 6: taks: unknown key. Did you mean 'task'?"),
        ("  model:", "  modell:", "line 7: task.modell: unknown key. Did you mean 'model'?"),
        ("module_path: rollforge.models", "modul_path: rollforge.models", "Did you mean 'module_path'?"),
        ("  data: market", "  dta: market", "line 2: rollforge.dta: unknown key. Did you mean 'data'?"),
        ("rtype: sliding", "rtype: slding", "rolling.rtype: must be 'sliding' or 'expanding', found 'slding'."),
        ("step: 60", "step: soon", "line 9: rolling.step: must be a valid integer"),
        ("step: 60", "stpe: 60", "rolling.stpe: unknown key. Did you mean 'step'?"),
        ("rollforge:", "qlib_init: {}\nrollforge:", "cannot be combined with qlib_init"),
    ],
)
def test_a_mistake_is_reported_with_its_line_and_a_suggestion(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    """For a misspelt key or value, the message contains the line, the path and a suggestion."""
    assert expected in message(tmp_path, OWN_FORM.replace(old, new, 1))


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    """A file with three mistakes gives three messages, in the order of lines."""
    text = OWN_FORM.replace("data: market", "dta: market").replace("model:", "modell:").replace("step:", "stpe:")
    found = message(tmp_path, text)
    assert found.index("rollforge.dta") < found.index("task.modell") < found.index("rolling.stpe")


@pytest.mark.parametrize("section", sorted(_Document.model_fields))
def test_messages_have_no_names_of_classes(section: str, tmp_path: Path) -> None:
    """A section of the wrong type is described in words, and what was found is shown once."""
    for value in ("text", "7", "[a]", "true"):
        file = tmp_path / "w.yaml"
        others = "task: {model: LGBModel, dataset: DatasetH}\n" if section != "task" else ""
        file.write_text(f"{others}{section}: {value}\n")
        try:
            load_workflow(file)
        except (ConfigError, MissingCode) as exc:
            said = str(exc).partition("\n")[2] or str(exc)
            assert not re.search(r"instance of|value error|\b_[A-Z]|parse|\.\.|\. ?,", said), said
            assert said.count("found ") <= 1, said


def test_unreadable_yaml_shows_line_and_column(tmp_path: Path) -> None:
    """The message shows the position of a syntax error."""
    found = message(tmp_path, "task:\n  model: {a: 1\n  x: [\n")
    assert "line 3, column 4" in found
    assert "x: [" in found


def test_a_duplicate_key_is_refused(tmp_path: Path) -> None:
    """PyYAML would silently use the second one."""
    assert "the key 'step' appears twice" in message(tmp_path, OWN_FORM.replace("step: 60", "step: 60, step: 20"))


def test_a_missing_file_is_reported_with_a_suggestion(tmp_path: Path) -> None:
    """The message suggests the nearest existing file."""
    (tmp_path / "rolling.yaml").write_text(OWN_FORM, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Did you mean 'rolling.yaml'"):
        load_workflow(tmp_path / "roling.yaml")


def test_a_document_that_is_not_a_mapping_is_refused(tmp_path: Path) -> None:
    """A list is not a workflow."""
    assert "must be a mapping" in message(tmp_path, "- 1\n")


def test_a_mistake_in_a_filter_is_reported_with_its_line(small_market: Path, tmp_path: Path) -> None:
    """The handler checks its filters later and does not know the line; it is added to the message."""
    file = tmp_path / "w.yaml"
    file.write_text(f"""\
rollforge: {{data: {small_market}}}
task:
  model: {{class: LinearModel, module_path: qlib.contrib.model.linear}}
  dataset:
    class: DatasetH
    module_path: qlib.data.dataset
    kwargs:
      handler:
        class: DataHandlerLP
        module_path: qlib.data.dataset.handler
        kwargs:
          instruments:
            market: all
            filter_pipe:
              - {{class: NameDFilter, kwargs: {{name_rule_re: ".*"}}}}
              - {{class: NameFilter, kwargs: {{name_rule_re: ".*"}}}}
          data_loader: {{class: QlibDataLoader, kwargs: {{config: {{feature: [["$close"], ["C"]]}}}}}}
      segments: {{train: [2022-01-03, 2022-12-30], test: [2023-01-02, 2023-03-31]}}
""")
    place = r"task\.dataset\.kwargs\.handler\.kwargs\.instruments\.filter_pipe\.1: The module"
    with pytest.raises(ConfigError, match=rf"w\.yaml, line 16: {place} .*Did you mean 'NameDFilter'"):
        make_plan(load_workflow(file))
