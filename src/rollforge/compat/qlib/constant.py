"""Qlib's constants."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pandas as pd

REG_CN = "cn"
REG_US = "us"
REG_TW = "tw"

EPS = 1e-12
INF = int(1e18)
ONE_DAY = pd.Timedelta("1day")
ONE_MIN = pd.Timedelta("1min")
EPS_T = pd.Timedelta("1s")
float_or_ndarray = TypeVar("float_or_ndarray", float, np.ndarray)

SIMPLE_DATASET_CACHE = "SimpleDatasetCache"
DISK_DATASET_CACHE = "DiskDatasetCache"
DISK_EXPRESSION_CACHE = "DiskExpressionCache"
DEPENDENCY_REDIS_CACHE = (DISK_DATASET_CACHE, DISK_EXPRESSION_CACHE)

is_deprecated_lexsorted_pandas = True  # true for the pandas versions that Rollforge requires
