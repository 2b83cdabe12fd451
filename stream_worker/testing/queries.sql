-- Statements of the test kit.

-- name: user_columns
-- Columns of every table but those of Plutus; which are counted up, which differ at every run, and what they refer to.
SELECT quote_ident(space.nspname) || '.' || quote_ident(class.relname) AS quoted, space.nspname AS schema, class.relname AS name,
    attribute.attname AS column,
    attribute.attidentity <> '' OR coalesce(pg_get_expr(made.adbin, made.adrelid) ~ '^nextval\(', false) AS counted,
    coalesce(
        pg_get_expr(made.adbin, made.adrelid) ~*
        '(now|_timestamp|timeofday|random|uuid|uuidv[47]|uuid_generate_v\w+)\(|(CURRENT|LOCAL)_?(TIME|DATE)',
        false
    ) AS volatile,
    quote_ident(target_space.nspname) || '.' || quote_ident(target.relname) AS target, pointed.attname AS target_column
FROM pg_class class
JOIN pg_namespace space ON space.oid = class.relnamespace
JOIN pg_attribute attribute ON attribute.attrelid = class.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
LEFT JOIN pg_attrdef made ON made.adrelid = class.oid AND made.adnum = attribute.attnum
LEFT JOIN pg_constraint reference
    ON reference.conrelid = class.oid AND reference.contype = 'f' AND reference.conkey = ARRAY[attribute.attnum]
LEFT JOIN pg_class target ON target.oid = reference.confrelid
LEFT JOIN pg_namespace target_space ON target_space.oid = target.relnamespace
LEFT JOIN pg_attribute pointed ON pointed.attrelid = target.oid AND pointed.attnum = reference.confkey[1]
WHERE class.relkind IN ('r', 'p') AND NOT class.relispartition
    AND space.nspname NOT LIKE 'pg\_%' AND space.nspname NOT IN ('information_schema', 'plutus_test_seed')
    AND NOT (space.nspname = 'public' AND class.relname = ANY ($1))
ORDER BY quoted, attribute.attnum;

-- name: outcomes
-- How each event ended.
SELECT to_jsonb(ended)::text FROM (SELECT event_id, status, handled_by FROM events) AS ended;

-- name: emitted
-- What was emitted, without what differs at every run.
SELECT (to_jsonb(emitted_events) - ARRAY['n', 'emitted_at'])::text FROM emitted_events;

-- name: quoted_database
-- The database that this session is connected to, as an identifier.
SELECT quote_ident(current_database());

-- name: lock_not_available
-- Fail as a lock time-out does.
DO $$ BEGIN RAISE EXCEPTION 'planted by stream_worker.testing' USING ERRCODE = 'lock_not_available'; END $$;

-- name: keep_seed
-- Remember every row and every sequence, and make the function that brings them back. All tables at once, so that foreign
-- keys are checked when everything is there again; without triggers, which would add rows of their own.
CREATE SCHEMA plutus_test_seed;
CREATE TABLE plutus_test_seed.sequences AS
SELECT format('%I.%I', schemaname, sequencename)::regclass AS sequence, coalesce(last_value, start_value) AS value,
    last_value IS NOT NULL AS called
FROM pg_sequences;
CREATE TABLE plutus_test_seed.tables AS
SELECT class.oid::regclass AS original, format('plutus_test_seed.t%s', class.oid) AS seed,
    (
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = class.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    ) AS columns,
    EXISTS (SELECT FROM pg_trigger WHERE tgrelid = class.oid AND NOT tgisinternal)
        AND class.oid <> 'public.partition_claims'::regclass AS triggers
FROM pg_class class JOIN pg_namespace space ON space.oid = class.relnamespace
WHERE class.relkind IN ('r', 'p') AND NOT class.relispartition
    AND space.nspname NOT LIKE 'pg\_%' AND space.nspname NOT IN ('information_schema', 'plutus_test_seed');
DO $$
DECLARE
    each record;
BEGIN
    -- A copy that is thrown away need not survive a power cut.
    EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database());
    FOR each IN SELECT * FROM plutus_test_seed.tables LOOP
        EXECUTE format('CREATE TABLE %s AS SELECT %s FROM %s', each.seed, each.columns, each.original);
    END LOOP;
END
$$;
CREATE FUNCTION plutus_test_seed.restore() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    each record;
    deletes text;
    inserts text;
BEGIN
    SET CONSTRAINTS ALL IMMEDIATE;
    FOR each IN SELECT * FROM plutus_test_seed.tables WHERE triggers LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', each.original);
    END LOOP;
    SELECT string_agg(format('d%s AS (DELETE FROM %s)', original::oid, original), ', '),
        string_agg(
            format(
                'i%s AS (INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s)',
                original::oid, original, columns, columns, seed
            ),
            ', '
        )
    INTO deletes, inserts FROM plutus_test_seed.tables;
    EXECUTE 'WITH ' || deletes || ' SELECT 1';
    EXECUTE 'WITH ' || inserts || ' SELECT 1';
    FOR each IN SELECT * FROM plutus_test_seed.tables WHERE triggers LOOP
        EXECUTE format('ALTER TABLE %s ENABLE TRIGGER USER', each.original);
    END LOOP;
    PERFORM setval(sequence, value, called) FROM plutus_test_seed.sequences;
END
$$;

-- name: restore_seed
-- Every table and every sequence as they were.
SELECT plutus_test_seed.restore();
