# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from .base import (
    Ledger as Ledger,
    ServiceLease as ServiceLease,
    open_ledger as open_ledger,
)
from .entry import (
    DayResult as DayResult,
    DayState as DayState,
    Entry as Entry,
    EntryKind as EntryKind,
    Event as Event,
    Level as Level,
    Release as Release,
    Role as Role,
    ServiceDefinition as ServiceDefinition,
    Signal as Signal,
)
from .state import (
    ServiceState as ServiceState,
)
