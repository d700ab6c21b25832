"""The ``rollforge`` command."""
