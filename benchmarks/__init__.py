"""Benchmarks: figures with their bounds, from one run on one machine (`make bench`)."""
