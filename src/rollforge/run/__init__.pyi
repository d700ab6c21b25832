# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from .execute import (
    begin_task_train as begin_task_train,
    end_task_train as end_task_train,
    task_train as task_train,
)
from .trainer import (
    DelayTrainerR as DelayTrainerR,
    DelayTrainerRM as DelayTrainerRM,
    Trainer as Trainer,
    TrainerR as TrainerR,
    TrainerRM as TrainerRM,
)
from .worker import (
    run_task as run_task,
)
