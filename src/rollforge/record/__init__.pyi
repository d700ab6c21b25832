# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from .analysis import (
    HFSignalRecord as HFSignalRecord,
    SigAnaRecord as SigAnaRecord,
)
from .base import (
    ACRecordTemp as ACRecordTemp,
    RecordTemp as RecordTemp,
)
from .drift import (
    DriftRecord as DriftRecord,
    DriftReference as DriftReference,
)
from .portfolio import (
    MultiPassPortAnaRecord as MultiPassPortAnaRecord,
    PortAnaRecord as PortAnaRecord,
)
from .segments import (
    MultiSegRecord as MultiSegRecord,
    SignalMseRecord as SignalMseRecord,
)
from .signal import (
    SignalRecord as SignalRecord,
)
