-- name: missing_days
-- UTC days that should have a partition and have none: yesterday to $1 days ahead, and every day the default holds.
WITH wanted AS (
    SELECT (now() AT TIME ZONE 'UTC')::date + n AS day FROM generate_series(-1, $1::integer) AS n
    UNION
    SELECT DISTINCT (received_at AT TIME ZONE 'UTC')::date FROM public.events_default WHERE isfinite(received_at)
)
SELECT day
FROM wanted
WHERE public.plutus_events_partition(day) NOT IN (
    SELECT child.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = 'public.events'::regclass
)
ORDER BY day;

-- name: expired_days
-- UTC days whose partition holds nothing younger than $1 days.
SELECT day
FROM pg_inherits
JOIN pg_class AS child ON child.oid = inhrelid
CROSS JOIN LATERAL to_date(substring(child.relname FROM '^events_(\d{8})$'), 'YYYYMMDD') AS day
WHERE inhparent = 'public.events'::regclass
    AND day + 1 + $1::integer <= (now() AT TIME ZONE 'UTC')::date
ORDER BY day;

-- name: make_partition
-- Make the partition of one UTC day; rows moved out of the default, or null if it was there already.
SELECT public.plutus_make_events_partition($1::date);

-- name: drop_partition
-- Drop the partition of one expired UTC day; false if it holds unfinished events, null if it was gone already.
SELECT public.plutus_drop_events_partition($1::date, $2::integer);

-- name: default_rows
-- Rows in the default partition, which should be none.
SELECT count(*) FROM public.events_default;

-- name: limit_lock_wait
-- For this transaction, wait at most $1 milliseconds for a lock.
SELECT set_config('lock_timeout', $1::text, true);
