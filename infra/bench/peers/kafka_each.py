"""FastAPI and aiokafka as their tutorials show them: each request sends its record and waits. No deduplication."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer
from fastapi import FastAPI

from infra.bench.peers.models import Accepted, Envelope

_TOPIC = os.environ["TOPIC"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The producer lives as long as the application."""
    producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["BOOTSTRAP"], acks="all", enable_idempotence=True, linger_ms=2
    )
    await producer.start()
    app.state.producer = producer
    try:
        yield
    finally:
        await producer.stop()


app = FastAPI(lifespan=lifespan)


@app.post("/api/v1/ingest", status_code=202)
async def ingest(event: Envelope) -> Accepted:
    """Publish one event."""
    await app.state.producer.send_and_wait(_TOPIC, event.model_dump_json().encode(), key=event.source.encode())
    return Accepted(event_id=event.event_id)
