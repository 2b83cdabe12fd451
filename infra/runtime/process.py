"""What a process does to itself at its start."""

from __future__ import annotations

import gc


def quiet_collector(young_objects: int) -> None:
    """Make the cyclic garbage collector look rarely, and never at what was loaded at the start.

    Batches hold thousands of short-lived objects without cycles; with the default threshold (700) the collector walks
    them again and again. Reference counting frees them all the same.

    Args:
        young_objects: allocations, less deallocations, between two looks at the youngest objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(young_objects, 20, 50)
