"""Constants of Qlib's."""

from __future__ import annotations

REG_CN = "cn"
REG_US = "us"
REG_TW = "tw"

EPS = 1e-12
EPS_T = 1e-8
INF = int(1e18)
ONE_DAY_MINUTES = {"cn": 240, "us": 390, "tw": 270}

SIMPLE_DATASET_CACHE = "SimpleDatasetCache"
DISK_DATASET_CACHE = "DiskDatasetCache"
DISK_EXPRESSION_CACHE = "DiskExpressionCache"
DEPENDENCY_REDIS_CACHE = (DISK_DATASET_CACHE, DISK_EXPRESSION_CACHE)
