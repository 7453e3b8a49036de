"""The entry point: which commands there are, and what a person sees when something is wrong."""

import os
import sys
from importlib import import_module

import click

from freshet.engine.errors import FreshetError, RequestError, did_you_mean
from freshet.engine.secrets import redact

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "A month of New York flights lands, a small graph reacts."),
    "run": ("run", "Keep a project fresh until told to stop."),
    "reload": ("daemon", "Have the daemon load the definitions anew; runs go on."),
    "health": ("daemon", "Is the daemon well? Exit code 0, or 1 and why not."),
    "doctor": ("doctor", "Look for what could keep Freshet from working here."),
    "systemd-unit": ("daemon", "Print a systemd unit that keeps a project running."),
    "check": ("run", "Load a project and say what is wrong with it; changes nothing."),
    "status": ("read", "Is it fresh? All assets, one, or one partition."),
    "why": ("read", "Why is it as it is: the chain of causes, or what it waits for."),
    "graph": ("read", "What is made from what."),
    "impact": ("read", "What would have to follow if this changed."),
    "history": ("read", "All materializations of an asset or partition."),
    "provenance": ("provenance", "From which data, code and parameters a version was made."),
    "logs": ("logs", "What a run has printed and logged."),
    "events": ("read", "The stream itself."),
    "audit": ("audit", "What became of every change."),
    "verify": ("read", "Check the stream against its hash chain."),
    "materialize": ("write", "Ask for assets to be built, whether they owe or not."),
    "cancel": ("write", "Stop what is running; the same inputs are not tried again."),
    "invalidate": ("write", "Declare values wrong: they are built anew."),
    "versions": ("versions", "Which versions there were, and which of them are kept."),
    "orphans": ("versions", "What was built and is not defined any more."),
    "rollback": ("versions", "Make an earlier version the current one."),
    "backfill": ("backfill", "Build many partitions anew, beside what changes."),
    "backfills": ("backfill", "How far each backfill is; take one back."),
    "partitions": ("backfill", "Add or remove partitions by name."),
    "next": ("next", "When assets run next, or what they wait for."),
    "plan": ("plan", "What is not as it should be, and what would run."),
    "freshness": ("freshness", "How well were promises kept: error budgets, worst lags."),
    "checks": ("checks", "What the checks said of the values."),
    "check-data": ("checks", "Have the checks of a project look at the values that are there now."),
    "sensors": ("sensors", "How is each sensor, and what did it reject?"),
    "emit": ("write", "Say that a source has a new version."),
    "observe": ("write", "Say which version of an asset was seen."),
    "pause": ("pause", "Start nothing in a scope until it is resumed."),
    "resume": ("pause", "End a pause; what is owed is paid once."),
}
"""Name to module and help: `--help` imports none of them."""

OK, FAILED, USAGE = 0, 1, 2


class Commands(click.Group):
    """Finds a command by name and imports its module only then."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"freshet.engine.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"), None) or getattr(
            module, f"{cmd_name}_"
        )
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise RequestError(
                f"there is no command '{args[0]}'",
                hint=did_you_mean(args[0], COMMANDS) or "freshet --help lists them",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="freshet", message="freshet %(version)s")
def cli() -> None:
    """Freshet keeps data assets fresh: something changed; what must be rebuilt, when, and why?

    Data goes to stdout, talk to stderr. Exit codes: 0 fine, 1 failed, 2 asked for something that
    does not exist.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit the process."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code; errors are told on stderr."""
    try:
        result = cli.main(arguments, prog_name="freshet", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else OK
    except BaseExceptionGroup as group:
        return _tell_group(group)
    except FreshetError as error:
        return tell(error)
    except click.ClickException as error:
        return _tell_usage(error)
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; what is left in the buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def tell(error: FreshetError) -> int:
    """Print an error in its three lines; the exit code says whose fault it is."""
    lines = [f"error: {error.message}"]
    lines += [f"cause: {error.cause}"] if error.cause else []
    lines += [f"hint: {error.hint}"] if error.hint else []
    click.echo(redact("\n".join(lines)), err=True)
    return USAGE if isinstance(error, RequestError) else FAILED


def _tell_group(group: BaseExceptionGroup[BaseException]) -> int:
    """Tell the first error of ours in a group; a group without one is a fault of Freshet's own."""
    ours, rest = group.split(FreshetError)
    while ours is not None:
        first = ours.exceptions[0]
        if isinstance(first, FreshetError):
            return tell(first)
        assert isinstance(first, BaseExceptionGroup)
        ours = first
    if rest is not None and rest.split(KeyboardInterrupt)[1] is None:
        return 130
    raise group


def _tell_usage(error: click.ClickException) -> int:
    lines = [f"error: {error.format_message()}"]
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        lines.append(f"hint: did you mean {' or '.join(sorted(error.possibilities))}?")
    elif isinstance(error, click.UsageError) and error.ctx is not None:
        lines.append(f"hint: {error.ctx.command_path} --help")
    click.echo("\n".join(lines), err=True)
    return USAGE
