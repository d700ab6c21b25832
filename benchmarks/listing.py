"""Listing and filtering many recorders, compared with MLflow's own ``search_runs``.

python -m benchmarks.listing
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks import setting

FILTER = "metrics.IC > 0.9 and tags.model = 'a'"


def fill_mlflow(database: Path, experiment_id: str, count: int) -> None:
    """Copy the only run until there are `count` runs, each with its own IC and model."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (template,) = connection.execute(
            "SELECT run_uuid FROM runs WHERE experiment_id = ?", (experiment_id,)
        ).fetchone()
        ids = [uuid.uuid4().hex for _ in range(count - 1)]
        for table in ("runs", "metrics", "latest_metrics", "params", "tags"):
            found = connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (template,))
            names = [column[0] for column in found.description]
            rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
            new = [_changed(row, run_id, i / count) for i, run_id in enumerate(ids) for row in rows]
            marks = ", ".join("?" * len(names))
            connection.executemany(
                f"INSERT INTO {table} VALUES ({marks})", [tuple(row[n] for n in names) for row in new]
            )
        connection.commit()


def _changed(row: dict[str, Any], run_id: str, share: float) -> dict[str, Any]:
    changed = {**row, "run_uuid": run_id}
    if row.get("key") == "IC":
        changed["value"] = share
    if row.get("key") == "model":
        changed["value"] = "a" if int(share * 1e6) % 2 else "b"
    return changed


def fill_folder(tracker: Any, experiment_id: str, count: int) -> None:
    """Write `count` runs as if an hour ago."""
    from rollforge.track.tracker import Metric

    past = time.time() - 3600
    for i in range(count):
        run = tracker.create_run(experiment_id, f"run {i}", {"model": "a" if i % 2 else "b"})
        tracker.write(run.id, {"seed": str(i)}, [Metric("IC", i / count, 0, 0.0)], {})
        tracker.update_run(run.id, "FINISHED", past)
        os.utime(tracker.root / experiment_id / run.id, (past, past))


def main() -> None:
    """Time all operations and print one line."""
    options = setting.arguments(__doc__ or "")
    from rollforge.session import Session, using
    from rollforge.track.base import get_experiment, open_tracker
    from rollforge.track.folder import FolderTracker
    from rollforge.track.tracker import RunQuery

    count = 3_000 if options.small else 30_000
    figures: dict[str, Any] = {"recorders": count}
    ratios: dict[str, float] = {}
    with setting.workplace() as folder, using(Session(tracking_uri=f"sqlite:///{folder}/mlflow.db")) as session:
        tracker = open_tracker(session.tracking_uri)
        tracker.prepare()
        experiment = get_experiment(tracker, experiment_name="many")
        recorder = experiment.create_recorder()
        recorder.log_params(seed=1)
        recorder.log_metrics(IC=0.5)
        recorder.set_tags(model="a")
        recorder.end_run()
        fill_mlflow(folder / "mlflow.db", experiment.id, count)

        from mlflow.tracking import MlflowClient

        client = MlflowClient(session.tracking_uri)

        def theirs(text: str) -> int:
            found, token = 0, None
            while True:
                page = client.search_runs([experiment.id], text, max_results=1000, page_token=token)
                found, token = found + len(page), page.token
                if not token:
                    return found

        for name, text in (("all", ""), ("filtered", FILTER)):
            assert len(experiment.list_recorders(filter_string=text)) == theirs(text)
            ours = setting.timed(lambda text=text: experiment.list_recorders(filter_string=text), options.repeats)  # type: ignore[misc]
            other = setting.timed(lambda text=text: theirs(text), options.repeats)  # type: ignore[misc]
            figures |= {f"mlflow_{name}_{k}": v for k, v in ours.items()}
            figures |= {f"search_runs_{name}_{k}": v for k, v in other.items()}
            ratios[f"mlflow_{name}"] = other["seconds"] / ours["seconds"]

        files = FolderTracker(f"folder:{folder}/runs")
        files.prepare()
        place = files.create_experiment("many")
        fill_folder(files, place, count)
        figures["folder_first_seconds"] = setting.seconds(lambda: files.search([place], RunQuery()))
        for name, text in (("all", ""), ("filtered", FILTER)):

            def search(text: str = text) -> None:
                FolderTracker(files.uri).search([place], RunQuery(filter_string=text))  # as a new process does

            figures |= {f"folder_{name}_{k}": v for k, v in setting.timed(search, options.repeats).items()}
        ratios["folder_all"] = figures["search_runs_all_seconds"] / figures["folder_all_seconds"]
    setting.report("listing", ratios, small=options.small, **figures)


if __name__ == "__main__":
    main()
