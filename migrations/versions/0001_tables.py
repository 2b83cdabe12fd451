"""Tables, claim trigger and day partitions (pre-deploy).

Revision 0001, the first. Names are qualified throughout: the functions run with their owner's rights, so no schema of
the caller may come before ours. Going back drops every table with its rows.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

EVENT_KEYS = """
CREATE TABLE public.event_keys (
    event_id uuid CONSTRAINT event_keys_pkey PRIMARY KEY,
    accepted_at timestamptz NOT NULL DEFAULT now(),
    record_offset bigint NOT NULL,
    "partition" integer NOT NULL,
    runs integer NOT NULL DEFAULT 0,
    fingerprint bytea NOT NULL,
    state text NOT NULL DEFAULT 'accepted'
        CONSTRAINT event_keys_state_check CHECK (state IN ('accepted', 'parked', 'stored', 'failed'))
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_limit = 2000
)
"""

EVENT_KEYS_ACCEPTED_AT = "CREATE INDEX event_keys_accepted_at_idx ON public.event_keys USING brin (accepted_at)"

EVENTS = """
CREATE TABLE public.events (
    event_id uuid NOT NULL,
    source text NOT NULL,
    idempotency_key text NOT NULL,
    schema_version text NOT NULL,
    type text,
    ordering_key text,
    occurred_at timestamptz,
    payload json NOT NULL,
    payload_encoding text NOT NULL DEFAULT 'json'
        CONSTRAINT events_payload_encoding_check CHECK (payload_encoding IN ('json', 'text', 'base64')),
    status text NOT NULL
        CONSTRAINT events_status_check CHECK (status IN ('PROCESSED', 'RETRYING', 'FAILED')),
    handled_by text,
    received_at timestamptz NOT NULL,
    processed_at timestamptz DEFAULT now(),
    attempts integer NOT NULL DEFAULT 1,
    topic text NOT NULL,
    "partition" integer NOT NULL,
    "offset" bigint NOT NULL,
    CONSTRAINT events_pkey PRIMARY KEY (received_at, event_id)
) PARTITION BY RANGE (received_at)
"""

EVENTS_DEFAULT = "CREATE TABLE public.events_default PARTITION OF public.events DEFAULT"

FAILURES = """
CREATE TABLE public.failures (
    failure_id uuid CONSTRAINT failures_pkey PRIMARY KEY DEFAULT gen_random_uuid(),
    event_id uuid,
    source text,
    reason text NOT NULL,
    step text NOT NULL,
    error_class text,
    topic text NOT NULL,
    "partition" integer NOT NULL,
    "offset" bigint NOT NULL,
    appended_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 1,
    status text NOT NULL DEFAULT 'open'
        CONSTRAINT failures_status_check CHECK (status IN ('open', 'replayed', 'discarded')),
    first_at timestamptz NOT NULL DEFAULT now(),
    last_at timestamptz NOT NULL DEFAULT now(),
    next_at timestamptz,
    key bytea,
    value bytea,
    headers jsonb NOT NULL DEFAULT '[]',
    content_hash bytea,
    dlq_partition integer,
    dlq_offset bigint,
    dlq_at timestamptz,
    CONSTRAINT failures_topic_partition_offset_appended_at_key
        UNIQUE (topic, "partition", "offset", appended_at)
)
"""

FAILURES_INDEXES = (
    'CREATE INDEX failures_outbox_idx ON public.failures (topic, "partition", "offset") WHERE dlq_offset IS NULL',
    "CREATE INDEX failures_event_id_idx ON public.failures (event_id) WHERE event_id IS NOT NULL",
    "CREATE INDEX failures_content_idx ON public.failures (reason, content_hash) WHERE content_hash IS NOT NULL",
    "CREATE INDEX failures_status_last_at_idx ON public.failures (status, last_at)",
)

PARTITION_CLAIMS = """
CREATE TABLE public.partition_claims (
    "group" text NOT NULL,
    topic text NOT NULL,
    "partition" integer NOT NULL,
    epoch bigint NOT NULL,
    next_offset bigint,
    open boolean NOT NULL DEFAULT false,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT partition_claims_pkey PRIMARY KEY ("group", topic, "partition")
) WITH (fillfactor = 10)
"""

# Runs at COMMIT, on the row as it is then. A claim that has vanished is refused too: it was not closed.
REFUSE_OPEN_CLAIM = """
CREATE FUNCTION public.plutus_refuse_open_claim() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM public.partition_claims
    WHERE "group" = NEW."group" AND topic = NEW.topic AND "partition" = NEW."partition" AND NOT open;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PL001',
            MESSAGE = format('The batch of partition %s of topic %s was committed before it was finished.',
                             NEW."partition", NEW.topic),
            DETAIL = 'Its claim in partition_claims is still open, so the whole transaction was rolled back.',
            HINT = 'A handler must not run COMMIT or SET CONSTRAINTS: the worker ends the transaction.',
            SCHEMA = 'public', TABLE = 'partition_claims', CONSTRAINT = 'partition_claims_closed';
    END IF;
    RETURN NULL;
