"""The demo's two clients: one that POSTs, one that writes to Kafka directly. Neither gives up while there is time.

A POST is repeated after a broken connection, a 429 or a 503, a record until the broker acknowledged it: what a sender
with an idempotency key may do, and what makes copies. Each repetition is counted, for the laws.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from infra.cli import http
from infra.cli.http import Answer, Connection
from infra.cli.output import UNREACHABLE, Failure
from infra.local.endpoints import Endpoints
from infra.runtime.kafka import connection
from infra.runtime.settings import RuntimeSettings

INGEST: Final = "/api/v1/ingest"
_ATTEMPT_SECONDS = 10.0
_CLOSE_SECONDS = 5.0
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 2.0
_TRY_AGAIN = (429, 503)

Where = Callable[[], Endpoints]
"""The addresses of the system now: they may be others after it was started again."""


class OutOfTime(Failure):
    """The demo's deadline passed."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} within the deadline.", code=UNREACHABLE)


class Poster:
    """An HTTP client with as many kept connections as were ever needed at once.

    Args:
        where: the gateway's base URL is asked for at every new connection.
        deadline: loop time after which nothing is tried again.

    answers: all answers so far by status. repeated: requests sent again.
    """

    def __init__(self, where: Where, deadline: float) -> None:
        self._where, self._deadline = where, deadline
        self._idle: list[Connection] = []
        self.answers: Counter[int] = Counter()
        self.repeated = 0

    async def post(self, body: bytes) -> Answer:
        """POST an event until there is an answer that says what became of it.

        Raises:
            OutOfTime: there was none before the deadline.
        """
        wait = _FIRST_WAIT
        while True:
            answer = await self._attempt(body)
            if answer is not None:
                self.answers[answer.status] += 1
                if answer.status not in _TRY_AGAIN:
                    return answer
            if asyncio.get_running_loop().time() > self._deadline:
                raise OutOfTime("The gateway did not take an event")
            self.repeated += 1
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    async def close(self) -> None:
        """Close every connection."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _attempt(self, body: bytes) -> Answer | None:
        """One request on a kept or new connection; None: no answer."""
        clock = asyncio.get_running_loop().time
        writer: asyncio.StreamWriter | None = None
        kept = False
        try:
            async with asyncio.timeout(_ATTEMPT_SECONDS):
                url = urlsplit(self._where().gateway)
                reader, writer = self._idle.pop() if self._idle else await http.connect(url)
                began = clock()
                head = f"POST {INGEST} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                status, content, kept = await http.read_answer(reader)
                return Answer(status, content, clock() - began)
        except http.MISSED:
            return None
        finally:
            if kept and writer is not None:
                self._idle.append((reader, writer))
            elif writer is not None:
                writer.close()


@dataclass
class Writer:
    """A plain Kafka producer, such as any team may run: no part of Plutus's own, no headers, keyed by the source.

    Args:
        settings: of the system; its brokers are those of `where` at the time of each new connection.
        deadline: loop time after which nothing is tried again.

    repeated: records sent again, because the broker's answer did not come.
    """

    settings: RuntimeSettings
    where: Where
    deadline: float
    repeated: int = 0
    _producer: AIOKafkaProducer | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def send(self, key: bytes, value: bytes | None) -> None:
        """Write a record until the broker acknowledged it.

        Raises:
            OutOfTime: it did not before the deadline.
        """
        wait = _FIRST_WAIT
        while True:
            producer = await self._connected()
            try:
                async with asyncio.timeout(_ATTEMPT_SECONDS):
                    await producer.send_and_wait(self.settings.kafka_topic, value, key=key)
                    return
            except (KafkaError, TimeoutError, OSError):
                await self._give_up(producer)
            self._check_time()
            self.repeated += 1
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    async def close(self) -> None:
        """Close the connection."""
        if self._producer is not None:
            await self._give_up(self._producer)

    async def _connected(self) -> AIOKafkaProducer:
        async with self._lock:
            while self._producer is None:
                self._producer = await self._connect()
                if self._producer is None:
                    self._check_time()
                    await asyncio.sleep(_FIRST_WAIT)
            return self._producer

    async def _connect(self) -> AIOKafkaProducer | None:
        settings = self.settings.model_copy(update={"kafka_bootstrap_servers": self.where().kafka})
        producer = AIOKafkaProducer(**connection(settings, "plutus-demo"), acks="all", enable_idempotence=True)
        try:
            async with asyncio.timeout(_ATTEMPT_SECONDS):
                await producer.start()
        except (KafkaError, TimeoutError, OSError):
            await _stop(producer)
            return None
        return producer

    async def _give_up(self, producer: AIOKafkaProducer) -> None:
        """An idempotent producer that failed once may fail for ever: the next record gets a new one."""
        if producer is self._producer:
            self._producer = None
            await _stop(producer)

    def _check_time(self) -> None:
        if asyncio.get_running_loop().time() > self.deadline:
            raise OutOfTime("Kafka did not take a record")


async def _stop(producer: AIOKafkaProducer) -> None:
    with suppress(KafkaError, TimeoutError, OSError):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await producer.stop()
