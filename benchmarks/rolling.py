"""The complete rolling job with SignalRecord and SigAnaRecord, compared with model fitting alone and with pyqlib.

python -m benchmarks.rolling [--ridge] [--windows N]
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks import setting

MODULE = "benchmarks.rolling"


def session_of(provider: Path, folder: Path, home: Path) -> Any:
    """Return the session of a run of the job."""
    from rollforge.session import Session

    return Session(
        provider_uri=str(provider),
        store_uri=f"sqlite:///{home}/tasks.db",
        tracking_uri=f"sqlite:///{home}/mlflow.db",
        cache=str(folder / "cache"),
        experiment_name="rolling",
    )


def run(
    provider: Path, folder: Path, template: dict[str, Any], windows: int | None, jobs: int | None = None
) -> dict[str, float]:
    """Plan, store, train in worker processes and collect, with an empty panel cache and compiled kernels."""
    from rollforge.generate import RollingGen
    from rollforge.pipeline import collect, submit, train
    from rollforge.session import available_cores, using

    shutil.rmtree(folder / "cache" / "panels", ignore_errors=True)
    home = folder / f"home-{windows}-{jobs}"
    jobs = jobs or available_cores()
    session = session_of(provider, folder, home)
    figures: dict[str, float] = {}

    def work() -> None:
        with using(session):
            tasks = RollingGen(step=60, rtype=RollingGen.ROLL_SD).generate(template)[:windows]
            plan = setting.plan(session, "rolling", tasks, template)
            submit(plan)
            train(plan, jobs=jobs)
            collected = collect(session, "rolling", plan.ids)
            assert collected.prediction is not None
            figures["rows"] = len(collected.prediction)
            metrics = [o.recorder.list_metrics() for o in collected.outcomes if o.recorder is not None]
            figures["windows"] = len(metrics)
            figures["fit_seconds"] = sum(m["fit_seconds"] for m in metrics)
            figures["scores"] = float(collected.prediction["score"].sum())

    figures["seconds"] = setting.seconds(work)
    return figures


_windows: list[dict[str, Any]] = []
"""In a process of :func:`plain`: the data of each window, and what the model predicts."""


def _open_windows(session: Any, template: dict[str, Any], windows: int | None) -> None:
    """Prepare the rows of all windows, so that only LightGBM's work is timed."""
    import lightgbm  # noqa: F401 - is not timed

    from rollforge.build import build
    from rollforge.generate import RollingGen
    from rollforge.models.samples import prediction_features, training_samples
    from rollforge.session import using

    with using(session):
        for task in RollingGen(step=60, rtype=RollingGen.ROLL_SD).generate(template)[:windows]:
            dataset = build(task["dataset"])
            parts = {name: training_samples(dataset, name, model="plain") for name in ("train", "valid")}
            window = {name: (part.features.to_numpy(), part.label) for name, part in parts.items()}
            _windows.append({**window, "test": prediction_features(dataset, "test", model="plain").to_numpy()})


def _fit_window(at: tuple[int, dict[str, Any]]) -> float:
    """Train LightGBM on a window with one thread, with the arguments of :class:`LGBModel`, and return the sum of the scores."""
    import lightgbm
    import numpy as np

    i, given = at
    window = _windows[i]
    rounds, patience = given.pop("num_boost_round", 1000), given.pop("early_stopping_rounds", 50)
    parameters = {"verbosity": -1, "objective": given.pop("loss"), **given, "num_threads": 1}
    train, valid = (lightgbm.Dataset(window[name][0], label=window[name][1]) for name in ("train", "valid"))
    valid.reference = train
    booster = lightgbm.train(
        parameters, train, rounds, valid_sets=[train, valid], valid_names=["train", "valid"],
        callbacks=[lightgbm.early_stopping(patience, verbose=False), lightgbm.record_evaluation({})],
    )  # fmt: skip
    return float(np.sum(booster.predict(window["test"], num_threads=1)))


