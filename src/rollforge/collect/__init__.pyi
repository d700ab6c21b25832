# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from .collector import (
    Collector as Collector,
    MergeCollector as MergeCollector,
    RecorderCollector as RecorderCollector,
)
from .ensemble import (
    AverageEnsemble as AverageEnsemble,
    Ensemble as Ensemble,
    RollingEnsemble as RollingEnsemble,
    SingleKeyEnsemble as SingleKeyEnsemble,
)
from .group import (
    Group as Group,
    RollingGroup as RollingGroup,
)
from .parquet_stream import (
    write_stream as write_stream,
)
from .task_collector import (
    TaskCollector as TaskCollector,
)
