"""``python -m rollforge`` and ``rollforge``: the command."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command. Ctrl-C ends it without a traceback also while its modules are imported."""
    own = signal.getsignal(signal.SIGINT)
    if own is signal.default_int_handler:  # otherwise it is ignored, as in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rollforge.cli.main import main as command

    if own is signal.default_int_handler:
        signal.signal(signal.SIGINT, own)
    command()


if __name__ == "__main__":
    main()
