-- Statements of the outbox of emitted events.

-- name: emit
-- One more event of this parent, for the owner of the claim that this very transaction holds open; no row: it holds none.
INSERT INTO emitted_events (parent_id, ordinal, topic, "partition", source, type, schema_version, ordering_key, payload)
SELECT $1::uuid, (SELECT count(*) FROM emitted_events WHERE parent_id = $1::uuid)::int, topic, "partition",
    $2::text, $3::text, $4::text, $5::text, $6::text
FROM partition_claims WHERE open
RETURNING ordinal;

-- name: unpublished
-- What handlers emitted under the claims of a partition, in that order.
SELECT n, parent_id, ordinal, source, type, schema_version, ordering_key, payload FROM emitted_events
WHERE topic = $1 AND "partition" = $2 ORDER BY n LIMIT $3;

-- name: forget_published
-- The broker has them.
DELETE FROM emitted_events WHERE topic = $1 AND "partition" = $2 AND n = ANY ($3::bigint[]);
