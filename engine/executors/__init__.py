"""Executors: where the functions of assets run."""
