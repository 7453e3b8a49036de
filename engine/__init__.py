"""The engine: facts, definitions, decisions and the shell that carries them out."""
