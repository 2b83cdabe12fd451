"""Alembic migrations of the schema that `infra.runtime.tables` records.

Run them with `plutus migrate`, or with `alembic upgrade head` from the root and DATABASE_URL set. The first line of a
migration's docstring ends with its marker: (pre-deploy) runs before the new code and must suit the old code too,
(post-deploy) runs when no old process is left.
"""
