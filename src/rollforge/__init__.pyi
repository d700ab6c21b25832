# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from . import plot as plot
from .collect.collector import (
    Collector as Collector,
    MergeCollector as MergeCollector,
    RecorderCollector as RecorderCollector,
)
from .collect.ensemble import (
    AverageEnsemble as AverageEnsemble,
    Ensemble as Ensemble,
    RollingEnsemble as RollingEnsemble,
    SingleKeyEnsemble as SingleKeyEnsemble,
)
from .collect.group import (
    Group as Group,
    RollingGroup as RollingGroup,
)
from .collect.task_collector import (
    TaskCollector as TaskCollector,
)
from .drivers import (
    register_ledger as register_ledger,
    register_store as register_store,
    register_tracker as register_tracker,
)
from .engine.executors import Dask as Dask, Ray as Ray, Slurm as Slurm
from .errors import (
    ArtifactNotFound as ArtifactNotFound,
    ArtifactUnreadable as ArtifactUnreadable,
    BuildError as BuildError,
    ClusterUnavailable as ClusterUnavailable,
    CodeNotAllowed as CodeNotAllowed,
    ConfigError as ConfigError,
    CoverageError as CoverageError,
    DataChanged as DataChanged,
    DataError as DataError,
    DataNotFound as DataNotFound,
    DataNotSent as DataNotSent,
    DateError as DateError,
    DayFailed as DayFailed,
    ExperimentNotFound as ExperimentNotFound,
    ExpressionError as ExpressionError,
    FailingWorker as FailingWorker,
    FolderBusy as FolderBusy,
    LeakageError as LeakageError,
    LeaseLost as LeaseLost,
    LedgerConflict as LedgerConflict,
    MissingCode as MissingCode,
    MissingDependency as MissingDependency,
    ModelError as ModelError,
    RecorderNotFound as RecorderNotFound,
    RecorderUnreachable as RecorderUnreachable,
    RequirementsNotMet as RequirementsNotMet,
    RollforgeError as RollforgeError,
    SegmentError as SegmentError,
    ServiceBusy as ServiceBusy,
    StoreError as StoreError,
    StoreGone as StoreGone,
    StoreUnavailable as StoreUnavailable,
    TaskNotFound as TaskNotFound,
    TaskNotSerializable as TaskNotSerializable,
    TrackingError as TrackingError,
    TrackingUnavailable as TrackingUnavailable,
    TrainingFailed as TrainingFailed,
    UntrustedPickle as UntrustedPickle,
)
from .expressions.operators import register_operator as register_operator
from .features.alpha import (
    Alpha158 as Alpha158,
    Alpha360 as Alpha360,
)
from .features.api import D as D
from .features.dataset import (
    DatasetH as DatasetH,
)
from .features.handler import (
    DataHandlerLP as DataHandlerLP,
)
from .features.timeseries import (
    TSDatasetH as TSDatasetH,
)
from .generate.base import (
    TaskGen as TaskGen,
    task_generator as task_generator,
)
from .generate.calendar import (
    TimeAdjuster as TimeAdjuster,
)
from .generate.calendar_windows import (
    CalendarGen as CalendarGen,
)
from .generate.cross_validation import (
    CombinatorialPurgedGen as CombinatorialPurgedGen,
    PurgedKFoldGen as PurgedKFoldGen,
)
from .generate.grid import (
    GridGen as GridGen,
    SeedGen as SeedGen,
)
from .generate.horizon import (
    MultiHorizonGenBase as MultiHorizonGenBase,
)
from .generate.multi_horizon import (
    MultiHorizonGen as MultiHorizonGen,
)
from .generate.rolling import (
    RollingGen as RollingGen,
)
from .generate.sequence import (
    ChainGen as ChainGen,
)
from .generate.splitters import (
    CombinatorialPurgedSplit as CombinatorialPurgedSplit,
    PurgedKFold as PurgedKFold,
    RollingSplit as RollingSplit,
)
from .generate.task_view import (
    TaskView as TaskView,
)
from .models.base import (
    Model as Model,
)
from .models.lightgbm import (
    LGBModel as LGBModel,
)
from .models.linear import (
    LinearModel as LinearModel,
)
from .models.xgboost import (
    XGBModel as XGBModel,
)
from .online.manager import (
    OnlineManager as OnlineManager,
)
from .online.model_updater import (
    ModelUpdater as ModelUpdater,
)
from .online.strategy import (
    RollingStrategy as RollingStrategy,
)
from .online.tool import (
    OnlineToolR as OnlineToolR,
)
from .online.update import (
    LabelUpdater as LabelUpdater,
    PredUpdater as PredUpdater,
)
from .plan import Plan as Plan, make_plan as make_plan
from .record.analysis import (
    SigAnaRecord as SigAnaRecord,
)
from .record.portfolio import (
    PortAnaRecord as PortAnaRecord,
)
from .record.signal import (
    SignalRecord as SignalRecord,
)
from .rolling import (
    Rolling as Rolling,
)
from .run.execute import (
    task_train as task_train,
)
from .run.pool_trainer import DelayTrainerRM as DelayTrainerRM, TrainerRM as TrainerRM
from .run.trainer import DelayTrainerR as DelayTrainerR, Trainer as Trainer, TrainerR as TrainerR
from .run.worker import (
    run_task as run_task,
)
from .session import (
    Session as Session,
    current_session as current_session,
    init as init,
    using as using,
)
from .store.base import TaskStore as TaskStore, open_store as open_store
from .store.manager import (
    TaskManager as TaskManager,
)
from .task import (
    Status as Status,
    TaskRecord as TaskRecord,
)
from .track.base import (
    Experiment as Experiment,
    Recorder as Recorder,
    Tracker as Tracker,
    open_tracker as open_tracker,
)
from .track.r import (
    R as R,
)
from .walk_forward import WalkForward as WalkForward, walk_forward as walk_forward
from .workflow import Workflow as Workflow, load_workflow as load_workflow

__version__: str
