"""Run the tasks of a pool on the machines of a cluster, where an engine such as Ray or Dask starts agents."""
