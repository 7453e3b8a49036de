"""The same graphs under other tools, each in an environment of its own."""
