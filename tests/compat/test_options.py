"""Options of ``qlib.init`` and ``qlib_init``: each works, is refused, or is listed as having no effect on numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import rollforge.compat.qlib  # noqa: F401 - lets "import qlib" lead here
from definitions import backtest, expressions, task_definition, write_workflow
from rollforge import session as session_module
from rollforge.compat.qlib.config import C, auto_init, init, init_from_yaml_conf
from rollforge.compat.qlib.settings import DEFAULTS
from rollforge.errors import ConfigError
from rollforge.plan import make_plan
from rollforge.qlib_options import ONLY, WITHOUT_EFFECT, WORKS, check_option, data_folders
from rollforge.record.backtest import TopkDropoutStrategy, run_backtest
from rollforge.session import EXCHANGE, Session, current_session
from rollforge.workflow import load_workflow

DOCS = Path(__file__).parents[2] / "docs"
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def _own_session(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run each test without existing settings, and remove those that it creates."""
    monkeypatch.setattr(session_module, "_default", None)
    C.clear()
    yield
    C.clear()


@pytest.fixture(scope="module")
def prediction() -> pd.DataFrame:
    return pd.read_parquet(GOLDEN / "rolling_prediction.parquet").loc["2016-01-04":"2016-03-31"]


def test_a_project_file_may_refer_to_another_one(tmp_path: Path) -> None:
    """With ``conf_type: ref``, the other file's options apply unless they are replaced; a file may also be complete."""
    (tmp_path / "inside").mkdir()
    shared = write_workflow(
        tmp_path / "shared.yaml", {"provider_uri": str(tmp_path / "data"), "region": "us", "kernels": 1}
    )
    file = tmp_path / "config.yaml"
    for document, region, unit in (
        ({"conf_type": "ref", "qlib_cfg": str(shared), "qlib_cfg_update": {"trade_unit": 7}}, "us", 7),
        (
            {"conf_type": "ref", "qlib_cfg": None, "qlib_cfg_update": {"provider_uri": str(tmp_path / "data")}},
            "cn",
            100,
        ),
        ({"conf_type": "origin", "provider_uri": str(tmp_path / "data"), "region": "tw"}, "tw", 1000),
    ):
        write_workflow(file, document)
        auto_init(cur_path=tmp_path / "inside", skip_if_reg=False)
        assert (C.region, C.trade_unit, current_session().provider_uri) == (region, unit, str(tmp_path / "data"))
    for document, words in (
        ({"conf_type": "reff"}, r"config\.yaml: conf_type: must be 'origin' or 'ref', found 'reff'"),
        ({"conf_type": "ref", "qlib_cfg_update": ["region"]}, r"qlib_cfg_update: must be a mapping"),
    ):
        write_workflow(file, document)
        with pytest.raises(ConfigError, match=words):
            auto_init(cur_path=tmp_path, skip_if_reg=False)
    init_from_yaml_conf(None, provider_uri=str(tmp_path / "other"))
    assert current_session().provider_uri == str(tmp_path / "other")


def test_the_shared_file_is_found_from_any_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is in the folder of ``config.yaml``, ``~`` is the home folder, and errors name file and key."""
    home, project, inside = tmp_path / "home", tmp_path / "project", tmp_path / "project" / "inside"
    for folder in (home, project, inside):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for folder, region in ((home, "us"), (project, "tw")):
        options = {"conf_type": "origin", "provider_uri": str(tmp_path / "data"), "region": region}
        write_workflow(folder / "shared.yaml", options)
    for cwd, start in ((tmp_path, project), (inside, None), (inside, "."), (project, "inside")):
        monkeypatch.chdir(cwd)
        for named, region in (("shared.yaml", "tw"), ("~/shared.yaml", "us"), (str(home / "shared.yaml"), "us")):
            write_workflow(project / "config.yaml", {"conf_type": "ref", "qlib_cfg": named})
            auto_init(cur_path=start, skip_if_reg=False)
            assert C.region == region
    for shared, words in (
        ("none.yaml", r"names .*none\.yaml: No such file"),
        (".", "names .*project: .* is a folder; a regular file is needed"),
        ("config.yaml", r"names .*config\.yaml: its conf_type must be 'origin', found 'ref'"),
        (["shared.yaml"], r"must be the path of a file, found \['shared\.yaml'\]"),
        (999, "must be the path of a file, found 999"),
        (True, "must be the path of a file, found True"),
    ):
        write_workflow(project / "config.yaml", {"conf_type": "ref", "qlib_cfg": shared})
        with pytest.raises(ConfigError, match=rf"config\.yaml: qlib_cfg: {words}"):
            auto_init(cur_path=project, skip_if_reg=False)
    init_from_yaml_conf(project / "shared.yaml")
    assert C.region == "tw"


def test_auto_init_keeps_the_folder_of_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder given to ``rollforge.init`` is not replaced; one from the environment is, by the project's file."""
    write_workflow(tmp_path / "config.yaml", {"provider_uri": str(tmp_path / "other")})
    monkeypatch.setenv("ROLLFORGE_DATA", str(tmp_path / "environment"))
    session_module.init(provider_uri=str(tmp_path / "data"))
    auto_init(cur_path=tmp_path)
    assert current_session().provider_uri == str(tmp_path / "data")
    monkeypatch.setattr(session_module, "_default", None)
    auto_init(cur_path=tmp_path)
    assert current_session().provider_uri == str(tmp_path / "other")


