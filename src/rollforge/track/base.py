"""The interface of this package for others: :class:`Recorder`, :class:`Experiment` and the underlying trackers."""

from rollforge.track.experiment import JOINED_TAG, PARENT_TAG, Experiment, activated, get_experiment
from rollforge.track.recorder import Recorder, open_reference
from rollforge.track.tracker import Metric, RunData, RunInfo, RunQuery, Tracker, folder_uri, open_tracker

__all__ = [
    "JOINED_TAG",
    "PARENT_TAG",
    "Experiment",
    "Metric",
    "Recorder",
    "RunData",
    "RunInfo",
    "RunQuery",
    "Tracker",
    "activated",
    "folder_uri",
    "get_experiment",
    "open_reference",
    "open_tracker",
]
