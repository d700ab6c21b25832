# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from .execute import (
    begin_task_train as begin_task_train,
    end_task_train as end_task_train,
    task_train as task_train,
)
from .executor import Executor as Executor, InProcess as InProcess, LocalProcesses as LocalProcesses
from .pool_trainer import DelayTrainerRM as DelayTrainerRM, TrainerRM as TrainerRM
from .spans import TaskSpans as TaskSpans
from .trainer import DelayTrainerR as DelayTrainerR, Trainer as Trainer, TrainerR as TrainerR
from .worker import (
    run_task as run_task,
)
