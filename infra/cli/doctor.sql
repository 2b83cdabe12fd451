-- What `plutus doctor` asks Postgres. It writes nothing.

-- name: server
-- Major version, our role, connections in use, and how many there may be.
SELECT current_setting('server_version_num')::int / 10000 AS version, current_user::text AS role,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,
       current_setting('max_connections')::int AS most;

-- name: clock
-- Seconds since 1970 by Postgres's clock, at this very moment.
SELECT extract(epoch FROM clock_timestamp())::float8;

-- name: may
-- May our role do this to some column of the table; for DELETE, which knows no columns, to the table.
SELECT CASE $2::text WHEN 'DELETE' THEN has_table_privilege($1::text, $2) ELSE has_any_column_privilege($1::text, $2) END;

-- name: has_migrations
-- Has any migration run.
SELECT to_regclass('public.alembic_version') IS NOT NULL;

-- name: migration
-- The migration that the database is at.
SELECT version_num FROM public.alembic_version;

-- name: days_without_partition
-- How many of the days from today to $1 days ahead have no partition of their own.
SELECT count(*) FROM generate_series(0, $1::integer) AS ahead
 WHERE to_regclass('public.events_' || to_char((now() AT TIME ZONE 'UTC')::date + ahead, 'YYYYMMDD')) IS NULL;

-- name: rows_astray
-- Rows in the default partition; no more than a thousand are counted.
SELECT count(*) FROM (SELECT FROM public.events_default LIMIT 1000) AS first_rows;

-- name: open_failures
-- Open failures whose dead letter could not be sent for $1 seconds, and those whose dead letter is in the topic.
SELECT count(*) FILTER (WHERE dlq_offset IS NULL AND first_at < now() - make_interval(secs => $1)) AS stuck,
       count(*) FILTER (WHERE dlq_offset IS NOT NULL) AS open
  FROM public.failures WHERE status = 'open';
