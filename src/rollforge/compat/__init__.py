"""Other programs' names for Rollforge's functions and classes."""
