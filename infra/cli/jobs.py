"""The audit of what operators do with failures, stored events and offsets: one row a job, who asked for what and when, and how far it came.

A job's row is written before its first effect and after every batch, so that one that died tells where to go on. What is
asked for is kept as filters and ids; nothing here holds a payload.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.runtime.tables import replay_jobs


class Kind(StrEnum):
    """What a job does."""

    REPLAY = "replay"
    RETRY = "retry"
    DISCARD = "discard"
    RECONCILE = "reconcile"
    RUN = "run"
    SKIP = "skip"


class Status(StrEnum):
    """How a job stands. One that is running and was not heard of for long has died; it may be resumed."""

    RUNNING = "running"
    STOPPED = "stopped"
    DONE = "done"


@dataclass(frozen=True)
class Job:
    """A row. progress: where it goes on, None where nothing is done yet."""

    job_id: UUID
    kind: Kind
    who: str
    role: str
    request: dict[str, Any]
    status: Status
    progress: dict[str, Any] | None
    counts: dict[str, Any]
    started_at: datetime
    updated_at: datetime


def who() -> str:
    """The user of this process and its host, as they call themselves."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


async def start(db: AsyncConnection, kind: Kind, request: Mapping[str, Any]) -> UUID:
    """A new job; returns its id."""
    values = {"kind": kind.value, "who": who(), "request": dict(request)}
    job_id: UUID = (await db.execute(insert(replay_jobs).values(values).returning(replay_jobs.c.job_id))).scalar_one()
    return job_id


async def save(
    db: AsyncConnection,
    job_id: UUID,
    status: Status,
    counts: Mapping[str, Any],
    progress: Mapping[str, Any] | None = None,
) -> None:
    """How it stands now."""
    values = {"status": status.value, "counts": dict(counts), "progress": None if progress is None else dict(progress)}
    await db.execute(update(replay_jobs).where(replay_jobs.c.job_id == job_id).values(**values, updated_at=func.now()))


async def load(db: AsyncConnection, job_id: UUID) -> Job | None:
    """A job, None where there is none of this id."""
    row = (await db.execute(select(replay_jobs).where(replay_jobs.c.job_id == job_id))).mappings().one_or_none()
    return None if row is None else _job(row)


async def latest(db: AsyncConnection, most: int) -> list[Job]:
    """The latest jobs, the last begun first."""
    query = select(replay_jobs).order_by(replay_jobs.c.started_at.desc()).limit(most)
    return [_job(row) for row in (await db.execute(query)).mappings()]


def _job(row: Mapping[Any, Any]) -> Job:
    values = {str(name): value for name, value in row.items()}
    return Job(**{**values, "kind": Kind(values["kind"]), "status": Status(values["status"])})
