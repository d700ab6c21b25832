"""A handler of one's own over another handler's data, as scripts that roll over processed data have it beside them."""

from qlib.contrib.data.handler import check_transform_proc
from qlib.data.dataset.handler import DataHandlerLP
from qlib.data.dataset.loader import DataLoaderDH


class WindowHandler(DataHandlerLP):
    """Takes its data from a handler that is there already, and norms them anew."""

    def __init__(self, source, start_time=None, end_time=None, fit_start_time=None, fit_end_time=None, processors=()):
        super().__init__(
            start_time=start_time,
            end_time=end_time,
            data_loader=DataLoaderDH(source),
            infer_processors=check_transform_proc(processors, fit_start_time, fit_end_time),
            learn_processors=[{"class": "DropnaLabel"}],
        )
