"""A user's handler of another handler's data, a file that scripts for rolling over processed data have next to them."""

from qlib.contrib.data.handler import check_transform_proc
from qlib.data.dataset.handler import DataHandlerLP
from qlib.data.dataset.loader import DataLoaderDH


class WindowHandler(DataHandlerLP):
    """Takes its data from an existing handler, and normalises them again."""

    def __init__(self, source, start_time=None, end_time=None, fit_start_time=None, fit_end_time=None, processors=()):
        super().__init__(
            start_time=start_time,
            end_time=end_time,
            data_loader=DataLoaderDH(source),
            infer_processors=check_transform_proc(processors, fit_start_time, fit_end_time),
            learn_processors=[{"class": "DropnaLabel"}],
        )
