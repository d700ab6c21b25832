"""Checking for data, and the replacement of Qlib's downloader."""

from __future__ import annotations

from pathlib import Path

from rollforge.errors import DataNotFound
from rollforge.paths import read_path


def exists_qlib_data(qlib_dir: str | Path) -> bool:
    """Return whether a folder contains data in Qlib's format."""
    folder = read_path(qlib_dir, "qlib_dir")
    return all(
        (folder / part).is_dir() and any((folder / part).iterdir()) for part in ("calendars", "instruments", "features")
    )


class GetData:
    """Replaces Qlib's downloader. Nothing is downloaded.

    Parameters
    ----------
    delete_zip_file : bool
        Without effect.
    """

    def __init__(self, delete_zip_file: bool = False) -> None:
        pass

    def qlib_data(
        self, target_dir: str | Path = "~/.qlib/qlib_data/cn_data", exists_skip: bool = False, **kwargs: object
    ) -> None:
        """Do nothing if data exist; otherwise raise an error that explains how to obtain them.

        Raises
        ------
        DataNotFound
            If the folder contains no data.
        """
        if not exists_qlib_data(target_dir):
            raise DataNotFound(
                f"There are no data in {target_dir}, and Rollforge does not download data. Create a demo market "
                f"with 'rollforge data demo {target_dir} --start 2008-01-01 --end 2020-12-31 --universe csi300 "
                "--benchmark SH000300', import a table with 'rollforge data import', or copy a folder in "
                "Qlib's format there."
            )

    def download_data(self, *args: object, **kwargs: object) -> None:
        """Raise an error that explains how to obtain data.

        Raises
        ------
        DataNotFound
            Always.
        """
        raise DataNotFound(
            "Rollforge does not download data. Create data with 'rollforge data demo DIR' or 'rollforge "
            "data import SRC DIR'."
        )
