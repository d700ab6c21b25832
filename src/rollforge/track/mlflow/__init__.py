"""Tracking with MLflow: by default in an SQLite database, which ``mlflow ui`` can show, or on a tracking server.

Only this package imports mlflow. It uses MLflow's tracking store directly instead of the "fluent" API, which keeps a
global run, starts threads, and calls git three times per run.
"""

from rollforge.track.mlflow.tracker import MLflowTracker

__all__ = ["MLflowTracker"]
