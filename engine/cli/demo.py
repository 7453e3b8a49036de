"""The command that shows Freshet at work on real data, offline, in half a minute."""

from pathlib import Path

import click

from freshet.demo import show


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Use this folder, and keep it (default: a temporary one).",
)
@click.option("--keep", is_flag=True, help="Keep the temporary folder to look further.")
def demo(folder: Path | None, keep: bool) -> int:
    """A month of New York flights lands, a small graph reacts.

    Each day is one file; the terminal shows what is rebuilt because of it, in milliseconds.
    """
    if folder is not None:
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
    return show.run(folder, keep=keep)
