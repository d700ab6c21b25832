"""Market data to matrices: the data folder, the expression engine, handlers, the panel cache, datasets."""
