"""Measured proof of no look-ahead: a workflow is built again on changed market data, and compared."""
