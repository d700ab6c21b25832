"""A Prefect flow: add the table of a day, then publish it. Serve it on a schedule with `python prefect_flow.py`.

Prefect retries each step, as a cron job does with its next run.
"""

import datetime
import subprocess
from pathlib import Path

from prefect import flow, task

FOLDER = Path("/srv/ranking")
NO_DATA_YET, EARLIER_MODEL, BUSY = 3, 5, 6
"""Exit codes of `rollforge serve run`."""


@task(retries=16, retry_delay_seconds=900)
def append(day: str) -> None:
    """Add the table of the vendor, which may arrive late."""
    subprocess.run(["rollforge", "data", "append", f"days/{day}.csv", "demo/market"], cwd=FOLDER, check=True)


@task(retries=3, retry_delay_seconds=300)
def publish(day: str) -> int:
    """Publish all days that are due, up to the day."""
    done = subprocess.run(["rollforge", "serve", "--service", "ranking", "run", "--until", day], cwd=FOLDER, check=False)
    if done.returncode not in (0, NO_DATA_YET, EARLIER_MODEL, BUSY):
        raise RuntimeError(f"rollforge serve run ended with exit code {done.returncode}.")
    return done.returncode


@flow(name="ranking")
def ranking(day: str | None = None) -> int:
    """Publish a day, by default today."""
    day = day or datetime.date.today().isoformat()
    append(day)
    return publish(day)


if __name__ == "__main__":
    ranking.serve(name="daily", cron="0 18 * * 1-5")
