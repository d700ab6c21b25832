"""A pool to recorders: training one task, workers that take tasks from a pool, executors, trainers."""
