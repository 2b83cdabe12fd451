"""FastAPI and SQLAlchemy as their tutorials show them: each request inserts its row and commits. No Kafka."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import JSON, Column, MetaData, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from infra.bench.peers.models import Accepted, Envelope

_ENGINE = create_async_engine(os.environ["DSN"].replace("postgresql://", "postgresql+asyncpg://"), pool_size=20)
_SESSIONS = async_sessionmaker(_ENGINE)
_METADATA = MetaData()
_EVENTS = Table(
    "peer_events",
    _METADATA,
    Column("id", Uuid, primary_key=True),
    Column("source", Text, nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("schema_version", Text, nullable=False),
    Column("payload", JSON, nullable=False),
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connections live as long as the application. The table is made by `python -m infra.bench.peers.insert_each`."""
    yield
    await _ENGINE.dispose()


async def session() -> AsyncIterator[AsyncSession]:
    """A session for one request."""
    async with _SESSIONS() as made:
        yield made


app = FastAPI(lifespan=lifespan)


@app.post("/api/v1/ingest", status_code=202)
async def ingest(event: Envelope, db: Annotated[AsyncSession, Depends(session)]) -> Accepted:
    """Store one event, once."""
    values = {"id": event.event_id, **event.model_dump()}
    await db.execute(insert(_EVENTS).values(values).on_conflict_do_nothing())
    await db.commit()
    return Accepted(event_id=event.event_id)


async def create_table() -> None:
    """Make the table."""
    async with _ENGINE.begin() as connection:
        await connection.run_sync(_METADATA.create_all)
    await _ENGINE.dispose()


if __name__ == "__main__":
    import asyncio

    asyncio.run(create_table())
