"""Every operator separately, over all stocks and days, compared with pyqlib's ``D.features``.

python -m benchmarks.expressions
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks import setting

MODULE = "benchmarks.expressions"

PAIRS = ("+", "-", "*", "/", ">", ">=", "<", "<=", "==", "!=")
WINDOWED = (
    "Mean", "Sum", "Std", "Var", "Skew", "Kurt", "Max", "Min", "IdxMax", "IdxMin", "Med", "Mad", "Rank", "Count", "Delta",
    "Slope", "Rsquare", "Resi", "WMA", "EMA", "Ref",
)  # fmt: skip
ALL = [
    "$close",
    *(f"$close{sign}$open" for sign in PAIRS),
    *(f"{name}($close)" for name in ("Abs", "Sign", "Log")),
    "Power($close, 2)",
    "Greater($close, $open)",
    "Less($close, $open)",
    "If($close>$open, $close, $open)",
    "($close>$open)&($high>$low)",
    "($close>$open)|($high>$low)",
    "Not($close>$open)",
    *(f"{name}($close, {n})" for name in WINDOWED for n in (20, 60)),
    *(f"{name}($close, 0)" for name in ("Mean", "Std", "Max", "Rank", "Skew")),
    "Quantile($close, 20, 0.8)",
    "Quantile($close, 60, 0.2)",
    *(f"{name}($close, $volume, {n})" for name in ("Corr", "Cov") for n in (20, 60)),
]


def pyqlib(task: dict[str, Any]) -> None:
    """Compute each expression with pyqlib, without its caches."""
    with setting.quiet_pyqlib(task["provider"], expression_cache=None, dataset_cache=None):
        from qlib.data import D

        members = D.instruments("all")
        D.features(members, ["$close"])
        took = {}
        for text in ALL:
            try:
                took[text] = setting.seconds(lambda text=text: D.features(members, [text]))  # type: ignore[misc]
            except Exception:  # noqa: BLE001 - expressions that pyqlib cannot compute are skipped
                continue
    print(json.dumps(took))


def main() -> None:
    """Time both sides and print one line."""
    options = setting.arguments(__doc__ or "")
    if setting.ran_part(options, pyqlib=pyqlib):
        return
    from rollforge.features.engine import features
    from rollforge.session import Session

    with setting.workplace() as folder:
        provider = setting.market(options, folder)
        session = Session(provider_uri=str(provider), cache=str(folder / "cache"))
        ours, spreads = {}, []
        for text in ALL:
            features("all", [text], session=session)  # compiles
            once = setting.timed(lambda text=text: features("all", [text], session=session), options.repeats)  # type: ignore[misc]
            ours[text] = once["seconds"]
            spreads.append(once["spread"])
        figures: dict[str, Any] = {"expressions": len(ALL), "median_seconds": setting.median(list(ours.values()))}
        figures |= {"slowest": max(ours, key=lambda t: ours[t]), "slowest_seconds": max(ours.values())}
        figures["spread"] = setting.median(spreads)
        ratios = {}
        if setting.has_pyqlib(options):
            theirs = setting.in_pyqlib(MODULE, {"provider": str(provider)})
            faster = {text: theirs[text] / ours[text] for text in ours if text in theirs}
            figures |= {"compared": len(faster), "pyqlib_median_seconds": setting.median(list(theirs.values()))}
            figures["least_faster"] = sorted(faster, key=lambda t: faster[t])[:3]
            ratios = {"median": setting.median(list(faster.values())), "least": min(faster.values())}
        setting.report("expressions", ratios, small=options.small, **figures)


if __name__ == "__main__":
    main()
