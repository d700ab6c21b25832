# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from .base import (
    NamedTaskGen as NamedTaskGen,
    SupportsFollowing as SupportsFollowing,
    TaskGen as TaskGen,
    copy_task as copy_task,
    task_generator as task_generator,
)
from .calendar import (
    TimeAdjuster as TimeAdjuster,
)
from .calendar_windows import (
    CalendarGen as CalendarGen,
)
from .cross_validation import (
    CombinatorialPurgedGen as CombinatorialPurgedGen,
    PurgedKFoldGen as PurgedKFoldGen,
)
from .grid import (
    GridGen as GridGen,
    SeedGen as SeedGen,
)
from .horizon import (
    MultiHorizonGenBase as MultiHorizonGenBase,
)
from .multi_horizon import (
    MultiHorizonGen as MultiHorizonGen,
)
from .rolling import (
    RollingGen as RollingGen,
    handler_mod as handler_mod,
)
from .segments import (
    Segment as Segment,
)
from .sequence import (
    ChainGen as ChainGen,
)
from .splitters import (
    CombinatorialPurgedSplit as CombinatorialPurgedSplit,
    PurgedKFold as PurgedKFold,
    RollingSplit as RollingSplit,
)
from .task_view import (
    TaskView as TaskView,
)
