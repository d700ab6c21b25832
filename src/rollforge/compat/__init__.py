"""Rollforge's functions and classes under the names of other programs."""
