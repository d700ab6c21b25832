"""``python -m rollforge``: the command."""

from __future__ import annotations

from rollforge.cli.main import main

if __name__ == "__main__":
    main()