END
$$
"""

# WHEN is judged at once: the update that opens the claim queues one check, the one that closes it none.
CLAIMS_CLOSED = """
CREATE CONSTRAINT TRIGGER partition_claims_closed AFTER INSERT OR UPDATE ON public.partition_claims
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.open) EXECUTE FUNCTION public.plutus_refuse_open_claim()
"""

PARTITION_NAME = """
CREATE FUNCTION public.plutus_events_partition(day date) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'events_' || to_char(day, 'YYYYMMDD')
$$
"""

IS_PARTITION = """
CREATE FUNCTION public.plutus_has_events_partition(day date) RETURNS boolean
LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_inherits
        WHERE inhparent = 'public.events'::regclass
            AND inhrelid = to_regclass('public.' || public.plutus_events_partition(day))
    )
$$
"""

# CREATE TABLE ... PARTITION OF would lock all of `events` against everyone. A table made apart and attached needs less:
# readers go on, and writers too, except for a day that is being written now. There they must be kept out until the
# partition is attached: one that had already been routed to the default would be refused with 23514.
MAKE_PARTITION = """
CREATE FUNCTION public.plutus_make_events_partition(day date) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text := public.plutus_events_partition(day);
    first timestamptz := day::timestamp AT TIME ZONE 'UTC';
    beyond timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
    moved bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(1347179860, 2);
    IF public.plutus_has_events_partition(day) THEN
        RETURN NULL;
    END IF;
    IF day <= (now() AT TIME ZONE 'UTC')::date + 1 THEN
        LOCK TABLE ONLY public.events IN SHARE ROW EXCLUSIVE MODE;
    ELSE
        LOCK TABLE ONLY public.events IN SHARE UPDATE EXCLUSIVE MODE;
    END IF;
    LOCK TABLE ONLY public.events_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE public.%I (LIKE public.events_default INCLUDING ALL)', name);
    EXECUTE format(
        'WITH gone AS (DELETE FROM public.events_default WHERE received_at >= $1 AND received_at < $2 RETURNING *)
         INSERT INTO public.%I SELECT * FROM gone', name) USING first, beyond;
    GET DIAGNOSTICS moved = ROW_COUNT;
    EXECUTE format('ALTER TABLE public.events ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                   name, first, beyond);
    RETURN moved;
END
$$
"""

# Looking for unfinished events may take long, so it only keeps writers away from the one old partition; the lock on
# all of `events` that DROP needs is taken when nothing but the DROP is left to do. Who holds locks the other way round
# meets our lock_timeout.
DROP_PARTITION = """
CREATE FUNCTION public.plutus_drop_events_partition(day date, retention_days integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text := public.plutus_events_partition(day);
    unfinished boolean;
BEGIN
    IF retention_days < 1 OR day + 1 + retention_days > (now() AT TIME ZONE 'UTC')::date THEN
        RAISE EXCEPTION USING
            ERRCODE = '22023',
            MESSAGE = format('The partition of %s holds events younger than %s days.', day, retention_days),
            HINT = 'Only partitions of expired days are dropped; retention is at least one day.';
    END IF;
    PERFORM pg_advisory_xact_lock(1347179860, 3);
    IF NOT public.plutus_has_events_partition(day) THEN
        RETURN NULL;
    END IF;
    EXECUTE format('LOCK TABLE ONLY public.%I IN SHARE MODE', name);
    EXECUTE format('SELECT EXISTS (SELECT FROM public.%I WHERE status <> ''PROCESSED'')', name) INTO unfinished;
    IF unfinished THEN
        RETURN false;
    END IF;
    LOCK TABLE ONLY public.events IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('DROP TABLE public.%I', name);
    RETURN true;
END
$$
"""

# A function is everyone's to run unless it is taken from them; migrations/roles.sql says who may.
FUNCTIONS = (
    "plutus_refuse_open_claim()",
    "plutus_events_partition(date)",
    "plutus_has_events_partition(date)",
    "plutus_make_events_partition(date)",
    "plutus_drop_events_partition(date, integer)",
)

FIRST_PARTITIONS = """
SELECT public.plutus_make_events_partition((now() AT TIME ZONE 'UTC')::date + n) FROM generate_series(-1, 14) AS n
"""

COMMENTS = {
    "event_keys": {
        "": "The arbiter: the first row of an id decides for gateway and worker alike.",
        "event_id": "UUIDv5 of source and idempotency key.",
        "accepted_at": "When the key was first seen; becomes events.received_at, so the event is found by it.",
        "record_offset": "Offset of the record that created the event.",
        "partition": "Kafka partition of the record that created the event.",
        "runs": "Replays of this event that were claimed; the replay limit counts here.",
        "fingerprint": "Version byte and hash of the canonical payload.",
        "state": "accepted, parked (waits for a retry), stored (took effect) or failed (dead letter).",
    },
    "events": {
        "": "One row an event, whatever its outcome; partitioned by UTC day of received_at.",
        "event_id": "The id of event_keys.",
        "source": "Who sent it.",
        "idempotency_key": "The sender's name for it, unique within the source.",
        "schema_version": "Version of the payload's schema.",
        "type": "What happened, where the sender says so.",
        "ordering_key": "Sub-key within the source whose events stay in order.",
        "occurred_at": "When it happened, by the sender's clock.",
        "payload": "As sent, digit for digit; json, not jsonb, for that reason.",
        "payload_encoding": "json, or text or base64 where the body was not JSON and payload is a string.",
        "status": "PROCESSED, RETRYING or FAILED; RECEIVED has no row here yet.",
        "handled_by": "Name of the handler that ran; null where none matched.",
        "received_at": "event_keys.accepted_at; decides the partition.",
        "processed_at": "When the status became what it is.",
        "attempts": "Times the handler was started.",
        "topic": "Topic of the record that was processed.",
        "partition": "Kafka partition of that record.",
        "offset": "Offset of that record.",
    },
    "failures": {
        "": "What could not be processed, with its original bytes; the outbox of the dead-letter topic.",
        "failure_id": "Row id.",
        "event_id": "The event, where the record could be read that far.",
        "source": "Who sent it, where known.",
        "reason": "Why it failed: one of schemas.errors.Reason.",
        "step": "Where in the pipeline it failed.",
        "error_class": "Class of the exception; never its message.",
        "topic": "Topic of the failed record.",
        "partition": "Kafka partition of the failed record.",
        "offset": "Offset of the failed record.",
        "appended_at": "Broker timestamp of the failed record; tells a record from another at the same offset of a new"
        " topic.",
        "attempts": "Times the handler was started.",
        "status": "open, replayed or discarded.",
        "first_at": "First failure.",
        "last_at": "Latest failure or change of status.",
        "next_at": "When the next attempt is due, while one is.",
        "key": "Original key, byte for byte.",
        "value": "Original value, byte for byte.",
        "headers": "Original headers in order, a list of name with text, base64 or null.",
        "content_hash": "Hash of key and value; counts replays of what cannot be read.",
        "dlq_partition": "Partition of the dead-letter record, once acknowledged.",
        "dlq_offset": "Offset of the dead-letter record; null means it is still to be sent.",
        "dlq_at": "Broker timestamp of the dead-letter record; a later copy is a replay.",
    },
    "partition_claims": {
        "": "The fence: a worker writes for a partition only while its epoch is the newest.",
        "group": "Consumer group.",
        "topic": "Topic.",
        "partition": "Kafka partition.",
        "epoch": "Grows by one each time a worker takes the partition.",
        "next_offset": "First offset whose effects are not in this database.",
        "open": "True only inside a batch's transaction; the trigger refuses to commit it.",
        "claimed_at": "When this epoch began.",
    },
}


def upgrade() -> None:
    """Everything of the first release."""
    for statement in (
        EVENT_KEYS,
        EVENT_KEYS_ACCEPTED_AT,
        EVENTS,
        EVENTS_DEFAULT,
        FAILURES,
        *FAILURES_INDEXES,
        PARTITION_CLAIMS,
        REFUSE_OPEN_CLAIM,
        CLAIMS_CLOSED,
        PARTITION_NAME,
        IS_PARTITION,
        MAKE_PARTITION,
        DROP_PARTITION,
        *(f"REVOKE ALL ON FUNCTION public.{function} FROM PUBLIC" for function in FUNCTIONS),
        *_comments(),
        FIRST_PARTITIONS,
    ):
        op.execute(statement)


def downgrade() -> None:
    """Drop everything, with all rows."""
    for table in ("partition_claims", "failures", "events", "event_keys"):
        op.execute(f"DROP TABLE public.{table}")
    for function in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION public.{function}")


def _comments() -> list[str]:
    statements = []
    for table, comments in COMMENTS.items():
        for column, comment in comments.items():
            what = f'COLUMN public.{table}."{column}"' if column else f"TABLE public.{table}"
            statements.append(f"COMMENT ON {what} IS '{comment.replace(chr(39), chr(39) * 2)}'")
    return statements
