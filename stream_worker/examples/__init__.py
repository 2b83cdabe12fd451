"""Example handlers, one module per use, to read and to run: WORKER_HANDLERS=stream_worker.examples.

    vehicles      one upsert with a WHERE: late positions are ignored          start here
    alerts        an alert per episode, with an audit row
    earthquakes   one plain insert; a payload without a registered schema      `plutus demo` runs it
    usage         a count per customer and hour, aggregated per batch
    stock         never below zero: rows locked in one order
    ledger        double entry: rows locked in one order, a refusal is a result

What each writes through `tx` commits together with its event, and an event takes effect once however often it arrives:
so none of them looks for duplicates, and their tables need no key against them. The first three take one event at a
time. The others use the batch form, because events of different sources, which run side by side, meet in their rows: one
call then locks all rows it needs, in one order, and nobody waits in a circle.

The payload comes as the model that a handler's third parameter is annotated with, checked and exact. Each brings its
tables along (`on_start`), prefixed `example_`; those of a product belong into its migrations.
"""

from __future__ import annotations

from stream_worker.examples import alerts, earthquakes, ledger, stock, usage, vehicles

__all__ = ["alerts", "earthquakes", "ledger", "stock", "usage", "vehicles"]
