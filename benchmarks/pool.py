"""The pool on SQLite: creating, claiming and committing, counting, waiting.

python -m benchmarks.pool
"""

from __future__ import annotations

import threading
import time
from typing import Any

from benchmarks import setting


def main() -> None:
    """Time all and print one line."""
    options = setting.arguments(__doc__ or "")
    from rollforge.store.base import open_store
    from rollforge.store.manager import TaskManager

    n = 5_000 if options.small else 100_000
    with setting.workplace() as folder:
        store = open_store(f"sqlite:///{folder}/tasks.db")
        definitions = [{"model": {"class": "LGBModel", "kwargs": {"seed": i}}} for i in range(n)]
        figures: dict[str, Any] = {
            "tasks": n,
            "create_seconds": setting.seconds(lambda: store.create("p", definitions)),
        }
        figures["create_again_seconds"] = setting.seconds(lambda: store.create("p", definitions))

        def pairs(count: int) -> None:
            for _ in range(count):
                (task,) = store.claim("p", worker="w", lease=60)
                store.commit(task, {"recorder": {"id": "x" * 32}})

        rounds = 300 if options.small else 2000
        figures["claim_commit_per_second"] = rounds / setting.seconds(lambda: pairs(rounds))
        figures["count_ms"] = setting.median([setting.seconds(lambda: store.count("p")) * 1000 for _ in range(5)])

        store.create("last", [{"x": 1}])
        (task,) = store.claim("last", worker="w", lease=60)
        ended: list[float] = []

        def wait() -> None:
            TaskManager("last", store=store).wait()
            ended.append(time.perf_counter())

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.5)
        store.commit(task, 1)
        committed = time.perf_counter()
        waiting.join()
        figures["wait_ends_after_ms"] = (ended[0] - committed) * 1000
        setting.report("pool", **figures)


if __name__ == "__main__":
    main()
