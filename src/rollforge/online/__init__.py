"""Serving: models that are kept up to date, day after day."""
