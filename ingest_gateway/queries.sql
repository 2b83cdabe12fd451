-- Every statement the gateway runs. Ids are sorted wherever rows are written: two gateways that insert the same keys in
-- different orders deadlock.

-- name: look_keys
-- What is known of these events; overdue: accepted that many seconds ago and still not stored. LIMIT leaves the planner nothing
-- but the index for each id: with a join it reads the whole table each time while its statistics are those of an empty one.
SELECT asked.event_id, known.fingerprint, known."partition", known.record_offset, known.overdue
  FROM unnest((SELECT $1::text::uuid[])) AS asked (event_id)
 CROSS JOIN LATERAL (SELECT fingerprint, "partition", record_offset,
                            state = 'accepted' AND accepted_at < now() - make_interval(secs => $2) AS overdue
                       FROM event_keys WHERE event_keys.event_id = asked.event_id LIMIT 1) AS known;

-- name: remember_keys
-- Insert the keys that have no row; NOT EXISTS keeps from waiting for rows that are already there, and OFFSET keeps it from
-- becoming a join (see look_keys). One row says how many were inserted, and which where it was not all of them.
WITH inserted AS (
  INSERT INTO event_keys (event_id, fingerprint, "partition", record_offset)
  SELECT mine.event_id, mine.fingerprint, mine."partition", mine.record_offset
    FROM unnest((SELECT $1::text::uuid[]), $2::text::bytea[], $3::text::int[], $4::text::bigint[])
         AS mine (event_id, fingerprint, "partition", record_offset)
   WHERE NOT EXISTS (SELECT FROM event_keys AS known WHERE known.event_id = mine.event_id OFFSET 0)
   ORDER BY mine.event_id
      ON CONFLICT DO NOTHING
  RETURNING event_id
)
SELECT count(*), CASE WHEN count(*) < cardinality($1::text::uuid[]) THEN array_agg(event_id) END FROM inserted;

-- name: event_status
-- Those of these events that are known, as they stand: the key, the row once there is one, and the latest failure. The row is
-- looked for event by event (LIMIT keeps it so), each in its one partition.
SELECT k.event_id, k.state, k.accepted_at, k."partition", k.record_offset,
       e.source, e.status, e.processed_at, e.attempts, e.handled_by, f.reason, f.step
  FROM event_keys AS k
  LEFT JOIN LATERAL (SELECT source, status, processed_at, attempts, handled_by FROM events
                      WHERE received_at = k.accepted_at AND event_id = k.event_id LIMIT 1) AS e ON true
  LEFT JOIN LATERAL (SELECT reason, step FROM failures WHERE event_id = k.event_id ORDER BY last_at DESC LIMIT 1) AS f
    ON e.status = 'FAILED'
 WHERE k.event_id = ANY ($1::uuid[]);
