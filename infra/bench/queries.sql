-- Statements of the benchmarks, beside those that the contestants run.

-- name: copy_database
-- The statement that copies a database: the server quotes the names, which take no parameter.
SELECT format('CREATE DATABASE %I TEMPLATE %I', $1::text, $2::text);

-- name: drop_database
-- The statement that drops one, whoever is connected.
SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE)', $1::text);

-- name: flush
-- Every run begins with as little left to write as any other.
CHECKPOINT;

-- name: wal_position
-- Bytes of WAL that were written so far.
SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn;

-- name: settled
-- Records of a topic that a group has committed.
SELECT coalesce(sum(next_offset), 0)::bigint FROM partition_claims WHERE "group" = $1 AND topic = $2;

-- name: stored
-- Events rows; asked while others are measured by counting rows, too.
SELECT count(*) FROM events;

-- name: positions
-- How far each partition is committed.
SELECT "partition", next_offset FROM partition_claims WHERE topic = $1;

-- name: coordinates
-- Where the events are in the log.
SELECT event_id, "partition", "offset" FROM events;

-- name: grow_keys
-- So many remembered keys of events that took effect, as if they had come in over the last hour.
INSERT INTO event_keys (event_id, fingerprint, "partition", record_offset, state, runs, accepted_at)
SELECT gen_random_uuid(), '\x01'::bytea || uuid_send(gen_random_uuid()), (n % 12)::int, n, 'stored', 1,
       now() - make_interval(secs => (n % 3600)::float8)
  FROM generate_series($1::bigint, $2::bigint) AS n;

-- name: grow_events
-- So many events rows, of a payload like the ones that are sent.
INSERT INTO events (event_id, source, idempotency_key, schema_version, payload, status, received_at, attempts,
                    topic, "partition", "offset")
SELECT event_id, 'till-' || record_offset % 600, 'old-' || record_offset, '1.0',
       json_build_object('order', 'o-' || record_offset, 'amount', record_offset, 'currency', 'KES',
                         'lines', '[{"sku":"A1","quantity":2},{"sku":"B2","quantity":1}]'::json,
                         'note', 'leave it with the neighbours on the second floor, thank you!'),
       'PROCESSED', accepted_at, 1, 'old', "partition", record_offset
  FROM event_keys WHERE record_offset BETWEEN $1::bigint AND $2::bigint AND state = 'stored' AND "partition" >= 0;

-- name: settle_down
-- What a table that grew over weeks has behind it.
VACUUM (ANALYZE) event_keys;

-- name: make_copied
-- The table that COPY fills.
CREATE TABLE copied (id uuid PRIMARY KEY, source text NOT NULL, idempotency_key text NOT NULL,
                     schema_version text NOT NULL, payload json NOT NULL);

-- name: make_drained
-- The table that a peer's handler fills.
CREATE TABLE drained (id uuid PRIMARY KEY, source text NOT NULL, payload json NOT NULL);

-- name: drained
-- How many rows a peer's handler has written.
SELECT count(*) FROM drained;
