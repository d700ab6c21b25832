"""The state of a service is its ledger: files of managers contain only the definition, and signals are kept as
published."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from growing import DAYS, Market, days_of, equal, live, manager
from rollforge.errors import ArtifactUnreadable, DataError, ServiceBusy
from rollforge.ledger.entry import Signal
from rollforge.online import signal_files
from rollforge.online.manager import OnlineManager
from rollforge.online.training import task_digest
from rollforge.run.trainer import TrainerR
from rollforge.session import amend

RUN = DAYS[60:63]


def test_a_loaded_manager_finds_its_ledger(market: Market, tmp_path: Path) -> None:
    """The file contains neither signals nor history; the loaded manager has both, and continues."""
    served = live(market, manager(), RUN[:2])
    served.to_pickle(tmp_path / "manager.pkl")
    assert not {"history", "signals", "_online"} & set(served.__getstate__())
    loaded = OnlineManager.load(tmp_path / "manager.pkl")
    loaded.trainer = trainer = TrainerR()
    assert loaded.service.trainer is trainer
    equal(loaded.get_signals(), served.get_signals())
    assert [[r.id for r in models] for day in loaded.history.values() for models in day.values()] == [
        [r.id for r in models] for day in served.history.values() for models in day.values()
    ]
    market.show(RUN[2])
    loaded.routine()
    assert days_of(served.get_signals())[-1] == RUN[2]
    assert list(map(str, served.history)) == [f"{day} 00:00:00" for day in RUN]


def test_a_file_of_an_earlier_version_loads(market: Market) -> None:
    """The signals and history of an earlier file are entered into a ledger; its generator's frozen calendar is not
    used."""
    market.show(DAYS[64])
    loaded = OnlineManager.load(Path(__file__).parent / "earlier_manager.pkl")
    assert days_of(loaded.get_signals()) == DAYS[52:61]
    assert loaded.get_signals().tolist() == [0.5, -0.5] * 9
    assert {str(day.date()): list(models.values()) for day, models in loaded.history.items()} == {DAYS[60]: [[]]}
    assert {signal.file for signal in loaded.state.signals().values()} == {f"signals/{DAYS[60]}.v1.parquet"}
    assert loaded.strategies[0].rg.ta.max() == pd.Timestamp(DAYS[64])
    equal(pickle.loads(pickle.dumps(loaded)).get_signals(), loaded.get_signals())


def test_published_signals_do_not_change(market: Market) -> None:
    """The signals as of an entry never change; a file that was changed or removed is an error."""
    served = live(market, manager(), RUN[:2])
    number, before = served.state.last, served.get_signals()
    market.show(RUN[2])
    served.routine()
    equal(served.service.signals(as_of=number), before)
    signal = served.state.signals()[RUN[2]]
    file = served.service.place / signal.file
    assert pd.read_parquet(file).index.get_level_values("datetime").unique() == [pd.Timestamp(RUN[2])]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")
    with pytest.raises(ArtifactUnreadable, match="changed after they were published"):
        served.get_signals()
    file.unlink()
    with pytest.raises(ArtifactUnreadable, match=RUN[2]):
        served.get_signals()


def test_signals_of_several_files_are_in_the_order_of_their_days(tmp_path: Path) -> None:
    """The order is that of the days even if a day in the middle of a file has a later version in another one."""
    index = pd.MultiIndex.from_product([pd.DatetimeIndex(RUN), ["A", "B"]], names=["datetime", "instrument"])
    whole = pd.Series(np.arange(6.0), index, name="score")
    again = -whole.loc[[pd.Timestamp(RUN[1])]]
    (one, mark), (other, second) = signal_files.write(tmp_path, "a", whole), signal_files.write(tmp_path, "b", again)
    signals = [
        Signal(RUN[0], 1, (), one, mark, 2),
        Signal(RUN[1], 2, (), other, second, 2),
        Signal(RUN[2], 1, (), one, mark, 2),
    ]
    found = signal_files.read(tmp_path, signals)
    assert found is not None
    assert found.tolist() == [0.0, 1.0, -2.0, -3.0, 4.0, 5.0]
    assert days_of(found) == RUN


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """Other contents of the same name get a name with their hash, also on file systems without hard links."""

    def refused(*args: object) -> None:
        raise PermissionError("no hard links here")

    if not links:
        monkeypatch.setattr("os.link", refused)
    index = pd.MultiIndex.from_product([[pd.Timestamp(RUN[0])], ["A", "B"]], names=["datetime", "instrument"])
    one, other = pd.Series([1.0, 2.0], index, name="score"), pd.Series([3.0, 4.0], index, name="score")
    first, second = (signal_files.write(tmp_path, "day.v1", signals) for signals in (one, other))
    assert (first[0], second[0]) == ("signals/day.v1.parquet", f"signals/day.v1.{second[1][:12]}.parquet")
    assert [signal_files.write(tmp_path, "day.v1", signals) for signals in (one, other)] == [first, second]
    assert [pd.read_parquet(tmp_path / file)["score"].tolist() for file, _ in (first, second)] == [[1, 2], [3, 4]]
    (tmp_path / second[0]).write_bytes(b"damaged")
    with pytest.raises(DataError, match=f"{tmp_path / second[0]} exists, but its contents do not have the hash"):
        signal_files.write(tmp_path, "day.v1", other)
    assert len(list((tmp_path / "signals").iterdir())) == 2


def test_a_task_with_live_objects_has_no_digest() -> None:
    """A task with live objects cannot be recognized later, and is trained again."""
    assert task_digest({"model": object()}) == ""
    assert task_digest({"model": "linear"}) != ""


def test_files_that_a_killed_process_left_incomplete_are_removed(market: Market) -> None:
    """By the next process that holds the lease of the service; those of another service are kept."""
    served, other = live(market, manager(), RUN[:1]), manager(name="other").service
    left = [service.place / "signals" / f".{'0a' * 16}.part" for service in (served.service, other)]
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"PAR1")
    lease = other.ledger.acquire(served.service.name, holder="host:7", seconds=60)
    with pytest.raises(ServiceBusy):
        served.routine()
    assert all(file.exists() for file in left)
    other.ledger.release(lease)
    market.show(RUN[1])
    served.routine()
    assert [file.exists() for file in left] == [False, True]
    assert len(list(left[0].parent.iterdir())) == len({signal.file for signal in served.state.signals().values()})


def test_a_store_without_a_ledger_has_one_in_a_file(market: Market, tmp_path: Path) -> None:
    """A task store with a third-party scheme does not prevent services from running."""
    amend(store_uri="own://tasks")
    assert manager().service.ledger_uri == f"sqlite:///{tmp_path / 'home'}/ledger.db"
    amend(store_uri=f"sqlite:///{tmp_path}/tasks.db")
    assert manager().service.ledger_uri == f"sqlite:///{tmp_path}/tasks.db"


def test_a_relative_ledger_is_the_same_from_every_folder(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager that is loaded from its file in another working folder continues with its ledger."""
    monkeypatch.chdir(tmp_path)
    amend(store_uri="sqlite:///tasks.db?synchronous=OFF")
    market.show(RUN[0])
    served = manager()
    served.to_pickle(str(tmp_path / "manager.pkl"))
    monkeypatch.chdir(market.folder)
    loaded = OnlineManager.load(str(tmp_path / "manager.pkl"))
    assert loaded.service.ledger_uri == f"sqlite:///{tmp_path}/tasks.db?synchronous=OFF"
