"""Reading fetched bytes that the Kafka client cannot: a record whose header name is not UTF-8 stops aiokafka for good.

Its iterator dies at such a record, drops what it had in hand, and says neither topic nor offset; any later fetch of that
batch dies again. So, only after such a death: `keep_bytes` makes the client keep what it fetched, and `read` reads those
bytes with aiokafka's own pure Python reader, made lenient about names. Good records come out as they are, broken ones
marked. The private parts of aiokafka that this touches are pinned with its version, and tests hold them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

from stream_worker.records import PlainRecord

_original = fetcher.MemoryRecords


class _Kept:
    """What the client wraps fetched bytes in, with the bytes still at hand."""

    def __init__(self, data: bytes) -> None:
        self.raw = bytes(data)
        self._inner = _original(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Lenient(bytearray):
    """Bytes that decode whatever they hold, and remember that they had to bend the rule."""

    bent = False

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _Lenient(found) if isinstance(key, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        with suppress(UnicodeDecodeError):
            return super().decode(encoding, errors)
        _Lenient.bent = True
        return super().decode(encoding, "backslashreplace")


def keep_bytes(keep: bool) -> None:
    """From the next fetch on, keep the fetched bytes (`True`), or go back to the client's own way."""
    fetcher.MemoryRecords = _Kept if keep else _original


def dead(consumer: AIOKafkaConsumer) -> Iterator[tuple[TopicPartition, Any]]:
    """Partitions whose fetched records stopped at an exception, and aiokafka's object for those records."""
    for tp, fetched in consumer._fetcher._records.items():
        records = getattr(fetched, "_partition_records", None)
        iterator = getattr(records, "_records_iterator", None)
        if records is not None and iterator is not None and iterator.gi_frame is None:
            yield tp, records


def read(tp: TopicPartition, fetched: Any) -> list[PlainRecord] | None:
    """All records of the fetched bytes; None where they were not kept.

    Raises:
        ValueError: transactions were aborted among them, which only the client can tell apart.
    """
    kept = fetched._records
    if not isinstance(kept, _Kept):
        return None
    if fetched._aborted_transactions or fetched._aborted_producers:
        raise ValueError("an undecodable record stands among aborted transactions")
    return list(_records(tp, kept.raw))


def _records(tp: TopicPartition, raw: bytes) -> Iterator[PlainRecord]:
    batches = _MemoryRecordsPy(raw)
    while batches.has_next():
        batch = _DefaultRecordBatchPy(bytearray(batches._next_slice))
        batches._cache_next()
        if batch.is_control_batch:
            continue
        batch._maybe_uncompress()
        batch._buffer = _Lenient(batch._buffer)
        _Lenient.bent = False
        for record in batch:
            yield PlainRecord(
                tp.topic,
                tp.partition,
                record.offset,
                record.timestamp,
                record.key,
                record.value,
                tuple(record.headers),
                _Lenient.bent,
            )
            _Lenient.bent = False
