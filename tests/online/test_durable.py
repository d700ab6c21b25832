"""Everything that a ledger entry refers to is synced to disk before the entry, so that a power failure leaves both or
neither."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from growing import DAYS, Market, live, manager
from rollforge.ledger.memory import MemoryLedger
from rollforge.market import folder_change
from rollforge.market.append import append_table
from rollforge.market.demo import make_demo
from rollforge.online.corrections import correct
from rollforge.session import amend, current_session
from rollforge.track.base import Recorder

RUN = DAYS[60:66]


class Synced:
    """The files and folders that have been synced since they were last changed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times: dict[tuple[int, int], int] = {}
        fsync = os.fsync

        def noted(handle: int) -> None:
            fsync(handle)
            about = os.fstat(handle)
            self.times[about.st_dev, about.st_ino] = about.st_mtime_ns

        monkeypatch.setattr(os, "fsync", noted)

    def lacking(self, file: Path) -> list[str]:
        """Return which of a file and the three folders around it have changed since they were last synced."""
        places = [file, *file.parents[:3]]
        known = [(place, place.stat()) for place in places]
        return [str(place) for place, s in known if self.times.get((s.st_dev, s.st_ino)) != s.st_mtime_ns]


@pytest.mark.parametrize("tracker", ["folder", "mlflow"])
def test_files_are_on_the_disk_before_their_entry(
    market: Market, monkeypatch: pytest.MonkeyPatch, tracking_in: Callable[[str], str], tracker: str
) -> None:
    """The file of the signals, and the models and predictions of the recorders that made them; also of a correction."""
    amend(tracking_uri=tracking_in(tracker))
    synced, checked = Synced(monkeypatch), []
    append = MemoryLedger.append
    market.show(RUN[0])
    served = manager()

    def after_its_files(
        self: MemoryLedger, lease: object, number: int, kind: object, body: dict[str, object], **by: str
    ) -> object:
        entry = append(self, lease, number, kind, body, **by)  # type: ignore[arg-type]
        for signal in body.get("signals") or []:  # type: ignore[attr-defined]
            assert synced.lacking(served.service.place / signal["file"]) == []
            for recorder in map(opened, signal["recorders"]):
                assert synced.lacking(artifacts(recorder) / "pred.pkl.frame.parquet")[:2] == []
            checked.append(signal["day"])
        for release in body.get("releases") or []:  # type: ignore[attr-defined]
            if release["role"] != "retired":
                folder = artifacts(opened(release["recorder"]))
                assert [one for file in folder.iterdir() for one in synced.lacking(file)] == []
        return entry

    def opened(recorder: str) -> Recorder:
        from rollforge.track.base import get_experiment, open_tracker

        tracker = open_tracker(current_session().tracking_uri)
        return get_experiment(tracker, experiment_name="served").get_recorder(recorder)

    def artifacts(recorder: Recorder) -> Path:
        return Path(recorder.get_local_dir()) / "artifacts"

    monkeypatch.setattr(MemoryLedger, "append", after_its_files)
    live(market, served, RUN)
    assert checked[-6:] == RUN
    market.close.loc[RUN[-1], "B"] *= 1.1
    market.show(RUN[-1])
    correct(served.service)
    assert checked[-1] == RUN[-1]


def test_a_data_folder_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new files before the exchange, and the new name after it."""
    make_demo(tmp_path / "data", instruments=2, start="2023-01-02", end="2023-04-03")
    done: list[str] = []
    for name in ("sync_file_system", "exchange", "sync"):
        real = getattr(folder_change, name)
        monkeypatch.setattr(
            folder_change, name, lambda *places, name=name, real=real: (done.append(name), real(*places))
        )
    (tmp_path / "day.csv").write_text(
        "instrument,datetime,open,high,low,close,volume\nD0001,2023-04-04,10,11,9,10,100\n"
    )
    append_table(tmp_path / "day.csv", tmp_path / "data", rescale=False)
    assert done == ["sync_file_system", "exchange", "sync"]
