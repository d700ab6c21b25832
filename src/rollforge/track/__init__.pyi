# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from .base import (
    Experiment as Experiment,
    Recorder as Recorder,
    Tracker as Tracker,
    open_tracker as open_tracker,
)
from .r import (
    R as R,
)