def plain(session: Any, template: dict[str, Any], windows: int) -> dict[str, float]:
    """Train the same windows with ``lightgbm.train`` alone, in one process per core, on rows that are already in memory."""
    import multiprocessing
    import time

    from rollforge.session import available_cores

    cores = available_cores()
    options = template["model"]["kwargs"]
    context = multiprocessing.get_context("spawn")
    with context.Pool(cores, _open_windows, (session.with_(threads=1), template, windows)) as pool:
        pool.map(time.sleep, [5.0] * cores, chunksize=1)  # until all processes are ready
        # The last windows take the most rounds. Beginning with them leaves less to wait for at the end.
        jobs = [(i, dict(options)) for i in range(windows)][::-1]
        began = time.perf_counter()
        found = pool.map(_fit_window, jobs, chunksize=1)
        took = time.perf_counter() - began
    return {"plain_seconds": took, "plain_scores": sum(found)}


def pyqlib(task: dict[str, Any]) -> None:
    """Run the same tasks with pyqlib's TrainerR and RecorderCollector, with or without its handler cache."""
    folder = Path(task["folder"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    manager = {
        "class": "MLflowExpManager",
        "module_path": "qlib.workflow.expm",
        "kwargs": {"uri": f"sqlite:///{folder}/mlflow.db", "default_exp_name": "Experiment"},
    }
    with setting.quiet_pyqlib(task["provider"], exp_manager=manager):
        from qlib.model.ens.group import RollingGroup
        from qlib.model.trainer import TrainerR
        from qlib.workflow.task.collect import RecorderCollector
        from qlib.workflow.task.gen import RollingGen
        from qlib.workflow.task.utils import replace_task_handler_with_cache

        def work() -> None:
            template = json.loads(json.dumps(task["template"]))
            segments = template["dataset"]["kwargs"]["segments"]
            template["dataset"]["kwargs"]["segments"] = {k: tuple(v) for k, v in segments.items()}
            if task["cached"]:
                template = replace_task_handler_with_cache(template, str(folder))
            tasks = RollingGen(step=60, rtype=RollingGen.ROLL_SD).generate(template)[: task["windows"]]
            TrainerR("rolling")(tasks)

            def key(recorder: Any) -> Any:
                return "model", recorder.load_object("task")["dataset"]["kwargs"]["segments"]["test"]

            RecorderCollector("rolling", RollingGroup(), rec_key_func=key, artifacts_path={"pred": "pred.pkl"})()

        took = setting.seconds(work)
    print(json.dumps({"seconds": took}))


def main() -> None:
    """Time both sides and print one line."""
    ridge = "--ridge" in sys.argv
    windows = int(sys.argv[sys.argv.index("--windows") + 1]) if "--windows" in sys.argv else None
    uncached = "--uncached" in sys.argv
    others = [a for a in sys.argv if a not in ("--ridge", "--uncached", "--windows", str(windows))]
    sys.argv = others
    options = setting.arguments(__doc__ or "")
    if setting.ran_part(options, pyqlib=pyqlib):
        return
    template = setting.job(model=setting.RIDGE if ridge else None)
    with setting.workplace() as folder:
        provider = setting.market(options, folder)
        run(provider, folder, template, 1)  # compiles the kernels
        ours = run(provider, folder, template, windows)
        figures: dict[str, Any] = dict(ours)
        ratios = {}
        if not ridge:
            # The best possible time with fitting alone: one window per core, or sequentially with all cores.
            from rollforge.session import available_cores

            sequential = run(provider, folder, template, windows, 1)["fit_seconds"]
            parallel = ours["fit_seconds"] / available_cores()
            best = min(sequential, parallel)
            figures |= {"fit_parallel_seconds": parallel, "fit_sequential_seconds": sequential}
            figures["total_over_best"] = ours["seconds"] / best
            ratios["best_over_total"] = best / ours["seconds"]
            session = session_of(provider, folder, folder / "plain")
            alone = plain(session, template, int(ours["windows"]))
            figures |= alone
            ratios["plain_over_total"] = alone["plain_seconds"] / ours["seconds"]
        if setting.has_pyqlib(options):
            for name, cached in (("cached", True), *([("uncached", False)] if uncached else [])):
                task = {
                    "provider": str(provider), "folder": str(folder / name), "template": template, "cached": cached,
                    "windows": windows,
                }  # fmt: skip
                theirs = setting.in_pyqlib(MODULE, task)["seconds"]
                figures[f"pyqlib_{name}_seconds"] = theirs
                ratios[f"pyqlib_{name}"] = theirs / ours["seconds"]
        setting.report("rolling_ridge" if ridge else "rolling_lightgbm", ratios, small=options.small, **figures)


if __name__ == "__main__":
    main()
