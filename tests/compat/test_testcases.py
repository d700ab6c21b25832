"""``qlib.tests``: base classes of other people's test cases, on existing or synthetic data, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CASES = """
import unittest

import numpy as np
from qlib.data import D
from qlib.tests import MOCK_DF, TestAutoData, TestMockData, TestOperatorData


class Market(TestAutoData):
    _setup_kwargs = {"kernels": 1}

    def test_universes_and_benchmark(self):
        sizes = D.features(D.instruments("csi300"), ["$close"], "2009-01-05", "2009-12-31").groupby("datetime").size()
        self.assertLessEqual(sizes.max(), 300)
        self.assertGreaterEqual(sizes.quantile(0.2), 290)
        self.assertEqual(len(D.features(["SH000300"], ["$close"], "2005-01-04", "2005-01-07")), 4)

    def test_change_is_that_of_the_close(self):
        frame = D.features(["SH600519"], ["$change", "$close/Ref($close,1)-1"], "2006-01-04", "2006-12-29").dropna()
        self.assertGreater(len(frame), 200)
        np.testing.assert_allclose(frame.iloc[:, 0], frame.iloc[:, 1], atol=1e-6)


class Operators(TestOperatorData):
    def test_what_is_set_up(self):
        self.assertEqual(self.inst, "SH600110")
        self.assertEqual(len(self.instruments_d), 1)
        self.assertEqual((str(self.start_time)[:10], str(self.end_time)[:4]), ("2005-01-04", "2005"))


class Minutes(TestAutoData):
    @classmethod
    def setUpClass(cls):
        super().setUpClass(enable_1d_type="full", enable_1min=True)

    def test_never(self):
        raise AssertionError


class Mock(TestMockData):
    def test_values_are_exact(self):
        rows = MOCK_DF[MOCK_DF["symbol"] == "0050"]
        found = D.features(["0050"], ["Abs($close-Ref($close,1))"], "2022-01-01", "2022-02-01").iloc[:, 0]
        self.assertEqual(found.dropna().to_list(), rows["close"].diff().abs().dropna().to_list())
        self.assertEqual(sorted(D.list_instruments(D.instruments("all"), as_list=True)), ["0050", "1101"])


if __name__ == "__main__":
    unittest.main()
"""


# Otherwise pytest would delete the temporary files of earlier runs when it ends.
OWN_FOLDERS = ("-p", "no:cacheprovider", "--basetemp=temporary")


def start(folder: Path, home: Path, *command: str) -> subprocess.Popen[str]:
    env = {**os.environ, "HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, "-m", "rollforge.compat.qlib", *command], cwd=folder, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_tests_that_derive_from_them_run_on_a_synthetic_market(tmp_path: Path) -> None:
    """Two simultaneous test runs, by unittest and by pytest, share one market; minute data are a skip with a reason."""
    (tmp_path / "test_cases.py").write_text(CASES)
    by_unittest = start(tmp_path, tmp_path, "test_cases.py", "-v")
    by_pytest = start(tmp_path, tmp_path, "-m", "pytest", "-q", "-rs", *OWN_FOLDERS, "test_cases.py")
    _, err = by_unittest.communicate(timeout=240)
    out, _ = by_pytest.communicate(timeout=240)
    assert by_unittest.returncode == 0, err[-3000:]
    assert by_pytest.returncode == 0, out[-3000:]
    assert "OK (skipped=1)" in err
    assert "4 passed, 1 skipped" in out
    assert "this test needs minute data" in out
    made = Path(os.environ["ROLLFORGE_CACHE"]) / "demo"
    rows, market = sorted(p.name for p in made.iterdir() if not p.name.startswith("."))
    assert (rows, market[:10]) == ("qlib-mock", "qlib-tests")


def test_data_in_qlibs_own_folder_take_precedence(small_market: Path, tmp_path: Path) -> None:
    """An existing folder in ``~/.qlib`` is used unchanged, and no data are generated."""
    place = tmp_path / ".qlib" / "qlib_data" / "cn_data_simple"
    shutil.copytree(small_market, place)
    (tmp_path / "test_own.py").write_text(
        "from qlib.data import D\n"
        "from qlib.tests import TestAutoData\n"
        "class Own(TestAutoData):\n"
        "    def test_days(self):\n"
        "        print('DAYS', str(D.calendar()[-1])[:10], self.provider_uri)\n"
    )
    out, err = start(tmp_path, tmp_path, "-m", "pytest", "-q", "-s", *OWN_FOLDERS, "test_own.py").communicate()
    assert "DAYS 2023-12-29 ~/.qlib/qlib_data/cn_data_simple" in out, err[-2000:]
    assert not (Path(os.environ["ROLLFORGE_CACHE"]) / "demo").exists()
