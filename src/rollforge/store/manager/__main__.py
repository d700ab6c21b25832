"""``python -m rollforge.store.manager -t POOL …``: ``rollforge pool``, in the form of Qlib's task manager."""

from __future__ import annotations

from rollforge.cli.pool import main

if __name__ == "__main__":
    main()
