"""The report of an experiment: numbers, one HTML file, and the same headline on the terminal."""
