"""The report of an experiment: figures, an HTML page, and tables for the terminal."""
