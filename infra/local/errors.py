"""The errors of the local mode."""

from __future__ import annotations


class LocalError(Exception):
    """Something on this machine keeps the local mode from working.

    The message is for a person: what happened, and what to do about it. The command line prints it without a traceback.
    """


class NothingRuns(LocalError):
    """There is no running system in the folder that was named."""
