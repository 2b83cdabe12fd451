"""Logs with an action: a fixed sentence, a stable `action` word to match on, ids beside it, never a payload.

One JSON object a line (or a console rendering on a terminal). Line breaks, control characters, and those that change
the direction of text are escaped in both, so an event can never forge a line or what a terminal shows of one. Of an
exception only the class and the places it passed are told, also of one that ends the process. aiokafka logs keys, values
and SASL passwords at DEBUG; its loggers are held at WARNING whatever the level. A sink that nobody reads never blocks the
process, not even its end: lines go through a bounded queue to a thread of their own, and what does not fit is dropped
and counted.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import sys
import threading
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import orjson
import stamina
import stamina.instrumentation
import structlog

_TOLD_TRIES = (1, 10, 60)
_QUEUE_LINES: Final = 10_000
_FRAMES: Final = 12
_FLUSH_SECONDS: Final = 2.0
_STDERR: Final = 2
_QUIET: Final = ("aiokafka", "asyncio", "opentelemetry", "urllib3", "sqlalchemy", "alembic")

Logger = structlog.stdlib.BoundLogger


class _Sink(logging.Handler):
    """Hands records to a thread that renders and writes them; when that is stuck, drops them instead of waiting.

    The thread writes to the descriptor itself: Python's own stream holds a lock while it waits for a reader, and the end
    of the process would wait for that lock.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.dropped = 0
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(_QUEUE_LINES)
        self._thread = threading.Thread(target=self._write_all, name="log-writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def finish(self, timeout: float) -> None:
        """Let the thread write what is queued, and end, for at most `timeout` seconds."""
        with suppress(queue.Full):
            self._records.put(None, timeout=timeout / 2)
        self._thread.join(timeout / 2)

    def _write_all(self) -> None:
        told = 0
        while (record := self._records.get()) is not None:
            try:
                self._write(self._line(record))
            except OSError:  # nobody is there to read any more
                self.dropped += 1
                continue
            if self.dropped > told and self._records.empty():
                lost, told = self.dropped - told, self.dropped
                _LOG.warning("Log lines were dropped, because nobody read them.", action="log_dropped", count=lost)

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception as error:
            # Whatever a value does when it is looked at, the next line is still written.
            return _json({"event": "A log line cannot be shown.", "action": "log_broken", "why": type(error).__name__})

    @staticmethod
    def _write(line: str) -> None:
        rest = memoryview(f"{line}\n".encode(errors="backslashreplace"))
        while rest:
            try:
                rest = rest[os.write(_STDERR, rest) :]
            except BlockingIOError:  # whoever shares the descriptor made it non-blocking
                select.select([], [_STDERR], [])


_sink: _Sink | None = None


def dropped_lines() -> int:
    """Log lines dropped so far in this process because the sink was stuck."""
    return _sink.dropped if _sink is not None else 0


def configure(level: str, style: Literal["auto", "json", "console"], process: str) -> None:
    """Set up logging to stderr for this process. Call once, before anything logs.

    Args:
        level: least severe level name. style: "auto" is "console" on a terminal, else "json".
        process: the value of the `process` member of every line.
    """
    global _sink
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    _sink = _Sink(_formatter(console, process))
    root = logging.getLogger()
    root.handlers[:] = [_sink]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _where,  # here, in the thread of the exception: the formatter runs in the writer's
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    stamina.instrumentation.set_on_retry_hooks([_tried_in_vain])
    # In place of Python's own tracebacks, which end with the exception's text.
    sys.excepthook = _last_words
    threading.excepthook = lambda thread: _unforeseen(thread.exc_value)
    sys.unraisablehook = lambda ignored: _unforeseen(ignored.exc_value)


def _tried_in_vain(details: stamina.instrumentation.RetryDetails) -> None:
    """In place of stamina's own line, which holds the exception's text."""
    if details.retry_num in _TOLD_TRIES or details.retry_num % _TOLD_TRIES[-1] == 0:
        get(__name__).warning(
            "Something that must work at the start does not yet; it is tried again.",
            action="start_retry",
            error_class=type(details.caused_by).__name__,
            tries=details.retry_num,
        )


def flush(timeout: float = _FLUSH_SECONDS) -> None:
    """Write out what is queued, for at most `timeout` seconds; the last thing a process does."""
    if _sink is not None:
        _sink.finish(timeout)


def get(name: str) -> Logger:
    """A logger. Call it as `log.info("One fixed sentence.", action="produce_failed", partition=3)`."""
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger


_LOG = get(__name__)


def _formatter(console: bool, process: str) -> logging.Formatter:
    def named(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["process"] = process
        return event

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level, _library_line, _where],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            named,
            *([_printable_values, structlog.dev.ConsoleRenderer()] if console else [_as_json]),
        ],
    )


def _library_line(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """A line of a library: when it was logged, and its first line only, as asyncio puts an exception's text into others."""
    record: logging.LogRecord = event["_record"]
    event["time"] = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
    event["logger"] = record.name
    event["event"] = event["event"].partition("\n")[0]
    return event


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


def _last_words(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    _LOG.critical("The process ends with an error.", action="crashed", exc_info=error)
    flush()


def _unforeseen(error: BaseException | None) -> None:
    _LOG.error("An error reached nobody.", action="unhandled", exc_info=error)


def _as_json(_: Any, __: str, event: structlog.types.EventDict) -> str:
    return _json(event)


def _json(event: Any) -> str:
    try:
        line = orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # lone surrogates, integers beyond 64 bits
        line = json.dumps(event, default=repr)
    return _printable(line)


def _printable_values(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    return {name: _printable(value) if isinstance(value, str) else value for name, value in event.items()}


def _printable(text: str) -> str:
    """Escaped as in JSON: what moves the cursor, breaks the line, is unseen, or turns the direction of text."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
