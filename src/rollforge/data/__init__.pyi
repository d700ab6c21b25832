# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from rollforge.features.alpha import (
    Alpha158 as Alpha158,
    Alpha158DL as Alpha158DL,
    Alpha158vwap as Alpha158vwap,
    Alpha360 as Alpha360,
    Alpha360DL as Alpha360DL,
    Alpha360vwap as Alpha360vwap,
)
from rollforge.features.api import D as D
from rollforge.features.dataset import (
    Dataset as Dataset,
    DatasetH as DatasetH,
)
from rollforge.features.handler import (
    DataHandler as DataHandler,
    DataHandlerLP as DataHandlerLP,
)
from rollforge.features.inst_processor import (
    InstProcessor as InstProcessor,
)
from rollforge.features.loader import (
    DataLoader as DataLoader,
    DataLoaderDH as DataLoaderDH,
    NestedDataLoader as NestedDataLoader,
    QlibDataLoader as QlibDataLoader,
    StaticDataLoader as StaticDataLoader,
)
from rollforge.features.memory import MTSDatasetH as MTSDatasetH
from rollforge.features.processor_base import (
    Processor as Processor,
)
from rollforge.features.timeseries import (
    TSDataSampler as TSDataSampler,
    TSDatasetH as TSDatasetH,
)
from rollforge.market.demo import (
    make_demo as make_demo,
)
from rollforge.market.filters import (
    BaseDFilter as BaseDFilter,
    ExpressionDFilter as ExpressionDFilter,
    NameDFilter as NameDFilter,
    SeriesDFilter as SeriesDFilter,
)
from rollforge.market.importer import (
    import_table as import_table,
)
from rollforge.market.provider import (
    Provider as Provider,
    open_provider as open_provider,
)
