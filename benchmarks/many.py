"""Many windows of several models on an existing panel: the cost of everything except fitting.

python -m benchmarks.many
"""

from __future__ import annotations

from typing import Any

from benchmarks import setting


def main() -> None:
    """Run the job and print one line."""
    options = setting.arguments(__doc__ or "")
    from rollforge.generate import RollingGen
    from rollforge.pipeline import submit, train
    from rollforge.run.execute import prepare_data
    from rollforge.session import Session, available_cores, using
    from rollforge.store.base import open_store
    from rollforge.track.base import open_tracker

    windows, models, trees = (8, 2, 20) if options.small else (200, 5, 20)
    with setting.workplace() as folder:
        provider = setting.market(options, folder)
        session = Session(
            provider_uri=str(provider), store_uri=f"sqlite:///{folder}/tasks.db", tracking_uri=f"sqlite:///{folder}/mlflow.db",
            cache=str(folder / "cache"), experiment_name="many",
        )  # fmt: skip
        with using(session):
            tasks: list[dict[str, Any]] = []
            # Four months of training data and weekly windows, so that a fit takes about a second.
            segments = {
                "train": ("2013-02-08", "2013-06-07"),
                "valid": ("2013-06-10", "2013-07-10"),
                "test": ("2013-07-11", "2018-02-07"),
            }
            for seed in range(models):
                kwargs = {
                    "loss": "mse",
                    "num_boost_round": trees,
                    "early_stopping_rounds": 0,
                    "num_leaves": 31,
                    "seed": seed,
                }
                model = {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": kwargs}
                template = setting.job(model=model)
                template["dataset"]["kwargs"]["segments"] = segments
                tasks += RollingGen(step=5, rtype=RollingGen.ROLL_SD).generate(template)[:windows]
            prepare_data(tasks[0], session)
            plan = setting.plan(session, "many", tasks, tasks[0])
            submit(plan)
            took = setting.seconds(lambda: train(plan, jobs=available_cores()))
            done = open_store(session.store_uri).count("many")
            tracker = open_tracker(session.tracking_uri)
            found = tracker.find_experiment(name="many")
            assert found is not None
            from rollforge.track.base import get_experiment

            runs = get_experiment(tracker, experiment_name="many").list_recorders().values()
            metrics = [run.list_metrics() for run in runs]
        fit = sum(m["fit_seconds"] for m in metrics) / available_cores()
        inside = sum(m["task_seconds"] for m in metrics) / available_cores()
        setting.report(
            "many", {"fit_over_total": fit / took}, small=options.small, tasks=len(tasks), seconds=took,
            fit_seconds_by_cores=fit, task_seconds_by_cores=inside, overhead=took / fit - 1,
            overhead_outside_tasks=took / inside - 1, done={k.value: v for k, v in done.items()},
        )  # fmt: skip


if __name__ == "__main__":
    main()
