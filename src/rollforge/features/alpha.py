"""Alpha158 and Alpha360: Qlib's two feature sets, as data, and their handlers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from rollforge.arguments import as_list
from rollforge.build import locate
from rollforge.dates import DayLike
from rollforge.errors import ConfigError, nearest
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import QlibDataLoader
from rollforge.task import Document

__all__ = [
    "Alpha158", "Alpha158DL", "Alpha158vwap", "Alpha360", "Alpha360DL", "Alpha360vwap", "AlphaHandler",
    "alpha158_fields", "alpha360_fields",
]  # fmt: skip

Fields = tuple[list[str], list[str]]

# The term that keeps a quotient finite on a day with a range of 0 is a fraction of the price, too small to change any
# other range. Features therefore do not depend on the unit of prices. pyqlib adds 1e-12, whatever the price.
_RANGE = "($high-$low+1e-16*$close)"
_KBAR = {
    "KMID": "($close-$open)/$open",
    "KLEN": "($high-$low)/$open",
    "KMID2": f"($close-$open)/{_RANGE}",
    "KUP": "($high-Greater($open, $close))/$open",
    "KUP2": f"($high-Greater($open, $close))/{_RANGE}",
    "KLOW": "(Less($open, $close)-$low)/$open",
    "KLOW2": f"(Less($open, $close)-$low)/{_RANGE}",
    "KSFT": "(2*$close-$high-$low)/$open",
    "KSFT2": f"(2*$close-$high-$low)/{_RANGE}",
}
_RISE = "Greater($close-Ref($close, 1), 0)"
_FALL = "Greater(Ref($close, 1)-$close, 0)"
_MOVE = "(Sum(Abs($close-Ref($close, 1)), {d})+1e-16*Mean($close, {d}))"
_VRISE = "Greater($volume-Ref($volume, 1), 0)"
_VFALL = "Greater(Ref($volume, 1)-$volume, 0)"
_VMOVE = "(Sum(Abs($volume-Ref($volume, 1)), {d})+1e-12)"
_ABSORBED = "Abs($close/Ref($close, 1)-1)*$volume"
# Name of the operator in configurations -> (prefix of the column, expression for a window of d days).
_ROLLING = {
    "ROC": ("ROC", "Ref($close, {d})/$close"),
    "MA": ("MA", "Mean($close, {d})/$close"),
    "STD": ("STD", "Std($close, {d})/$close"),
    "BETA": ("BETA", "Slope($close, {d})/$close"),
    "RSQR": ("RSQR", "Rsquare($close, {d})"),
    "RESI": ("RESI", "Resi($close, {d})/$close"),
    "MAX": ("MAX", "Max($high, {d})/$close"),
    "LOW": ("MIN", "Min($low, {d})/$close"),
    "QTLU": ("QTLU", "Quantile($close, {d}, 0.8)/$close"),
    "QTLD": ("QTLD", "Quantile($close, {d}, 0.2)/$close"),
    "RANK": ("RANK", "Rank($close, {d})"),
    "RSV": ("RSV", "($close-Min($low, {d}))/(Max($high, {d})-Min($low, {d})+1e-16*$close)"),
    "IMAX": ("IMAX", "IdxMax($high, {d})/{d}"),
    "IMIN": ("IMIN", "IdxMin($low, {d})/{d}"),
    "IMXD": ("IMXD", "(IdxMax($high, {d})-IdxMin($low, {d}))/{d}"),
    "CORR": ("CORR", "Corr($close, Log($volume+1), {d})"),
    "CORD": ("CORD", "Corr($close/Ref($close,1), Log($volume/Ref($volume, 1)+1), {d})"),
    "CNTP": ("CNTP", "Mean($close>Ref($close, 1), {d})"),
    "CNTN": ("CNTN", "Mean($close<Ref($close, 1), {d})"),
    "CNTD": ("CNTD", "Mean($close>Ref($close, 1), {d})-Mean($close<Ref($close, 1), {d})"),
    "SUMP": ("SUMP", f"Sum({_RISE}, {{d}})/{_MOVE}"),
    "SUMN": ("SUMN", f"Sum({_FALL}, {{d}})/{_MOVE}"),
    "SUMD": ("SUMD", f"(Sum({_RISE}, {{d}})-Sum({_FALL}, {{d}}))/{_MOVE}"),
    "VMA": ("VMA", "Mean($volume, {d})/($volume+1e-12)"),
    "VSTD": ("VSTD", "Std($volume, {d})/($volume+1e-12)"),
    "WVMA": ("WVMA", f"Std({_ABSORBED}, {{d}})/(Mean({_ABSORBED}, {{d}})+1e-12)"),
    "VSUMP": ("VSUMP", f"Sum({_VRISE}, {{d}})/{_VMOVE}"),
    "VSUMN": ("VSUMN", f"Sum({_VFALL}, {{d}})/{_VMOVE}"),
    "VSUMD": ("VSUMD", f"(Sum({_VRISE}, {{d}})-Sum({_VFALL}, {{d}}))/{_VMOVE}"),
}
_WINDOWS = (5, 10, 20, 30, 60)


class Alpha158DL(QlibDataLoader):
    """Loads Alpha158's features, or a part of them."""

    def __init__(self, config: Document | None = None, **kwargs: Any) -> None:
        features = self.get_feature_config((config or {}).get("feature"))
        super().__init__(config={**(config or {}), "feature": features}, **kwargs)

    @staticmethod
    def get_feature_config(config: Document | None = None) -> Fields:
        """Return expressions and names.

        Parameters
        ----------
        config : mapping, optional
            Parts to include: ``kbar``, ``price`` (windows, feature), ``volume`` (windows), ``rolling`` (windows,
            include, exclude). By default the 158 features of Alpha158.

        Raises
        ------
        ConfigError
            If a part or operator does not exist.

        Examples
        --------
        >>> len(Alpha158DL.get_feature_config()[0])
        158
        """
        if config is None:
            config = {"kbar": {}, "price": {"windows": [0], "feature": ["OPEN", "HIGH", "LOW", "VWAP"]}, "rolling": {}}
        for part in config:
            if part not in ("kbar", "price", "volume", "rolling"):
                raise ConfigError(
                    f"unknown part {part!r} of Alpha158.{nearest(part, ['kbar', 'price', 'volume', 'rolling'])}"
                )
        fields: dict[str, str] = dict(_KBAR) if "kbar" in config else {}
        if "price" in config:
            price = config["price"] or {}
            for name in price.get("feature", ["OPEN", "HIGH", "LOW", "CLOSE", "VWAP"]):
                for d in price.get("windows", range(5)):
                    value = f"${name.lower()}" if d == 0 else f"Ref(${name.lower()}, {d})"
                    fields[f"{name.upper()}{d}"] = f"{value}/$close"
        if "volume" in config:
            for d in (config["volume"] or {}).get("windows", range(5)):
                value = "$volume" if d == 0 else f"Ref($volume, {d})"
                fields[f"VOLUME{d}"] = f"{value}/($volume+1e-12)"
        if "rolling" in config:
            fields.update(_rolling_fields(config["rolling"] or {}))
        return list(fields.values()), list(fields)


