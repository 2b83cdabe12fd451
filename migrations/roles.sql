-- Roles and grants of Plutus, least privilege for each process.
--
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -1 -f migrations/roles.sql
--
-- Run it after the first `plutus migrate`, as a superuser, or as the role that migrated if that has CREATEROLE; run it
-- again after an upgrade whose notes say so. Running it twice changes nothing. Without it everything works too, with
-- one role that owns the tables and is used by every process: that is what `plutus up` and the compose file do.
--
--   role             who uses it                        may
--   plutus_owner     `plutus migrate`, `alembic`        everything: owns the tables and the functions
--   plutus_gateway   ingest_gateway                     look and remember keys; read what GET status shows, no payload
--   plutus_worker    stream_worker                      write events, failures, keys and claims; no DDL, DELETE only of what waited
--   plutus_operator  people and the `plutus` command    read all; change the state of failures, reconcile them; their own jobs
--
-- `plutus events run` does a worker's work and audits it, `plutus offsets skip` moves its claims: their login is in both
-- plutus_worker and plutus_operator.
-- None of them can log in. Make a login for each process and put it in its role, with a password from your secret
-- manager:
--
--   CREATE ROLE gateway_1 LOGIN PASSWORD '...' IN ROLE plutus_gateway;
--   CREATE ROLE deploy LOGIN PASSWORD '...' IN ROLE plutus_owner;
--   ALTER ROLE deploy SET role = 'plutus_owner';      -- so that what it creates belongs to plutus_owner
--
-- Handlers write tables of your own: grant those to plutus_worker beside your migrations.

-- ---------------------------------------------------------------- roles
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['plutus_owner', 'plutus_gateway', 'plutus_worker', 'plutus_operator'] LOOP
        IF to_regrole(name) IS NULL THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
END
$$;

-- Before Postgres 15 everyone could create objects in `public`.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO plutus_gateway, plutus_worker, plutus_operator;

-- ---------------------------------------------------------------- plutus_owner
GRANT USAGE, CREATE ON SCHEMA public TO plutus_owner;

-- Whoever ran the first migration hands over what it made, the partitions included, and stays a member so that it can
-- run the next one. The maintenance functions run with their owner's rights: from here on a worker that calls them makes
-- partitions that belong to plutus_owner.
DO $$
DECLARE
    former text := (SELECT tableowner FROM pg_tables WHERE schemaname = 'public' AND tablename = 'event_keys');
    what text;
BEGIN
    IF former <> 'plutus_owner' THEN
        EXECUTE format('GRANT plutus_owner TO %I', former);
    END IF;
    FOR what IN
        SELECT format('TABLE %s', oid::regclass) FROM pg_class
        WHERE oid IN ('public.event_keys'::regclass, 'public.failures'::regclass, 'public.partition_claims'::regclass,
                      'public.parked_keys'::regclass, 'public.parked_events'::regclass,
                      'public.emitted_events'::regclass, 'public.replay_jobs'::regclass,
                      'public.alembic_version'::regclass)
            OR oid IN (SELECT relid FROM pg_partition_tree('public.events'))
        UNION ALL
        SELECT format('FUNCTION %s', oid::regprocedure) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'plutus\_%'
    LOOP
        EXECUTE format('ALTER %s OWNER TO plutus_owner', what);
    END LOOP;
END
$$;

-- ---------------------------------------------------------------- plutus_gateway
-- Look: what is known of a key. Remember: the key with its record, never its state, its age or its replays.
GRANT SELECT ON public.event_keys TO plutus_gateway;
GRANT INSERT (event_id, fingerprint, "partition", record_offset) ON public.event_keys TO plutus_gateway;

-- GET /api/v1/events/{id}: how the event stands, without its payload.
GRANT SELECT (event_id, source, received_at, status, processed_at, attempts, handled_by) ON public.events TO plutus_gateway;
GRANT SELECT (event_id, reason, step, attempts, status, first_at, last_at, next_at) ON public.failures
    TO plutus_gateway;

-- ---------------------------------------------------------------- plutus_worker
GRANT SELECT, INSERT ON public.event_keys TO plutus_worker;
GRANT UPDATE (state, runs) ON public.event_keys TO plutus_worker;

-- What was sent stays as it was sent: only the outcome of an event changes.
GRANT SELECT, INSERT ON public.events TO plutus_worker;
GRANT UPDATE (status, handled_by, processed_at, attempts, topic, "partition", "offset") ON public.events
    TO plutus_worker;

GRANT SELECT, INSERT ON public.failures TO plutus_worker;
GRANT UPDATE (reason, step, error_class, attempts, status, last_at, next_at, dlq_partition, dlq_offset, dlq_at)
    ON public.failures TO plutus_worker;

GRANT SELECT, INSERT, UPDATE ON public.partition_claims TO plutus_worker;

GRANT SELECT, INSERT, UPDATE, DELETE ON public.parked_keys, public.parked_events TO plutus_worker;

-- What a handler emits, until it is in Kafka.
GRANT SELECT, INSERT, DELETE ON public.emitted_events TO plutus_worker;

-- Partitions ahead: through the functions, which can make nothing but day partitions of `events`.
GRANT SELECT (received_at) ON public.events_default TO plutus_worker;
GRANT EXECUTE ON FUNCTION public.plutus_events_partition(date), public.plutus_has_events_partition(date),
    public.plutus_make_events_partition(date) TO plutus_worker;

-- Only where EVENTS_RETENTION_DAYS is set: let workers drop expired partitions.
-- GRANT EXECUTE ON FUNCTION public.plutus_drop_events_partition(date, integer) TO plutus_worker;

-- Only where the dedup window is bounded: let workers delete expired keys.
-- GRANT DELETE ON public.event_keys TO plutus_worker;

-- ---------------------------------------------------------------- plutus_operator
GRANT SELECT ON public.event_keys, public.events, public.events_default, public.failures, public.partition_claims,
    public.parked_keys, public.parked_events, public.emitted_events, public.replay_jobs, public.alembic_version
    TO plutus_operator;
GRANT UPDATE (status, last_at, next_at) ON public.failures TO plutus_operator;

-- `plutus dlq reconcile`: a failures row for a dead letter that has none, and the place of a dead letter that is there.
GRANT INSERT, UPDATE (dlq_partition, dlq_offset, dlq_at) ON public.failures TO plutus_operator;

-- The audit of their jobs: what was asked for, by whom and when, stays as it was.
GRANT INSERT, UPDATE (status, progress, counts, updated_at) ON public.replay_jobs TO plutus_operator;
