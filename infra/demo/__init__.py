"""The pure parts of `plutus demo`: what is sent, how it is spelled, what must come of it, and how that is told.

Nothing here talks to anybody: `infra.cli.demo` sends, reads back and asks `laws` for a verdict.
"""
