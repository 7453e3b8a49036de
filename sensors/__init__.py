"""Sensors: async sources of changes."""
