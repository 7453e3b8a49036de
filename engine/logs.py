"""Logs: lines for people on a terminal, one JSON object per line for
everything else; always to stderr.
"""

import sys

import structlog


def configure() -> None:
    """Send all logs of the process to stderr, in the form its reader wants."""
    person = sys.stderr.isatty()
    # Without the locals of each frame: they may hold users' own secrets.
    plain = structlog.dev.RichTracebackFormatter(show_locals=False)
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if person:
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=plain)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if person else "iso", utc=not person),
            *([] if person else [structlog.processors.format_exc_info]),
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