def test_auto_init_keeps_what_has_been_set_up(tmp_path: Path) -> None:
    """A library that calls it does not replace the data folder of the program, with or without a file."""
    init(provider_uri=str(tmp_path / "data"), region="us")
    auto_init(cur_path=tmp_path)
    write_workflow(tmp_path / "config.yaml", {"provider_uri": str(tmp_path / "other"), "region": "cn"})
    auto_init(cur_path=tmp_path)
    assert (current_session().provider_uri, C.region) == (str(tmp_path / "data"), "us")


def test_every_option_of_qlibs_is_classified() -> None:
    """Each option for which Qlib has a default is in exactly one of the three lists, and each of them is on the
    page."""
    lists = [set(WORKS), set(WITHOUT_EFFECT), set(ONLY)]
    known = set.union(*lists)
    assert set(DEFAULTS) | set(EXCHANGE) <= known
    assert sum(map(len, lists)) == len(known)
    page = (DOCS / "compat.md").read_text()
    assert [name for name in sorted(known) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_options_without_effect_change_nothing(name: str, tmp_path: Path) -> None:
    """With any of their values, the session is the same as without them."""
    init(provider_uri=str(tmp_path))
    before = current_session()
    for value in (None, 7, "x", {"a": 1}):
        init(provider_uri=str(tmp_path), **{name: value})
        assert current_session() == before


def test_trade_unit_limit_and_price_work(golden_market: Path, prediction: pd.DataFrame) -> None:
    """Each changes the backtest in the same way as in exchange_kwargs, and all of them can be read back."""

    def account(**kwargs: Any) -> float:
        strategy = TopkDropoutStrategy(signal=prediction, topk=5, n_drop=2)
        report = run_backtest(strategy, account=1e5, exchange_kwargs=kwargs).report
        return float(report["account"].iloc[-1])

    init(provider_uri=str(golden_market), region="cn")
    free: dict[str, Any] = {"limit_threshold": math.inf}
    wanted = {
        "default": account(),
        "unit": account(trade_unit=1),
        "any unit": account(trade_unit=None),
        "limit": account(limit_threshold=0.03),
        "no limit": account(**free),
        "price": account(deal_price="open"),
        "all": account(trade_unit=1, deal_price="open", **free),
    }
    assert len(set(wanted.values())) == len(wanted) - 1  # no change of this market reaches the Chinese limit
    assert (C.trade_unit, C["limit_threshold"], C.deal_price) == (100, 0.095, "close")
    options: dict[str, dict[str, Any]] = {
        "default": {},
        "unit": {"trade_unit": 1},
        "any unit": {"trade_unit": None},
        "limit": {"limit_threshold": 0.03},
        "no limit": {"limit_threshold": None},
        "price": {"deal_price": "$open"},
        "all": {"trade_unit": 1, "limit_threshold": None, "deal_price": "open"},
    }
    for name, given in options.items():
        init(provider_uri=str(golden_market), region="cn", **given)
        assert account() == wanted[name], name
        assert {key: C[key] for key in given} == given
        init(provider_uri=str(golden_market), region="cn")  # resets all options, as in Qlib
        assert account() == wanted["default"]
        for key, value in given.items():
            C[key] = value
        assert account() == wanted[name], name


def test_a_region_sets_its_own_options(golden_market: Path) -> None:
    """C.set_region sets the region's trade unit, limit and price, overriding earlier values."""
    init(provider_uri=str(golden_market), region="us", trade_unit=7)
    C.set_region("tw")
    assert (C.trade_unit, C.limit_threshold, C.deal_price) == (1000, 0.1, "close")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"trade_units": 1}, r"qlib\.init\.trade_units: Qlib has no such option\. Did you mean 'trade_unit'"),
    ({"trade_unit": 0}, "trade_unit must be positive"),
    ({"limit_threshold": "much"}, "limit_threshold must be a number"),
    ({"deal_price": 3}, "deal_price must be a field"),
    ({"feature_provider": "MyProvider"}, r"feature_provider: 'MyProvider' is not supported"),
    (
        {"calendar_provider": {"class": "LocalCalendarProvider", "kwargs": {"backend": {}}}},
        "data are read from a folder",
    ),
    ({"exp_manager": {"class": "MyManager"}}, "the only experiment manager is MLflowExpManager"),
    ({"kernels": 0}, "kernels: must be a whole number, at least 1; found"),
    ({"region": "xx"}, "region must be one of us, cn, tw"),
    ({"default_conf": "server"}, "There is no data server"),
    ({"provider_uri": "nas:/data"}, "is a folder of another machine"),
    ({"provider_uri": {}}, "provider_uri: must be a folder, or one per frequency, found {}"),
    ({"provider_uri": {"day": None}}, r"provider_uri\.day: must be a folder, found None"),
    (
        {"provider_uri": {"day": "a", "high": "b"}},
        "provider_uri: 'high' is not a frequency. Frequencies are 'day', '1min'",
    ),
    ({"provider_uri": {"1s": "a"}}, "provider_uri: The frequency '1s' is shorter than a minute"),
    ({"provider_uri": {"min": "a", "1min": "b"}}, r"provider_uri\.1min: has two folders for the frequency '1min'"),
    ({"provider_uri": {"day": "a", "min": "nas:/b"}}, r"provider_uri\.min: 'nas:/b' is a folder of another machine"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_unsupported_values_are_refused(options: dict[str, Any], words: str) -> None:
    """An unsupported value gives one message, and nothing is changed."""
    before = current_session()
    with pytest.raises(ConfigError, match=words):
        init(**options)
    assert current_session() == before


def test_defaults_may_be_written_out(tmp_path: Path) -> None:
    """Qlib's own defaults are accepted for every option."""
    init(**{**DEFAULTS, "provider_uri": str(tmp_path), "mongo": None})
    init(provider_uri=str(tmp_path), calendar_provider={"class": "LocalCalendarProvider"})


def test_other_options_that_work(tmp_path: Path) -> None:
    """kernels may be a function, skip_if_reg keeps existing settings, a mounted folder is read at its mount point."""
    init(provider_uri="nas:/data", mount_path=str(tmp_path / "a"), kernels=lambda freq: 3, default_exp_name="mine")
    session = current_session()
    assert (session.provider_uri, session.threads, session.experiment_name) == (str(tmp_path / "a"), 3, "mine")
    init(provider_uri=str(tmp_path / "b"), skip_if_reg=True)
    assert current_session() == session
    assert data_folders("C:/data") == "C:/data"
    assert data_folders({"day": "nas:/d", "1min": "y"}, {"day": "/mnt"}) == {"day": "/mnt", "1min": "y"}
    assert data_folders({"day": "nas:/d", "1min": "nas:/m"}, "/mnt") == {"day": "/mnt", "1min": "/mnt"}
    check_option("mem_cache_expire", None)


# -- workflow files ----------------------------------------------------------------------------------------------------

SEGMENTS = {
    "train": ["2014-01-02", "2014-12-31"],
    "valid": ["2015-01-05", "2015-03-31"],
    "test": ["2015-04-01", "2015-06-30"],
}


def _workflow(section: str, **options: Any) -> dict[str, Any]:
    """Return a workflow with a backtest, whose first section has the given options."""
    record = ["SignalRecord", backtest({}, account=100000, exchange_kwargs={"open_cost": 0.001})]
    return {section: options, "task": task_definition(expressions("$close"), SEGMENTS, record=record)}


def _file(tmp_path: Path, data: Path, **options: Any) -> Path:
    return write_workflow(
        tmp_path / "workflow.yaml", _workflow("qlib_init", provider_uri=str(data), region="cn", **options)
    )


def test_options_of_a_workflow_file(tmp_path: Path, golden_market: Path) -> None:
    """The exchange's defaults reach the session and the tasks, so that workers on other machines follow them too."""
    workflow = load_workflow(_file(tmp_path, golden_market, trade_unit=1, limit_threshold=None, redis_port=1))
    assert workflow.session.exchange == {"trade_unit": 1, "limit_threshold": None}
    (task,) = make_plan(workflow).tasks
    backtest = task["record"][1]["kwargs"]["config"]["backtest"]
    wanted = {"open_cost": 0.001, "trade_unit": 1, "limit_threshold": math.inf, "deal_price": "close"}
    assert backtest["exchange_kwargs"] == wanted
    plain = make_plan(load_workflow(_file(tmp_path, golden_market, kernels=2)))
    assert plain.workflow.session.threads == 2
    assert plain.tasks[0]["record"][1]["kwargs"]["config"]["backtest"]["exchange_kwargs"] == {
        "open_cost": 0.001, "trade_unit": 100, "limit_threshold": 0.095, "deal_price": "close",
    }  # fmt: skip
    file = _file(tmp_path, golden_market, kernels=2)
    file.write_text(file.read_text().replace("region: cn", "region: us"))
    american = make_plan(load_workflow(file)).tasks[0]["record"][1]["kwargs"]["config"]["backtest"]
    assert american["exchange_kwargs"] == {"open_cost": 0.001}


def test_errors_in_a_workflow_file(tmp_path: Path, golden_market: Path) -> None:
    """Unknown and refused options are reported at once, with their lines."""
    file = _file(tmp_path, golden_market, trade_units=1, limit_threshold="much", feature_provider="Mine")
    with pytest.raises(ConfigError) as caught:
        load_workflow(file)
    text = str(caught.value)
    assert "has 3 mistakes" in text
    for words in (
        "line 4: qlib_init.trade_units: Qlib has no such option. Did you mean 'trade_unit'",
        "line 5: qlib_init.limit_threshold: limit_threshold must be a number",
        "line 6: qlib_init.feature_provider: 'Mine' is not supported",
    ):
        assert words in text


def test_rollforges_own_format(tmp_path: Path, golden_market: Path) -> None:
    """`rollforge: {exchange: …}` has the same effect; an unknown option is reported with its line."""
    own = {"data": str(golden_market), "region": "cn"}
    file = write_workflow(tmp_path / "own.yaml", _workflow("rollforge", **own, exchange={"deal_price": "open"}))
    assert load_workflow(file).session.exchange == {"deal_price": "open"}
    assert Session(exchange={"deal_price": "open"}) != Session()
    write_workflow(file, _workflow("rollforge", **own, exchange={"deal_prise": "open"}))
    with pytest.raises(ConfigError, match=r"line 5: rollforge\.exchange\.deal_prise: .*Did you mean 'deal_price'"):
        load_workflow(file)


# -- what is refused before anything is trained ------------------------------------------------------------------------


def _line(text: str, key: str) -> int:
    """Return the number of the line on which a key is."""
    return next(
        i for i, line in enumerate(text.splitlines(), 1) if line.strip() == key or line.strip().startswith(f"{key} ")
    )


def test_a_plan_names_the_line_of_a_backtests_mistake(tmp_path: Path, golden_market: Path) -> None:
    """An unsupported strategy, and an unknown option under `backtest`, are reported with their lines."""
    file = _file(tmp_path, golden_market, kernels=1)
    good = file.read_text()
    file.write_text(good.replace("class: TopkDropoutStrategy", "class: EnhancedIndexingStrategy"))
    strategy = _line(good, "strategy:")
    with pytest.raises(
        ConfigError, match=rf"line {strategy}: task\.record\.1\.kwargs\.config\.strategy: EnhancedIndexingStrategy is"
    ):
        make_plan(load_workflow(file))
    file.write_text(good.replace("account: 100000", "acount: 100000"))
    with pytest.raises(
        ConfigError,
        match=rf"line {_line(good, 'account:')}: .*config\.backtest\.acount: unknown key\. Did you mean 'account'",
    ):
        make_plan(load_workflow(file))
    good = good.replace("class: LinearModel", "class: MetaModelDS")
    file.write_text(good.replace("qlib.contrib.model.linear", "qlib.contrib.meta.data_selection.model"))
    with pytest.raises(ConfigError, match=r"task\.model: MetaModelDS is not supported: DDG-DA"):
        make_plan(load_workflow(file))
