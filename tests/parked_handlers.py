"""The handler of `tests.parked_latency`: it notes when an effect happened, and asks for later while a run is not mended."""

from __future__ import annotations

from stream_worker import Event, Retryable, Transaction, handler, on_start


@on_start
async def tables(tx: Transaction) -> None:
    """When each effect happened, and which runs are mended."""
    await tx.execute(
        "CREATE TABLE IF NOT EXISTS timed (n bigserial, source text, number int, at timestamptz DEFAULT clock_timestamp())"
    )
    await tx.execute("CREATE TABLE IF NOT EXISTS mended_runs (run text)")


@handler(type="timed")
async def timed(event: Event, tx: Transaction) -> None:
    """One effect."""
    run = event.data.get("until_mended")
    if run and not await tx.fetchval("SELECT count(*) FROM mended_runs WHERE run = $1", run):
        raise Retryable
    await tx.execute("INSERT INTO timed (source, number) VALUES ($1, $2)", event.source, event.data["n"])
