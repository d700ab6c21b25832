# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from .base import (
    TaskStore as TaskStore,
    open_store as open_store,
)
from .manager import (
    TaskManager as TaskManager,
)
