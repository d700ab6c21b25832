# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from .manager import (
    OnlineManager as OnlineManager,
)
from .strategy import (
    OnlineStrategy as OnlineStrategy,
    RollingStrategy as RollingStrategy,
)
from .tool import (
    OnlineTool as OnlineTool,
    OnlineToolR as OnlineToolR,
)
from .update import (
    DSBasedUpdater as DSBasedUpdater,
    LabelUpdater as LabelUpdater,
    PredUpdater as PredUpdater,
    RecordUpdater as RecordUpdater,
    RMDLoader as RMDLoader,
)
