"""What a process does to itself at its start."""

from __future__ import annotations

import gc

_YOUNG_OBJECTS = 50_000


def quiet_collector() -> None:
    """Make the cyclic garbage collector look rarely, and never at what was loaded at the start.

    Batches hold thousands of short-lived objects without cycles; with the default threshold (700) the collector walks
    them again and again. Reference counting frees them all the same.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 50)
