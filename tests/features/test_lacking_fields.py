"""Data folders without a standard field: features that read it are missing, all others are unchanged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import rollforge
from rollforge.errors import DataNotFound, ModelError
from rollforge.features import engine
from rollforge.features.alpha import Alpha158, Alpha158vwap, Alpha360
from rollforge.features.api import D
from rollforge.features.dataset import DatasetH
from rollforge.models import LGBModel, LinearModel

RANGE = {"instruments": "all", "start_time": "2022-06-01", "end_time": "2022-07-29"}
SEGMENTS = {"train": ("2022-06-01", "2022-06-30"), "test": ("2022-07-01", "2022-07-29")}
SEVERAL = ("vwap", "volume", "factor")


@pytest.fixture(scope="module")
def whole(small_market: Path) -> dict[str, pd.DataFrame]:
    """Return the features of data with all fields."""
    with rollforge.session.using(rollforge.Session(provider_uri=str(small_market))):
        return {"Alpha158": Alpha158(**RANGE).fetch(data_key="raw"), "$close": D.features("all", ["$close"])}


@pytest.fixture(scope="module")
def folders(small_market: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return copies of the data without one or several fields."""
    made = {}
    for names in (("vwap",), SEVERAL, ("close",)):
        folder = made["+".join(names)] = tmp_path_factory.mktemp("lacking") / "data"
        shutil.copytree(small_market, folder)
        for name in names:
            for file in folder.glob(f"features/*/{name}.day.bin"):
                file.unlink()
    return made


@pytest.fixture(autouse=True)
def _clear_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_reported", set())


def test_alpha158_works_without_vwap(
    folders: dict[str, Path], whole: dict[str, pd.DataFrame], caplog: pytest.LogCaptureFixture
) -> None:
    """One column is missing, all others have the same values as with the field; this is logged once."""
    rollforge.init(folders["vwap"])
    handler = Alpha158(**RANGE)
    handler.check()
    found = handler.fetch(data_key="raw")
    assert found["VWAP0"].isna().all()
    pd.testing.assert_frame_equal(found.drop(columns="VWAP0"), whole["Alpha158"].drop(columns="VWAP0"))
    Alpha360(**RANGE, infer_processors=[]).fetch(data_key="raw")
    said = [r.getMessage() for r in caplog.records]
    assert said == [
        f"There is no field $vwap in {folders['vwap']}: it counts as missing on every day. It is read by '$vwap/$close'."
    ]


def test_several_fields_may_be_missing(folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    """Each is reported; what is computed from them alone is missing, too, and a missing condition is false."""
    rollforge.init(folders["+".join(SEVERAL)])
    frame = Alpha158(**RANGE).fetch(data_key="raw")
    volumes = [c for c in frame if c.startswith(("V", "WVMA", "CORR", "CORD")) and not c.startswith("VSUM")]
    assert frame[volumes].isna().all().all()
    assert frame.drop(columns=[c for c in frame if c.startswith(("V", "WVMA", "CORR", "CORD"))]).notna().any().all()
    assert "no field $volume" in caplog.text
    assert "'$vwap/$close'." in caplog.text
    values = D.features(
        "all",
        ["$factor", "$factor == 1", "If($factor == 1, 1, $close)", "$close", "Mean($vwap, 5)"],
        "2022-06-01",
        "2022-06-03",
    )
    assert values["$factor"].isna().all()
    assert values["$factor == 1"].isna().all()
    assert values["If($factor == 1, 1, $close)"].equals(values["$close"].rename("If($factor == 1, 1, $close)"))
    assert values["Mean($vwap, 5)"].isna().all()


def test_rows_come_from_the_existing_fields(folders: dict[str, Path], whole: dict[str, pd.DataFrame]) -> None:
    """An expression that reads only missing fields adds no rows."""
    rollforge.init(folders["vwap"])
    frame = D.features("all", ["$vwap", "$close"])
    pd.testing.assert_frame_equal(frame[["$close"]], whole["$close"])
    assert frame["$vwap"].isna().all()


def test_a_label_needs_its_fields(folders: dict[str, Path]) -> None:
    """The error is raised before anything is computed; the same holds for a field that is not a standard one, and for
    the close.
    """
    rollforge.init(folders["vwap"])
    with pytest.raises(DataNotFound, match=r"no field \$vwap.*'Ref\(\$vwap, -2\)"):
        Alpha158vwap(**RANGE).check()
    with pytest.raises(DataNotFound, match=r"no field \$vwpa"):
        Alpha158(**RANGE, label=["Ref($vwpa, -1)/$close"]).check()
    with pytest.raises(DataNotFound, match=r"no field \$vwpa"):
        D.features("all", ["$vwpa"])
    rollforge.init(folders["close"])
    with pytest.raises(DataNotFound, match=r"no field \$close"):
        Alpha158(**RANGE).check()


def test_models_of_data_without_vwap(folders: dict[str, Path]) -> None:
    """Tree models ignore the column; a linear model requires it to be filled, and names it."""
    rollforge.init(folders["vwap"])
    dataset = DatasetH(Alpha158(**RANGE), SEGMENTS)
    model = LGBModel(num_boost_round=3)
    model.fit(dataset)
    assert np.isfinite(model.predict(dataset)).all()
    with pytest.raises(
        ModelError, match=r"lacks 'VWAP0'.*QlibDataLoader has no finite value of 'VWAP0'.*'\$vwap/\$close'"
    ):
        LinearModel().fit(dataset)
    filled = Alpha158(**RANGE, infer_processors=[{"class": "Fillna", "kwargs": {"fields_group": "feature"}}])
    linear = LinearModel()
    linear.fit(DatasetH(filled, SEGMENTS))
    assert np.isfinite(linear.predict(DatasetH(filled, SEGMENTS))).all()
