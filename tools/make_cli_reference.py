"""Make `docs/reference/cli.md` from the command line itself, or check that it is current.

python tools/make_cli_reference.py            # write the page
python tools/make_cli_reference.py --check    # compare, exit 1 on a difference
"""

import argparse
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from freshet.engine.cli.main import cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "cli.md"
NAME = "freshet"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    checking = parser.parse_args().check
    text = page()
    if not checking:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(
        "error: docs/reference/cli.md is not what the command line says\n"
        "hint: python tools/make_cli_reference.py",
        file=sys.stderr,
    )
    return 1


def page() -> str:
    """The whole page; the same text for the same commands, whatever the terminal."""
    context = click.Context(cli, info_name=NAME)
    found = [(name, cli.get_command(context, name)) for name in cli.list_commands(context)]
    commands = [(name, command) for name, command in found if command is not None]
    parts = [
        "# Command reference",
        "Made by `tools/make_cli_reference.py` from the commands themselves; do not edit.",
        *paragraphs(cli),
        "\n".join(f"- [`{NAME} {name}`](#{NAME}-{name})" for name, _ in commands),
    ]
    for name, command in commands:
        inner = click.Context(command, info_name=name, parent=context)
        parts += section(name, command, inner)
        for sub, one in command.commands.items() if isinstance(command, click.Group) else ():
            below = click.Context(one, info_name=sub, parent=inner)
            parts += section(f"{name} {sub}", one, below)
    return "\n\n".join(parts) + "\n"


def section(name: str, command: click.Command, context: click.Context) -> Iterator[str]:
    """Heading, usage, help and options of one command."""
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## {NAME} {name}"
    yield f"```text\n{NAME} {name} {usage}\n```"
    yield from paragraphs(command)
    rows = [option_row(p, context) for p in command.params if isinstance(p, click.Option)]
    if rows:
        yield "\n".join(["| option | meaning |", "|---|---|", *rows])


def paragraphs(command: click.Command) -> list[str]:
    """The help text, each paragraph on one line."""
    blocks = inspect.cleandoc(command.help or "").split("\n\n")
    return [" ".join(block.split()) for block in blocks]


def option_row(option: click.Option, context: click.Context) -> str:
    """An option as a row of a table."""
    record = option.get_help_record(context)
    names, text = record if record is not None else (", ".join(option.opts), "")
    return f"| `{names}` | {' '.join(text.split())} |".replace("\\", "\\\\")


if __name__ == "__main__":
    sys.exit(main())
