"""Projections: folds of the event stream."""