def _rolling_fields(config: Document) -> dict[str, str]:
    include, exclude = config.get("include"), config.get("exclude") or []
    for name in [*(include or []), *exclude]:
        if name not in _ROLLING:
            raise ConfigError(
                f"unknown rolling feature {name!r}.{nearest(name, _ROLLING)} Known: {', '.join(_ROLLING)}."
            )
    return {
        f"{prefix}{d}": text.format(d=d)
        for name, (prefix, text) in _ROLLING.items()
        if (include is None or name in include) and name not in exclude
        for d in config.get("windows", _WINDOWS)
    }


class Alpha360DL(QlibDataLoader):
    """Loads Alpha360's features: sixty days of prices and volumes relative to the current day."""

    def __init__(self, config: Document | None = None, **kwargs: Any) -> None:
        super().__init__(config={**(config or {}), "feature": self.get_feature_config()}, **kwargs)

    @staticmethod
    def get_feature_config() -> Fields:
        """Return expressions and names: CLOSE59 … CLOSE0, then OPEN, HIGH, LOW, VWAP, VOLUME."""
        fields: dict[str, str] = {}
        for name in ("close", "open", "high", "low", "vwap", "volume"):
            by = "($volume+1e-12)" if name == "volume" else "$close"
            for d in range(59, -1, -1):
                fields[f"{name.upper()}{d}"] = f"Ref(${name}, {d})/{by}" if d else f"${name}/{by}"
        return list(fields.values()), list(fields)


def alpha158_fields() -> Fields:
    """Return Alpha158's expressions and column names."""
    return Alpha158DL.get_feature_config()


def alpha360_fields() -> Fields:
    """Return Alpha360's expressions and column names."""
    return Alpha360DL.get_feature_config()


_LEARN: tuple[dict[str, object], ...] = (
    {"class": "DropnaLabel"},
    {"class": "CSZScoreNorm", "kwargs": {"fields_group": "label"}},
)
_INFER: tuple[dict[str, object], ...] = (
    {"class": "ProcessInf", "kwargs": {}},
    {"class": "ZScoreNorm", "kwargs": {}},
    {"class": "Fillna", "kwargs": {}},
)


