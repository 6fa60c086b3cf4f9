-- Read models made anew beside the live ones, and put in their place by moving tables between
-- schemas: `rebuild` has the version that is being made, `read` the one that is read,
-- `retired` the one before it, which is kept to go back to.
--
-- The services own nothing, so whatever changes tables runs as the owner, in these functions.
-- The twin of a table is made from the table as it is: a new read model needs no line here.
-- Past versions of rows, where there are any, are in a schema of their own beside each.

CREATE SCHEMA retired;
CREATE SCHEMA retired_past;

-- How far the version before was when another took its place.
CREATE TABLE retired.checkpoints (LIKE read.checkpoints INCLUDING ALL);
CREATE TABLE retired.parked (LIKE read.parked INCLUDING ALL);
CREATE TABLE retired.numbers (LIKE read.numbers INCLUDING ALL);

-- The functions run as the owner, whom row-level security binds too.
CREATE POLICY owner ON read.parked FOR ALL TO CURRENT_USER USING (true) WITH CHECK (true);

-- Which rebuild is under way; whoever is not the one here may not switch.
CREATE UNLOGGED TABLE rebuild.runs (
    model     text COLLATE "C" PRIMARY KEY,
    run       uuid NOT NULL,              -- another one with every beginning
    operation uuid,                       -- the operation that follows it
    begun_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Events of a later release that a model passed over. The release that knows them finds rows
-- here at its start, and makes the model anew.
CREATE TABLE read.passed (
    model    text COLLATE "C" NOT NULL,
    event    text COLLATE "C" NOT NULL,   -- such as `task.submitted`
    version  integer NOT NULL,            -- of its shape
    position bigint NOT NULL,             -- of the first one
    PRIMARY KEY (model, event, version)
);
GRANT SELECT, INSERT, DELETE ON read.passed TO taffrail_service;

-- The schemas of a model's tables: those that are read, and those for the two other versions.
CREATE FUNCTION rebuild.places(of_model text)
RETURNS TABLE (live text, building text, kept text)
LANGUAGE sql STABLE SET search_path = pg_catalog AS
$$
    SELECT p.live, p.building, p.kept
    FROM (VALUES ('read', 'rebuild', 'retired'), ('past', 'rebuild_past', 'retired_past'))
         p (live, building, kept)
    WHERE to_regclass(format('%I.%I', p.live, of_model)) IS NOT NULL
      AND EXISTS (SELECT FROM read.checkpoints c WHERE c.model = of_model)
$$;

-- Adds the keys of a table to its twin, where they are missing.
CREATE FUNCTION rebuild.add_keys(source regclass, building text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS
$$
DECLARE
    name text := (SELECT c.relname FROM pg_class c WHERE c.oid = source);
    twin regclass := to_regclass(format('%I.%I', building, name));
    one  record;
BEGIN
    FOR one IN SELECT k.conname, pg_get_constraintdef(k.oid) AS definition FROM pg_constraint k
               WHERE k.conrelid = source AND k.contype IN ('p', 'u')
                 AND NOT EXISTS (SELECT FROM pg_constraint t
                                 WHERE t.conrelid = twin AND t.conname = k.conname) LOOP
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s', twin, one.conname, one.definition);
    END LOOP;
END $$;

-- An empty table with the columns, checks, policies and rights of another, and its keys where
-- rows are found by them meanwhile. Not logged: what is made in one go and dropped after a
-- crash needs no log. Other indexes come at the end, when making them costs a fraction of
-- keeping them.
CREATE FUNCTION rebuild.make_twin(source regclass, building text, keyed boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS
$$
DECLARE
    name text;
    one  record;
BEGIN
    SELECT c.relname INTO name FROM pg_class c WHERE c.oid = source;
    -- What a plain copy would lose is refused, not lost.
    IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = source AND NOT t.tgisinternal)
       OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = source AND a.attacl IS NOT NULL)
       OR EXISTS (SELECT FROM pg_constraint k
                  WHERE source IN (k.conrelid, k.confrelid) AND k.contype IN ('f', 'x'))
       OR EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass
                  AND d.refobjid = source AND d.classid = 'pg_rewrite'::regclass) THEN
        RAISE EXCEPTION 'table % has a trigger, a view, a foreign key or rights on columns: '
                        'rebuild.make_twin does not know how to make them', source;
    END IF;
    EXECUTE format('CREATE UNLOGGED TABLE %I.%I (LIKE %s INCLUDING ALL EXCLUDING INDEXES)%s',
        building, name, source,
        (SELECT format(' WITH (%s)', array_to_string(c.reloptions, ', ')) FROM pg_class c
         WHERE c.oid = source AND c.reloptions IS NOT NULL));
    IF keyed THEN
        PERFORM rebuild.add_keys(source, building);
    END IF;
    FOR one IN SELECT c.relrowsecurity AS bound, c.relforcerowsecurity AS forced
               FROM pg_class c WHERE c.oid = source LOOP
        IF one.bound THEN
            EXECUTE format('ALTER TABLE %I.%I ENABLE ROW LEVEL SECURITY', building, name);
        END IF;
        IF one.forced THEN
            EXECUTE format('ALTER TABLE %I.%I FORCE ROW LEVEL SECURITY', building, name);
        END IF;
    END LOOP;
    FOR one IN SELECT p.* FROM pg_policies p
               JOIN pg_class c ON c.oid = source
               JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE p.schemaname = n.nspname AND p.tablename = c.relname LOOP
        EXECUTE format('CREATE POLICY %I ON %I.%I AS %s FOR %s TO %s%s%s',
            one.policyname, building, name, one.permissive, one.cmd,
            (SELECT string_agg(quote_ident(role), ', ') FROM unnest(one.roles) role),
            ' USING (' || one.qual || ')', ' WITH CHECK (' || one.with_check || ')');
    END LOOP;
    FOR one IN SELECT a.grantee, a.privilege_type, a.is_grantable
               FROM pg_class c, aclexplode(c.relacl) a
               WHERE c.oid = source AND a.grantee <> c.relowner LOOP
        EXECUTE format('GRANT %s ON %I.%I TO %s%s', one.privilege_type, building, name,
            CASE one.grantee WHEN 0 THEN 'PUBLIC'
                 ELSE quote_ident(pg_get_userbyid(one.grantee)) END,
            CASE WHEN one.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END $$;

-- Removes what a rebuild made, whether it ended or not.
CREATE FUNCTION rebuild.discard(of_model text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS
$$
DECLARE
    place record;
BEGIN
    FOR place IN SELECT * FROM rebuild.places(of_model) LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I.%I', place.building, of_model);
    END LOOP;
    DELETE FROM rebuild.checkpoints c WHERE c.model = of_model;
    DELETE FROM rebuild.parked p WHERE p.model = of_model;
    DELETE FROM rebuild.numbers n WHERE n.model = of_model;
    DELETE FROM rebuild.runs r WHERE r.model = of_model;
END $$;

-- Takes the place of whatever rebuild was there before. With a version of the fold: makes the
-- empty tables that it fills.
CREATE FUNCTION rebuild.start(of_model text, its_run uuid, its_operation uuid, its_fold integer)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS
$$
DECLARE
    place record;
BEGIN
    PERFORM rebuild.discard(of_model);
    INSERT INTO rebuild.runs (model, run, operation) VALUES (of_model, its_run, its_operation);
    IF its_fold IS NOT NULL THEN
        FOR place IN SELECT * FROM rebuild.places(of_model) LOOP
            PERFORM rebuild.make_twin(
                to_regclass(format('%I.%I', place.live, of_model)), place.building,
                place.live = 'read');  -- past versions are only added
        END LOOP;
        INSERT INTO rebuild.checkpoints (model, position, generation, recorded_at, updated_at, fold)
        VALUES (of_model, 0, 1, 'epoch', clock_timestamp(), its_fold);
    END IF;
END $$;

-- Makes a filled twin fit to be read: it survives a crash, without the space that changed rows
-- left behind, and has the indexes of the live table, under their names, and statistics.
CREATE FUNCTION rebuild.finish(of_model text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS
$$
DECLARE
    place  record;
    one    record;
    source regclass;
    where_ text;
BEGIN
    FOR place IN SELECT * FROM rebuild.places(of_model) LOOP
        source := to_regclass(format('%I.%I', place.live, of_model));
        where_ := format(' ON %I.%I USING ', place.live, of_model);
        EXECUTE format('ALTER TABLE %I.%I SET LOGGED', place.building, of_model);
        PERFORM rebuild.add_keys(source, place.building);
        FOR one IN SELECT pg_get_indexdef(i.indexrelid) AS definition FROM pg_index i
                   WHERE i.indrelid = source AND NOT EXISTS (
                       SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid) LOOP
            EXECUTE overlay(one.definition
                PLACING format(' ON %I.%I USING ', place.building, of_model)
                FROM position(where_ IN one.definition) FOR length(where_));
        END LOOP;
        EXECUTE format('ANALYZE %I.%I', place.building, of_model);
        -- Index-only scans want the map of what is visible to all. VACUUM makes it, which no
        -- function may call; the service may, from PostgreSQL 17 on, until the switch.
        IF current_setting('server_version_num')::integer >= 170000 THEN
            EXECUTE format('GRANT MAINTAIN ON %I.%I TO taffrail_service', place.building, of_model);
        END IF;
    END LOOP;
END $$;

-- Moves what is known beside the rows.
CREATE FUNCTION rebuild.carry(of_model text, source text, target text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS
$$
DECLARE
    what text;
BEGIN
    FOREACH what IN ARRAY ARRAY['parked', 'numbers', 'checkpoints'] LOOP
        EXECUTE format('DELETE FROM %I.%I WHERE model = $1', target, what) USING of_model;
        EXECUTE format('INSERT INTO %I.%I SELECT * FROM %I.%I WHERE model = $1',
                       target, what, source, what) USING of_model;
    END LOOP;
END $$;

-- Puts another version in the place of the one that is read, which becomes the one before.
-- `source` is `rebuild` or `retired`. Readers wait from the first of the moves to the commit.
CREATE FUNCTION rebuild.switch(of_model text, its_run uuid, source text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS
$$
DECLARE
    place record;
    grown bigint;
    here  bigint;
    there bigint;
BEGIN
    IF source NOT IN ('rebuild', 'retired') THEN
        RAISE EXCEPTION 'there is no version `%`', source;
    END IF;
    IF NOT EXISTS (SELECT FROM rebuild.runs r WHERE r.model = of_model AND r.run = its_run) THEN
        RAISE EXCEPTION 'somebody else has begun to rebuild %', of_model;
    END IF;
    SELECT c.position, c.generation + 1 INTO here, grown
    FROM read.checkpoints c WHERE c.model = of_model FOR UPDATE;
    EXECUTE format('SELECT position FROM %I.checkpoints WHERE model = $1', source)
        INTO there USING of_model;
    IF there IS NULL OR there < here THEN
        RAISE EXCEPTION 'the version of % in % is at position %, readers are at %',
                        of_model, source, there, here;
    END IF;

    IF source = 'rebuild' THEN
        PERFORM rebuild.carry(of_model, 'read', 'retired');
        PERFORM rebuild.carry(of_model, 'rebuild', 'read');
    ELSE
        PERFORM rebuild.carry(of_model, 'read', 'rebuild');
        PERFORM rebuild.carry(of_model, 'retired', 'read');
        PERFORM rebuild.carry(of_model, 'rebuild', 'retired');
    END IF;
    UPDATE retired.checkpoints c SET updated_at = clock_timestamp() WHERE c.model = of_model;
    UPDATE read.checkpoints c SET generation = grown, updated_at = clock_timestamp()
    WHERE c.model = of_model;

    FOR place IN SELECT * FROM rebuild.places(of_model) LOOP
        IF source = 'rebuild' THEN
            IF current_setting('server_version_num')::integer >= 170000 THEN
                EXECUTE format('REVOKE MAINTAIN ON %I.%I FROM taffrail_service',
                               place.building, of_model);
            END IF;
            EXECUTE format('DROP TABLE IF EXISTS %I.%I', place.kept, of_model);
        ELSE
            EXECUTE format('DROP TABLE IF EXISTS %I.%I', place.building, of_model);
        END IF;
    END LOOP;
    FOR place IN SELECT * FROM rebuild.places(of_model) LOOP
        IF source = 'rebuild' THEN
            EXECUTE format('ALTER TABLE %I.%I SET SCHEMA %I', place.live, of_model, place.kept);
            EXECUTE format('ALTER TABLE %I.%I SET SCHEMA %I', place.building, of_model, place.live);
        ELSE
            EXECUTE format('ALTER TABLE %I.%I SET SCHEMA %I', place.live, of_model, place.building);
            EXECUTE format('ALTER TABLE %I.%I SET SCHEMA %I', place.kept, of_model, place.live);
            EXECUTE format('ALTER TABLE %I.%I SET SCHEMA %I', place.building, of_model, place.kept);
        END IF;
    END LOOP;
    PERFORM rebuild.discard(of_model);
END $$;

-- Frees the space of the version before; there is then nothing to go back to.
CREATE FUNCTION rebuild.forget(of_model text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS
$$
DECLARE
    place record;
    known boolean := EXISTS (SELECT FROM retired.checkpoints c WHERE c.model = of_model);
BEGIN
    FOR place IN SELECT * FROM rebuild.places(of_model) LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I.%I', place.kept, of_model);
    END LOOP;
    DELETE FROM retired.checkpoints c WHERE c.model = of_model;
    DELETE FROM retired.parked p WHERE p.model = of_model;
    DELETE FROM retired.numbers n WHERE n.model = of_model;
    RETURN known;
END $$;

-- Why the version before cannot be read any more, or null: a migration may have changed the
-- columns of the live one since.
CREATE FUNCTION rebuild.unlike(of_model text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS
$$
DECLARE
    place record;
BEGIN
    FOR place IN SELECT * FROM rebuild.places(of_model) LOOP
        IF to_regclass(format('%I.%I', place.kept, of_model)) IS NULL THEN
            RETURN 'no version before it is kept';
        ELSIF rebuild.columns_of(format('%I.%I', place.live, of_model)::regclass)
              <> rebuild.columns_of(format('%I.%I', place.kept, of_model)::regclass) THEN
            RETURN 'the version before has other columns';
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE FUNCTION rebuild.columns_of(source regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog AS
$$
    SELECT string_agg(concat_ws(' ', a.attname, a.atttypid::regtype, a.atttypmod, a.attnotnull),
                      ', ' ORDER BY a.attname)
    FROM pg_attribute a WHERE a.attrelid = source AND a.attnum > 0 AND NOT a.attisdropped
$$;

-- Each read model, the version before it and the rebuild under way: for every caller, since
-- it tells of no row.
CREATE FUNCTION read.standing()
RETURNS TABLE (
    model text, place bigint, head bigint, generation bigint, fold integer, recorded_at timestamptz,
    parked bigint, previous bigint, previous_fold integer, retired_at timestamptz,
    run uuid, operation uuid, rebuilt bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS
$$
    SELECT c.model, c.position, h.position, c.generation, c.fold, c.recorded_at,
           (SELECT count(*) FROM read.parked p WHERE p.model = c.model),
           r.position, r.fold, r.updated_at, u.run, u.operation, b.position
    FROM read.checkpoints c
    CROSS JOIN public.log_head h
    LEFT JOIN retired.checkpoints r ON r.model = c.model
    LEFT JOIN rebuild.runs u ON u.model = c.model
    LEFT JOIN rebuild.checkpoints b ON b.model = u.model
    WHERE h.shard = 0 ORDER BY c.model
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rebuild FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rebuild.start(text, uuid, uuid, integer), rebuild.finish(text),
    rebuild.switch(text, uuid, text), rebuild.discard(text), rebuild.forget(text),
    rebuild.unlike(text) TO taffrail_service;
REVOKE ALL ON FUNCTION read.standing() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION read.standing() TO taffrail_service, taffrail_gateway;
GRANT USAGE ON SCHEMA retired, retired_past TO taffrail_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA retired TO taffrail_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA rebuild TO taffrail_service;
