-- Every statement of the worker. Each that touches event_keys locks its ids in sorted order: unsorted, two workers
-- deadlock (interleaving 14).

-- name: read_known
-- What is known of these ids, and which records of this stretch of a partition (NULL: none) already have a failures row: offset
-- and time in place of the rest. LIMIT leaves the planner nothing but the index for each id: with a join it reads the whole table
-- each time while its statistics are those of an empty one.
SELECT given.event_id, known.fingerprint, known.state, NULL::bigint AS "offset", NULL::timestamptz AS appended_at
FROM unnest((SELECT $1::text::uuid[])) AS given (event_id)
CROSS JOIN LATERAL (
    SELECT fingerprint, state FROM event_keys WHERE event_keys.event_id = given.event_id LIMIT 1
) AS known
UNION ALL
SELECT NULL, NULL, NULL, "offset", appended_at FROM failures
WHERE topic = $2 AND "partition" = $3 AND "offset" BETWEEN $4 AND $5;

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
-- Rows for records of one partition that a gateway published and has not remembered yet, in a transaction of their own.
INSERT INTO event_keys (event_id, fingerprint, "partition", record_offset)
SELECT event_id, fingerprint, $3::int, record_offset
FROM unnest((SELECT $1::text::uuid[]), $2::text::bytea[], $4::text::bigint[]) AS given (event_id, fingerprint, record_offset)
WHERE NOT EXISTS (SELECT 1 FROM event_keys WHERE event_keys.event_id = given.event_id OFFSET 0)
ORDER BY event_id
ON CONFLICT DO NOTHING;

-- name: lock_claim
-- What the last owner left; the row is ours until the transaction ends.
SELECT released, marked FROM partition_claims WHERE "group" = $1 AND topic = $2 AND "partition" = $3 FOR UPDATE;

-- name: take_claim
-- Become the owner of a partition: everyone with a smaller epoch is fenced from here on. $4: the owner died with a mark.
INSERT INTO partition_claims AS claim ("group", topic, "partition", epoch, claimed_at, released)
VALUES ($1, $2, $3, 1, now(), false)
ON CONFLICT ("group", topic, "partition") DO UPDATE SET
    epoch = claim.epoch + 1, open = false, claimed_at = now(), released = false, marked = false,
    deaths = claim.deaths + CASE WHEN $4 THEN 1 ELSE 0 END
RETURNING epoch, next_offset, marker_offset, deaths;

-- name: release_claim
-- An orderly end: whoever comes next has no reason to be careful.
UPDATE partition_claims SET released = true, marked = false
WHERE "group" = $1 AND topic = $2 AND "partition" = $3 AND epoch = $4;

-- name: mark
-- Committed before an event runs alone: if its owner dies now, this event is a suspect.
UPDATE partition_claims SET
    marked = true, marker_offset = $5, deaths = CASE WHEN marker_offset = $5 THEN deaths ELSE 0 END
WHERE "group" = $1 AND topic = $2 AND "partition" = $3 AND epoch = $4;

-- name: unmark
-- The event has run, or waits: a death from here on is not its fault.
UPDATE partition_claims SET marked = false
WHERE "group" = $1 AND topic = $2 AND "partition" = $3 AND epoch = $4;

-- name: open_claim
-- The first statement of every batch: locks the claim row (a plain read lets a resumed zombie through) and marks it open. Says
-- besides whether any ordering key is parked: mostly none is, and then none need be looked for.
UPDATE partition_claims SET open = true
WHERE "group" = $1 AND topic = $2 AND "partition" = $3 AND epoch = $4
RETURNING now(), EXISTS (SELECT FROM parked_keys);

-- name: close_claim
-- The last statement of every batch: a COMMIT before it is refused by the deferred trigger.
UPDATE partition_claims SET open = false, next_offset = $5
WHERE "group" = $1 AND topic = $2 AND "partition" = $3 AND epoch = $4 AND open
RETURNING epoch;

