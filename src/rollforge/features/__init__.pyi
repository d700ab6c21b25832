# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from .alpha import (
    Alpha158 as Alpha158,
    Alpha158DL as Alpha158DL,
    Alpha158vwap as Alpha158vwap,
    Alpha360 as Alpha360,
    Alpha360DL as Alpha360DL,
    Alpha360vwap as Alpha360vwap,
)
from .api import (
    D as D,
)
from .dataset import (
    Dataset as Dataset,
    DatasetH as DatasetH,
)
from .handler import (
    DataHandler as DataHandler,
    DataHandlerLP as DataHandlerLP,
)
from .inst_processor import (
    InstProcessor as InstProcessor,
)
from .loader import (
    DataLoader as DataLoader,
    DataLoaderDH as DataLoaderDH,
    NestedDataLoader as NestedDataLoader,
    QlibDataLoader as QlibDataLoader,
    StaticDataLoader as StaticDataLoader,
)
from .processor_base import (
    Processor as Processor,
)
from .timeseries import (
    TSDataSampler as TSDataSampler,
    TSDatasetH as TSDatasetH,
)
