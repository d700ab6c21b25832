# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from .artifact_files import (
    Files as Files,
    LocalFiles as LocalFiles,
)
from .base import (
    Experiment as Experiment,
    Metric as Metric,
    Recorder as Recorder,
    RunData as RunData,
    RunInfo as RunInfo,
    RunQuery as RunQuery,
    Tracker as Tracker,
    open_tracker as open_tracker,
)
from .r import (
    R as R,
)
from .tracker import (
    latest_metrics as latest_metrics,
)