-- name: claim_keys
-- The ids that run now: new ones, and those accepted with the same payload. What does not come back is decided anew. One
-- row says how many came back, in full only where it must: which are new and which older, and since when.
WITH claimed AS (
    INSERT INTO event_keys AS stored (event_id, fingerprint, "partition", record_offset, state, runs)
    SELECT given.event_id, given.fingerprint, $3::int, given.record_offset, 'stored', 1
    FROM unnest((SELECT $1::text::uuid[]), $2::text::bytea[], $4::text::bigint[]) AS given (event_id, fingerprint, record_offset)
    ORDER BY given.event_id
    ON CONFLICT (event_id) DO UPDATE SET state = 'stored', runs = stored.runs + 1
    WHERE stored.state = 'accepted' AND stored.fingerprint = EXCLUDED.fingerprint
    RETURNING event_id, accepted_at
)
SELECT count(*),
    CASE WHEN count(*) < cardinality($1::text::uuid[]) THEN array_agg(event_id) FILTER (WHERE accepted_at = now()) END,
    array_agg(event_id) FILTER (WHERE accepted_at <> now()),
    array_agg(accepted_at) FILTER (WHERE accepted_at <> now())
FROM claimed;

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

-- name: lock_parked_keys
-- Which of these ordering keys are parked; their rows are ours, so that nobody drains one while we add behind it.
SELECT order_key FROM parked_keys WHERE order_key = ANY ($1::text[]) ORDER BY order_key FOR UPDATE;

-- name: park_key
-- An ordering key begins to wait; where another partition was first, its events queue there.
INSERT INTO parked_keys (order_key, topic, "partition", attempts, next_at)
VALUES ($1, $2, $3, $4, now() + $5::interval)
ON CONFLICT (order_key) DO NOTHING;

-- name: park_event
-- An event at the end of its key's queue.
INSERT INTO parked_events (order_key, event_id, topic, "partition", "offset", appended_at, received_at, attempts, key, value, headers)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb);

-- name: park_keys_of_events
-- These events wait.
UPDATE event_keys SET state = 'parked' WHERE event_id = ANY ($1::uuid[]);

-- name: due_keys
-- The parked keys of a partition, the most overdue first, with the seconds until each is due.
SELECT order_key, extract(epoch FROM next_at - now())::float8 AS seconds FROM parked_keys
WHERE topic = $1 AND "partition" = $2 ORDER BY next_at LIMIT $3;

-- name: lock_parked_key
-- One parked key, to drain it: how often its head was tried, and for how many seconds it has waited.
SELECT attempts, extract(epoch FROM now() - parked_at)::float8 AS age FROM parked_keys
WHERE order_key = $1 AND topic = $2 AND "partition" = $3 FOR UPDATE;

-- name: parked_queue
-- The events of a parked key, in their order.
SELECT event_id, topic, "partition", "offset", appended_at, received_at, attempts, key, value, headers FROM parked_events
WHERE order_key = $1 ORDER BY appended_at, "partition", "offset" LIMIT $2;

-- name: unpark_events
-- They have taken effect, or are dead.
DELETE FROM parked_events WHERE event_id = ANY ($1::uuid[]);

-- name: unpark_keys_of_events
-- Parked events that take effect now; the parked key's row is held.
UPDATE event_keys SET state = 'stored' WHERE event_id = ANY ($1::uuid[]) AND state = 'parked';

-- name: put_off_key
-- The head of a key was tried in vain, or is another one now.
UPDATE parked_keys SET attempts = $2, next_at = now() + $3::interval,
    parked_at = CASE WHEN $4 THEN now() ELSE parked_at END
WHERE order_key = $1;

-- name: unpark_key
-- Nothing waits for this key any more.
DELETE FROM parked_keys WHERE order_key = $1;

-- name: update_event
-- The events row of a replay, or of an event that was parked, is updated, never copied.
UPDATE events SET status = $3, handled_by = $4, processed_at = CASE WHEN $3 = 'PROCESSED' THEN now() END,
    attempts = attempts + $5
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
