-- Every statement of the worker. Each that touches event_keys locks its ids in sorted order: unsorted, two workers
-- deadlock (interleaving 14).

-- name: read_keys
-- What is known of these ids.
SELECT event_id, fingerprint, state FROM event_keys WHERE event_id = ANY ($1::uuid[]);

-- name: failed_coordinates
-- Which records of this stretch of a partition already have a failures row.
SELECT "offset", appended_at FROM failures
WHERE topic = $1 AND "partition" = $2 AND "offset" BETWEEN $3 AND $4;

-- name: dead_letter_times
-- When the dead letters of these failed events were appended; an event with one still to be sent is left out.
SELECT event_id, max(dlq_at) AS dlq_at FROM failures
WHERE event_id = ANY ($1::uuid[]) AND reason <> 'idempotency_conflict'
GROUP BY event_id HAVING count(*) FILTER (WHERE dlq_at IS NULL AND status = 'open') = 0;

-- name: times_seen
-- How often these very bytes were refused for these reasons before.
SELECT reason, content_hash, count(*) AS times FROM failures
WHERE (reason, content_hash) IN (SELECT * FROM unnest($1::text[], $2::bytea[]))
GROUP BY reason, content_hash;

-- name: remember_keys
-- Rows for records that a gateway published and has not remembered yet, in a transaction of their own.
INSERT INTO event_keys (event_id, fingerprint, "partition", record_offset)
SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::int[], $4::bigint[]) AS given (event_id, fingerprint, "partition", record_offset)
WHERE NOT EXISTS (SELECT 1 FROM event_keys WHERE event_keys.event_id = given.event_id)
ORDER BY event_id
ON CONFLICT DO NOTHING;

-- name: take_claim
-- Become the owner of a partition: everyone with a smaller epoch is fenced from here on.
INSERT INTO partition_claims AS claim ("group", topic, "partition", epoch, claimed_at)
VALUES ($1, $2, $3, 1, now())
ON CONFLICT ("group", topic, "partition") DO UPDATE SET epoch = claim.epoch + 1, open = false, claimed_at = now()
RETURNING epoch, next_offset;

-- name: open_claim
-- The first statement of every batch: locks the claim row (a plain read lets a resumed zombie through) and marks it open.
UPDATE partition_claims SET open = true
WHERE "group" = $1 AND topic = $2 AND "partition" = $3 AND epoch = $4
RETURNING now() AS now;

-- name: close_claim
-- The last statement of every batch: a COMMIT before it is refused by the deferred trigger.
UPDATE partition_claims SET open = false, next_offset = $5
WHERE "group" = $1 AND topic = $2 AND "partition" = $3 AND epoch = $4 AND open
RETURNING epoch;

-- name: claim_keys
-- The ids that run now: new ones, and those accepted with the same payload. What does not come back is decided anew.
INSERT INTO event_keys AS stored (event_id, fingerprint, "partition", record_offset, state, runs)
SELECT given.*, 'stored', 1
FROM unnest($1::uuid[], $2::bytea[], $3::int[], $4::bigint[]) AS given (event_id, fingerprint, "partition", record_offset)
ORDER BY given.event_id
ON CONFLICT (event_id) DO UPDATE SET state = 'stored', runs = stored.runs + 1
WHERE stored.state = 'accepted' AND stored.fingerprint = EXCLUDED.fingerprint
RETURNING event_id, accepted_at;

-- name: claim_replays
-- The failed events that run again, each at most a limited number of times.
WITH due AS (
    SELECT event_id FROM event_keys
    WHERE event_id = ANY ($1::uuid[]) AND state = 'failed' AND runs < $2
    ORDER BY event_id FOR UPDATE
)
UPDATE event_keys SET state = 'stored', runs = runs + 1 FROM due
WHERE event_keys.event_id = due.event_id
RETURNING event_keys.event_id, accepted_at, runs;

-- name: release_keys
-- Claimed in this transaction and not run after all: somebody's next batch finds them as they were.
UPDATE event_keys SET state = 'accepted', runs = runs - 1 WHERE event_id = ANY ($1::uuid[]);

-- name: release_replays
-- The same for replays.
UPDATE event_keys SET state = 'failed', runs = runs - 1 WHERE event_id = ANY ($1::uuid[]);

-- name: fail_keys
-- Ran and is dead: a replay may claim it.
UPDATE event_keys SET state = 'failed' WHERE event_id = ANY ($1::uuid[]);

-- name: update_replayed_event
-- The events row of a replay is updated, never copied.
UPDATE events SET status = $3, handled_by = $4, processed_at = CASE WHEN $3 = 'PROCESSED' THEN now() END, attempts = attempts + $5
WHERE received_at = $1 AND event_id = $2;

-- name: close_failures
-- The open failures of events whose replay has been claimed.
UPDATE failures SET status = 'replayed', last_at = now() WHERE event_id = ANY ($1::uuid[]) AND status = 'open' AND reason <> 'idempotency_conflict';

-- name: insert_failure
-- A record that cannot be processed; the row is also the outbox of its dead letter.
INSERT INTO failures (event_id, source, reason, step, error_class, topic, "partition", "offset", appended_at, attempts, status,
                      key, value, headers, content_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14::jsonb, $15)
ON CONFLICT (topic, "partition", "offset", appended_at) DO NOTHING;

-- name: unsent_dead_letters
-- The dead letters of a partition that the broker has not acknowledged, oldest first.
SELECT failure_id, reason, step, error_class, topic, "partition", "offset", appended_at, attempts, key, value, headers
FROM failures
WHERE topic = $1 AND "partition" = $2 AND dlq_offset IS NULL AND status = 'open'
ORDER BY "offset" LIMIT $3;

-- name: mark_dead_letter
-- The broker has it.
UPDATE failures SET dlq_partition = $2, dlq_offset = $3, dlq_at = $4 WHERE failure_id = $1 AND dlq_offset IS NULL;

-- name: start_hooks_lock
-- One worker at a time runs what handler modules bring along.
SELECT pg_advisory_xact_lock(hashtext('plutus:start-hooks'));
