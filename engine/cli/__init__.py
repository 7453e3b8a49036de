"""The command line: one module per kind of command, found lazily by `main`."""
