-- Statements of small batches of several partitions ("together"), each of which does for all of them what several of queries.sql do
-- for one. Arrays of partitions go in one order, ids sorted.

-- name: read_and_remember
-- What is known of these ids; rows, durable at once, for the ids without one that come with a record's place (those that a gateway
-- published and has not remembered yet); and the partitions (without an id) with failures rows between these offsets, which get none.
WITH given AS MATERIALIZED (
    SELECT given.event_id, given.fingerprint, given."partition", given.record_offset, known.fingerprint AS stored, known.state
    FROM unnest((SELECT $1::text::uuid[]), $2::text::bytea[], $3::text::int[], $4::text::bigint[])
        AS given (event_id, fingerprint, "partition", record_offset)
    LEFT JOIN LATERAL (
        SELECT fingerprint, state FROM event_keys WHERE event_keys.event_id = given.event_id LIMIT 1
    ) AS known ON true
), failed AS MATERIALIZED (
    SELECT stretch."partition"
    FROM unnest((SELECT $6::text::int[]), $7::text::bigint[], $8::text::bigint[]) AS stretch ("partition", first, last)
    CROSS JOIN LATERAL (
        SELECT FROM failures
        WHERE topic = $5 AND failures."partition" = stretch."partition" AND "offset" BETWEEN stretch.first AND stretch.last
        LIMIT 1
    ) AS row
), made AS (
    INSERT INTO event_keys (event_id, fingerprint, "partition", record_offset)
    SELECT event_id, fingerprint, "partition", record_offset FROM given
    WHERE state IS NULL AND record_offset IS NOT NULL AND "partition" NOT IN (SELECT "partition" FROM failed)
    ORDER BY event_id
    ON CONFLICT DO NOTHING
)
SELECT event_id, stored, state, NULL::int AS "partition" FROM given WHERE state IS NOT NULL
UNION ALL
SELECT NULL, NULL, NULL, "partition" FROM failed;

-- name: open_and_claim
-- Open these claims, and take these ids if all of the claims are ours. Says whether any ordering key is parked, how many ids were
-- taken, and which of them had rows, since when.
WITH opened AS (
    UPDATE partition_claims AS claim SET open = true
    FROM unnest((SELECT $3::text::int[]), $4::text::bigint[]) AS mine ("partition", epoch)
    WHERE claim."group" = $1 AND claim.topic = $2 AND claim."partition" = mine."partition" AND claim.epoch = mine.epoch
    RETURNING claim.epoch
), claims AS (
    SELECT count(*) AS opened FROM opened
), claimed AS (
    INSERT INTO event_keys AS stored (event_id, fingerprint, "partition", record_offset, state, runs)
    SELECT given.event_id, given.fingerprint, given."partition", given.record_offset, 'stored', 1
    FROM claims, unnest((SELECT $5::text::uuid[]), $6::text::bytea[], $7::text::int[], $8::text::bigint[])
        AS given (event_id, fingerprint, "partition", record_offset)
    WHERE claims.opened = cardinality($3::text::int[])
    ORDER BY given.event_id
    ON CONFLICT (event_id) DO UPDATE SET state = 'stored', runs = stored.runs + 1
    WHERE stored.state = 'accepted' AND stored.fingerprint = EXCLUDED.fingerprint
    RETURNING event_id, accepted_at
)
SELECT now(), EXISTS (SELECT FROM parked_keys), count(*),
    array_agg(event_id) FILTER (WHERE accepted_at <> now()),
    array_agg(accepted_at) FILTER (WHERE accepted_at <> now())
FROM claimed;

-- name: write_and_close
-- The rows of the new events, and how many of these claims could be closed: fewer, and the transaction is to be undone.
WITH closed AS (
    UPDATE partition_claims AS claim SET open = false, next_offset = mine.next_offset
    FROM unnest((SELECT $3::text::int[]), $4::text::bigint[], $5::text::bigint[]) AS mine ("partition", epoch, next_offset)
    WHERE claim."group" = $1 AND claim.topic = $2 AND claim."partition" = mine."partition" AND claim.epoch = mine.epoch AND claim.open
    RETURNING claim.epoch
), written AS (
    INSERT INTO events (event_id, source, schema_version, type, payload_encoding, idempotency_key, ordering_key, occurred_at,
                        payload, status, handled_by, received_at, processed_at, attempts, topic, "partition", "offset")
    SELECT event_id, source, schema_version, type, payload_encoding, idempotency_key, ordering_key, occurred_at,
           payload::json, status, handled_by, received_at, CASE WHEN status = 'PROCESSED' THEN now() END, 1, $2, "partition", "offset"
    FROM json_to_recordset($6::json) AS given (
        event_id uuid, source text, schema_version text, type text, payload_encoding text, idempotency_key text,
        ordering_key text, occurred_at timestamptz, payload text, status text, handled_by text, received_at timestamptz,
        "partition" int, "offset" bigint
    )
)
SELECT count(*) FROM closed;
