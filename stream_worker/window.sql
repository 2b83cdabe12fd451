-- Statements of the bounded dedup window. A key may go if its event took effect before the window, and no failure of the
-- event was seen, dead-lettered or settled within it.

-- name: try_lock_window
-- One worker at a time; the number is that of migrations/env.py's list.
SELECT pg_try_advisory_lock(1347179860, 4);

-- name: take_time
-- A look at all keys is no statement of the work; the session is reset afterwards.
SET statement_timeout = '10min';

-- name: find_old_keys
-- Looked for once, kept by the server, read page by page.
DECLARE plutus_old_keys NO SCROLL CURSOR WITH HOLD FOR
SELECT event_id FROM event_keys
WHERE accepted_at < now() - $1::interval AND state = 'stored';

-- name: next_old_keys
-- A page.
FETCH 1000 FROM plutus_old_keys;

-- name: forget_keys
-- Those of a page that may still go; one that somebody holds is passed over.
DELETE FROM event_keys WHERE event_id = ANY (ARRAY(
    SELECT event_id FROM event_keys
    WHERE event_id = ANY ($1::uuid[]) AND accepted_at < now() - $2::interval AND state = 'stored'
        AND NOT EXISTS (
            SELECT 1 FROM failures
            WHERE failures.event_id = event_keys.event_id
                AND (status = 'open' OR greatest(first_at, last_at, dlq_at) > now() - $2::interval)
        )
    ORDER BY event_id FOR UPDATE SKIP LOCKED
))
RETURNING event_id;
