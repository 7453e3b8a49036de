"""Stores: where the values of assets live."""