def check_transform_proc(
    processors: Sequence[object], fit_start_time: object, fit_end_time: object, *, path: str = "processors"
) -> list[object]:
    """Return descriptions of processors, with the handler's fit window added to those that need one.

    Raises
    ------
    ConfigError
        If a processor needs a fit window and the handler has none.
    """
    described: list[object] = []
    for i, one in enumerate(as_list(processors, "processors", path=path)):
        if not isinstance(one, str) and not (isinstance(one, Mapping) and "class" in one):
            described.append(one)  # the handler builds it, or reports what is wrong
            continue
        config: dict[str, Any] = {"class": one} if isinstance(one, str) else dict(one)
        target = locate(
            config["class"], config.get("module_path") or "rollforge.features.processor", where=f"{path}.{i}"
        )
        if {"fit_start_time", "fit_end_time"} <= set(inspect.signature(target).parameters):
            given = config.get("kwargs") or {}
            if not isinstance(given, Mapping):
                described.append(config)  # the handler reports it
                continue
            kwargs: dict[str, object] = {"fit_start_time": None, "fit_end_time": None, **given}
            if fit_start_time is not None or fit_end_time is not None:
                kwargs.update(fit_start_time=fit_start_time, fit_end_time=fit_end_time)
            if kwargs["fit_start_time"] is None or kwargs["fit_end_time"] is None:
                raise ConfigError(
                    f"{config['class']} needs the handler's fit_start_time and fit_end_time.", path=f"{path}.{i}"
                )
            config["kwargs"] = kwargs
        described.append(config)
    return described


class HandlerOptions(TypedDict, total=False):
    """Arguments of :class:`DataHandlerLP` that handlers with fixed features pass on."""

    shared_processors: Sequence[object]
    drop_raw: bool
    init_data: bool
    fetch_orig: bool
    label_days: int | None
    label_horizon: int | None


class AlphaOptions(HandlerOptions, total=False):
    """Arguments of :class:`AlphaHandler` that :class:`Alpha360` passes on."""

    learn_processors: Sequence[object]
    fit_start_time: DayLike | None
    fit_end_time: DayLike | None
    process_type: str
    filter_pipe: Sequence[object] | None
    inst_processors: Sequence[object] | None
    label: object


class AlphaHandler(DataHandlerLP):
    """Base class of handlers with fixed features and a default label."""

    def __init__(
        self,
        instruments: object = "csi500",
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        freq: str = "day",
        infer_processors: Sequence[object] = (),
        learn_processors: Sequence[object] = _LEARN,
        fit_start_time: DayLike | None = None,
        fit_end_time: DayLike | None = None,
        process_type: str = DataHandlerLP.PTYPE_A,
        filter_pipe: Sequence[object] | None = None,
        inst_processors: Sequence[object] | None = None,
        label: object = None,
        **kwargs: Unpack[HandlerOptions],
    ) -> None:
        try:
            loader = QlibDataLoader(
                config={"feature": self.get_feature_config(), "label": label or self.get_label_config()},
                filter_pipe=filter_pipe,
                freq=freq,
                inst_processors=inst_processors,
            )
        except ConfigError as exc:
            if exc.path != "config.label":
                raise
            raise type(exc)(exc.message, path="label") from exc
        super().__init__(
            instruments=instruments,
            start_time=start_time,
            end_time=end_time,
            data_loader=loader,
            infer_processors=check_transform_proc(
                infer_processors, fit_start_time, fit_end_time, path="infer_processors"
            ),
            learn_processors=check_transform_proc(
                learn_processors, fit_start_time, fit_end_time, path="learn_processors"
            ),
            process_type=process_type,
            **kwargs,
        )

    def get_feature_config(self) -> Fields:
        """Return the features: expressions and names."""
        raise NotImplementedError(f"{type(self).__name__} must implement get_feature_config().")

    def get_label_config(self) -> Fields:
        """Return the label: the return from the close one day ahead to the close two days ahead."""
        return ["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"]


class Alpha158(AlphaHandler):
    """158 price and volume features of the daily bar and of windows of 5 to 60 days."""

    def get_feature_config(self) -> Fields:
        """Return the features: expressions and names."""
        return alpha158_fields()


class Alpha158vwap(Alpha158):
    """Alpha158 with a label on the volume-weighted average price."""

    def get_label_config(self) -> Fields:
        """Return the label: the return from the VWAP one day ahead to the VWAP two days ahead."""
        return ["Ref($vwap, -2)/Ref($vwap, -1) - 1"], ["LABEL0"]


class Alpha360(AlphaHandler):
    """360 features: sixty days of prices and volumes relative to the current day."""

    def __init__(
        self,
        instruments: object = "csi500",
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        freq: str = "day",
        infer_processors: Sequence[object] = _INFER,
        **kwargs: Unpack[AlphaOptions],
    ) -> None:
        super().__init__(instruments, start_time, end_time, freq, infer_processors, **kwargs)

    def get_feature_config(self) -> Fields:
        """Return the features: expressions and names."""
        return alpha360_fields()


class Alpha360vwap(Alpha360):
    """Alpha360 with a label on the volume-weighted average price."""

    def get_label_config(self) -> Fields:
        """Return the label: the return from the VWAP one day ahead to the VWAP two days ahead."""
        return ["Ref($vwap, -2)/Ref($vwap, -1) - 1"], ["LABEL0"]
