"""Logs with an action: a fixed sentence, a stable `action` word to match on, ids beside it, never a payload.

One JSON object a line (or a console rendering on a terminal). Control characters and line breaks inside values are
escaped by the JSON encoder, so an event can never forge a second line. aiokafka logs keys, values and SASL passwords at
DEBUG; its loggers are held at WARNING whatever the level. A sink that cannot be written to never blocks the process:
lines go through a bounded queue and what does not fit is dropped and counted.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import sys
import traceback
from pathlib import Path
from typing import Any, Literal

import orjson
import structlog

_QUEUE_LINES = 10_000
_FRAMES = 12
_QUIET = ("aiokafka", "asyncio", "opentelemetry", "urllib3", "sqlalchemy", "alembic")

Logger = structlog.stdlib.BoundLogger


class _DroppingQueueHandler(logging.handlers.QueueHandler):
    """Drops instead of blocking when the writer is stuck; `dropped` says how many lines are gone."""

    dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            _DroppingQueueHandler.dropped += 1


def dropped_lines() -> int:
    """Log lines dropped so far in this process because the sink was stuck."""
    return _DroppingQueueHandler.dropped


def configure(level: str, style: Literal["auto", "json", "console"], process: str) -> None:
    """Set up logging to stderr for this process. Call once, before anything logs.

    Args:
        level: least severe level name. style: "auto" is "console" on a terminal, else "json".
        process: the value of the `process` member of every line.
    """
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(serializer=_json)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _named(process),
            _where,
            renderer,
        ],
    )
    sink = logging.StreamHandler(sys.stderr)
    sink.setFormatter(formatter)
    lines: queue.Queue[Any] = queue.Queue(_QUEUE_LINES)
    listener = logging.handlers.QueueListener(lines, sink)
    listener.start()
    handler = _DroppingQueueHandler(lines)
    # The listener formats; the default `prepare` would render the record too early.
    handler.prepare = lambda record: record  # type: ignore[method-assign]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            _where,  # here, in the thread of the exception: the formatter runs in the writer's
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    global _listener
    _listener = listener


_listener: logging.handlers.QueueListener | None = None


def flush() -> None:
    """Write out what is queued; the last thing a process does."""
    if _listener is not None:
        _listener.stop()


def get(name: str) -> Logger:
    """A logger. Call it as `log.info("One fixed sentence.", action="produce_failed", partition=3)`."""
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger


def _named(process: str) -> structlog.types.Processor:
    def add(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["process"] = process
        return event

    return add


def _where(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """An exception as its class and the places it passed: its message and locals may hold a payload, so both are left out."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["error_class"] = type(error).__qualname__
        frames = traceback.extract_tb(error.__traceback__)
        event["where"] = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames[-_FRAMES:]]
    return event


def _json(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=repr).decode()
