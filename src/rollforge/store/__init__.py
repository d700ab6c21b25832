"""Tasks to a pool: a store that keeps them, and a manager with Qlib's method names in front of it."""
