"""Refusals of who sends, whatever is sent: nothing is looked up, published or counted as a duplicate because of them."""

from __future__ import annotations

from enum import StrEnum

from schemas.errors import Rejected


class Denied(StrEnum):
    """Why a sender was refused: codes of problem documents and labels of a metric."""

    UNAUTHENTICATED = "unauthenticated"
    BAD_SIGNATURE = "bad_signature"
    FORBIDDEN_SOURCE = "forbidden_source"
    UNKNOWN_SOURCE = "unknown_source"


class Refused(Rejected):
    """This sender may not do this.

    Args:
        why: the stable word for it.
        message: a sentence for a person, without any value of the request.
    """

    reason: Denied  # type: ignore[assignment]  # words of the edge alone: no failures row and no dead letter holds them

    def __init__(self, why: Denied, message: str) -> None:
        super().__init__(message)
        self.reason = why
