"""`python -m freshet` is `freshet`."""

from freshet.engine.cli.main import main

if __name__ == "__main__":
    main()
