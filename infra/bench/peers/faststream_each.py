"""FastStream as its tutorial shows it, acknowledging after the handler: one message, one statement, one commit.

Run as `python -m infra.bench.peers.faststream_each`. The package is no dependency of Plutus and may be absent, so it is
looked for when this is run.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from importlib import import_module
from typing import Any

import asyncpg
import orjson


async def main() -> None:
    """Consume until stopped."""
    faststream, kafka = import_module("faststream"), import_module("faststream.kafka")
    pool = await asyncpg.create_pool(os.environ["DSN"], min_size=1, max_size=4)
    broker = kafka.KafkaBroker(os.environ["BOOTSTRAP"], log_level=30)

    async def store(message: dict[str, Any]) -> None:
        found = uuid.uuid5(uuid.NAMESPACE_OID, f"{message['source']}\n{message['idempotency_key']}")
        await pool.execute(
            "INSERT INTO drained VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            found,
            message["source"],
            orjson.dumps(message["payload"]).decode(),
        )

    subscriber = broker.subscriber(
        os.environ["TOPIC"],
        group_id=os.environ["GROUP"],
        auto_offset_reset="earliest",
        ack_policy=faststream.AckPolicy.ACK,
    )
    subscriber(store)
    await faststream.FastStream(broker).run()


if __name__ == "__main__":
    asyncio.run(main())
