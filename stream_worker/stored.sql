-- Statements for events that were stored without a handler and are run later. $1..$4 are always the same: type, source,
-- received from, received before; null asks for nothing.

-- name: stored_kinds
-- What there is, by what a handler is found by, with one example each.
SELECT source, type, schema_version, count(*) AS events, min(event_id::text)::uuid AS example FROM events
WHERE status = 'PROCESSED' AND handled_by IS NULL
    AND ($1::text IS NULL OR type = $1) AND ($2::text IS NULL OR source = $2)
    AND ($3::timestamptz IS NULL OR received_at >= $3) AND ($4::timestamptz IS NULL OR received_at < $4)
GROUP BY source, type, schema_version ORDER BY source, type, schema_version;

-- name: find_stored
-- Looked for once, kept by the server in the order of the log, read page by page.
DECLARE plutus_stored NO SCROLL CURSOR WITH HOLD FOR
SELECT topic, "partition", received_at, event_id, source, type, schema_version FROM events
WHERE status = 'PROCESSED' AND handled_by IS NULL
    AND ($1::text IS NULL OR type = $1) AND ($2::text IS NULL OR source = $2)
    AND ($3::timestamptz IS NULL OR received_at >= $3) AND ($4::timestamptz IS NULL OR received_at < $4)
ORDER BY topic, "partition", "offset";

-- name: next_stored
-- A page.
FETCH 500 FROM plutus_stored;

-- name: lock_stored
-- Those of a page that nobody has handled meanwhile; they are ours until the transaction ends. The bounds find the days.
SELECT event_id, source, idempotency_key, schema_version, type, ordering_key, occurred_at, payload, payload_encoding
FROM events JOIN unnest($1::timestamptz[], $2::uuid[]) AS wanted (received_at, event_id) USING (received_at, event_id)
WHERE status = 'PROCESSED' AND handled_by IS NULL AND received_at BETWEEN $3 AND $4
ORDER BY "partition", "offset" FOR UPDATE OF events;

-- name: handled
-- Their effects are in this transaction.
UPDATE events SET handled_by = done.handled_by, processed_at = now()
FROM unnest($1::timestamptz[], $2::uuid[], $3::text[]) AS done (received_at, event_id, handled_by)
WHERE events.received_at = done.received_at AND events.event_id = done.event_id
    AND events.received_at BETWEEN $4 AND $5;
