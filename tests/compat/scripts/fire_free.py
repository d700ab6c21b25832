"""A module next to the online script, which imports its dates from here."""

from copy import deepcopy

BEGIN = "2023-06-30"
"""End of the first windows."""
SERVED = "2023-12-15"
"""The first day of the online models: the routine makes up every day from it on."""


def fit_dates(template):
    """Return the task with the days of the available market and its windows ending at the first day."""
    task = deepcopy(template)
    kwargs = task["dataset"]["kwargs"]
    kwargs["handler"]["kwargs"].update(
        start_time="2022-01-03", end_time=BEGIN, fit_start_time="2022-01-03", fit_end_time="2022-10-31"
    )
    kwargs["segments"] = {
        "train": ("2022-01-03", "2022-10-31"), "valid": ("2022-11-01", "2022-12-30"), "test": ("2023-01-02", BEGIN),
    }  # fmt: skip
    task["model"]["kwargs"].update(num_boost_round=5)
    return task
