-- The read models: rows folded from the log, disposable, made again by a rebuild.
--
-- Every table has the same shape: `doc` is the row as the fold wrote it (text, because
-- jsonb would reorder keys and rewrite numbers of other people's payloads), the other
-- columns are what queries filter and sort by. The engine writes, the gateway reads its
-- tenant's share.

CREATE SCHEMA read;
CREATE SCHEMA rebuild;
CREATE SCHEMA past;
CREATE SCHEMA rebuild_past;

-- How far each model is; moved in the transaction that changes its rows.
CREATE TABLE read.checkpoints (
    model       text COLLATE "C" PRIMARY KEY,
    position    bigint NOT NULL,
    generation  bigint NOT NULL,          -- grows when the rows are replaced as a whole
    recorded_at timestamptz NOT NULL,     -- of the event at the position
    updated_at  timestamptz NOT NULL,
    fold        integer NOT NULL DEFAULT 1 -- version of the fold that made the rows
) WITH (fillfactor = 10);                 -- room for HOT updates on its one page
INSERT INTO read.checkpoints
SELECT model, 0, 1, 'epoch', clock_timestamp()
FROM unnest(ARRAY['tasks', 'agents', 'operations', 'audit', 'metrics']) model;

-- Streams with an event that a model could not fold.
CREATE TABLE read.parked (
    model     text COLLATE "C" NOT NULL,
    tenant    text COLLATE "C" NOT NULL,
    stream_id uuid NOT NULL,
    position  bigint NOT NULL,            -- of the first event that was not folded
    reason    text NOT NULL,
    skipped   bigint NOT NULL,            -- later events of the stream, passed over
    parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (model, tenant, stream_id)
);

-- Models that number their streams (TASK-7): the last number given, per tenant.
CREATE TABLE read.numbers (
    model  text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    last   bigint NOT NULL,               -- the number given last
    PRIMARY KEY (model, tenant)
) WITH (fillfactor = 10);

CREATE TABLE read.tasks (
    tenant       text COLLATE "C" NOT NULL,
    key          uuid NOT NULL,
    doc          text NOT NULL,
    created      bigint NOT NULL,         -- position of the first event: the order of lists
    number       bigint NOT NULL,         -- 7 for TASK-7; rises with `created`
    state        text COLLATE "C" NOT NULL,
    queue        text COLLATE "C" NOT NULL,
    priority     bigint NOT NULL,         -- 0 (critical) to 4 (background)
    agent_id     uuid,                    -- who has it, or had it last before its end
    holder       uuid,                    -- who has it now
    parent_id    uuid,
    due_at       bigint,                  -- microseconds since 1970, as the next one
    queued_at    bigint NOT NULL,
    archived     boolean NOT NULL,
    capabilities text[] NOT NULL,
    labels       text[] NOT NULL,         -- words, names, and name=value
    search       text NOT NULL,           -- lower case: title and the description's beginning
    percent      bigint,                  -- how far its agent last said it is
    escalated_at bigint,                  -- that it stands still for too long was recorded
    at           bigint NOT NULL,         -- position of the event that made the row so
    PRIMARY KEY (tenant, key)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX tasks_newest ON read.tasks (tenant, created) WHERE NOT archived;
CREATE INDEX tasks_archived ON read.tasks (tenant, created) WHERE archived;
CREATE INDEX tasks_by_state ON read.tasks (tenant, state, created) WHERE NOT archived;
CREATE INDEX tasks_by_queue ON read.tasks (tenant, queue, created) WHERE NOT archived;
CREATE INDEX tasks_by_agent ON read.tasks (tenant, agent_id, created) WHERE agent_id IS NOT NULL;
CREATE INDEX tasks_held ON read.tasks (tenant, holder, created) WHERE holder IS NOT NULL;
CREATE INDEX tasks_by_parent ON read.tasks (tenant, parent_id, created)
    WHERE parent_id IS NOT NULL;
CREATE INDEX tasks_due ON read.tasks (tenant, due_at) WHERE due_at IS NOT NULL AND NOT archived;
CREATE INDEX tasks_escalated ON read.tasks (tenant, created)
    WHERE escalated_at IS NOT NULL AND NOT archived;
-- Which rows changed between two positions; old rows lie in the order of their last change.
CREATE INDEX tasks_at ON read.tasks USING brin (at) WITH (pages_per_range = 16, autosummarize = on);
-- Depths and ages of queues without a look at the rows, however many tasks are done.
CREATE INDEX tasks_depths ON read.tasks (tenant, queue, state, priority, queued_at)
    WHERE NOT archived AND state <> ALL ('{done,cancelled}'::text[]);

CREATE TABLE read.agents (
    tenant       text COLLATE "C" NOT NULL,
    key          uuid NOT NULL,
    doc          text NOT NULL,
    created      bigint NOT NULL,
    name         text COLLATE "C" NOT NULL,
    state        text COLLATE "C" NOT NULL,
    role         text COLLATE "C" NOT NULL,
    crew_id      uuid,
    node_id      text COLLATE "C",
    capabilities text[] NOT NULL,
    labels       text[] NOT NULL,
    search       text NOT NULL,
    at           bigint NOT NULL,
    PRIMARY KEY (tenant, key)
) WITH (fillfactor = 80);
CREATE INDEX agents_newest ON read.agents (tenant, created);
CREATE INDEX agents_by_state ON read.agents (tenant, state, created);
CREATE INDEX agents_by_role ON read.agents (tenant, role, created);
CREATE INDEX agents_by_crew ON read.agents (tenant, crew_id, created) WHERE crew_id IS NOT NULL;
CREATE INDEX agents_by_node ON read.agents (tenant, node_id, created) WHERE node_id IS NOT NULL;

CREATE TABLE read.operations (
    tenant  text COLLATE "C" NOT NULL,
    key     uuid NOT NULL,
    doc     text NOT NULL,
    created bigint NOT NULL,
    kind    text COLLATE "C" NOT NULL,
    state   text COLLATE "C" NOT NULL,
    at      bigint NOT NULL,
    PRIMARY KEY (tenant, key)
) WITH (fillfactor = 80);
CREATE INDEX operations_newest ON read.operations (tenant, created);
CREATE INDEX operations_by_state ON read.operations (tenant, state, created);
CREATE INDEX operations_by_kind ON read.operations (tenant, kind, created);

-- Which event is about whom. What it says is in the log, which the query reads: a second
-- copy would cost more than all other read models together.
CREATE TABLE read.audit (
    tenant         text COLLATE "C" NOT NULL,
    key            bigint NOT NULL,       -- the event's position
    type           text COLLATE "C" NOT NULL,
    actor          text COLLATE "C" NOT NULL,
    agent_id       uuid,                  -- tasks and crews are found by their stream
    correlation_id uuid,
    cause          bigint,
    request        uuid,                  -- the trace id of the request that it came with
    PRIMARY KEY (tenant, key)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02);
-- What is everywhere needs no index: going back from the newest finds it at once.
CREATE INDEX audit_by_actor ON read.audit (tenant, actor, key) WHERE actor <> 'manager:scheduler';
CREATE INDEX audit_by_type ON read.audit (tenant, type, key)
    WHERE type <> ALL ('{task.submitted,task.assigned,task.started,task.progressed,task.completed}'::text[]);
CREATE INDEX audit_by_agent ON read.audit (tenant, agent_id, key) WHERE agent_id IS NOT NULL;
CREATE INDEX audit_by_cause ON read.audit (tenant, cause, key) WHERE cause IS NOT NULL;
CREATE INDEX audit_by_request ON read.audit (tenant, request, key) WHERE request IS NOT NULL;
CREATE INDEX audit_by_correlation ON read.audit (tenant, correlation_id, key)
    WHERE correlation_id IS NOT NULL;

CREATE TABLE read.metrics (
    tenant text COLLATE "C" NOT NULL,
    key    text COLLATE "C" NOT NULL,     -- the queue; * for what names none
    doc    text NOT NULL,
    at     bigint NOT NULL,
    PRIMARY KEY (tenant, key)
) WITH (fillfactor = 50);

-- How far a rebuild is; its rows are made beside the live ones (V7). Not logged, because a
-- rebuild that was cut short begins anew.
CREATE UNLOGGED TABLE rebuild.checkpoints (LIKE read.checkpoints INCLUDING ALL);
CREATE UNLOGGED TABLE rebuild.parked (LIKE read.parked INCLUDING ALL);
CREATE UNLOGGED TABLE rebuild.numbers (LIKE read.numbers INCLUDING ALL);

-- When the event at a position was recorded, whosever it is: how long the first event
-- that a model has not seen is waiting. Tells nothing but a time.
CREATE FUNCTION read.recorded_at(place bigint) RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS
$$ SELECT e.recorded_at FROM public.events e WHERE e.position = place $$;
-- The last position recorded before an instant, or up to it: times rise with positions, so
-- looking at some twenty of them finds it, and no table needs an index by time.
CREATE FUNCTION read.position_at(instant timestamptz, inclusive boolean) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS
$$
DECLARE
    low    bigint := 0;
    high   bigint := (SELECT h.position FROM public.log_head h WHERE h.shard = 0);
    middle bigint;
    stamp  timestamptz;
BEGIN
    WHILE low < high LOOP
        middle := low + (high - low + 1) / 2;
        SELECT e.recorded_at INTO stamp FROM public.events e WHERE e.position = middle;
        IF stamp < instant OR (inclusive AND stamp = instant) THEN
            low := middle;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END $$;
-- A tenant's task by its number, or null. Numbers rise with the places of first events, so
-- some thirty looks into an index that lists need anyway find it: an index of its own would
-- be written with every change of every task. Runs as whoever asks, behind the tenant's wall.
CREATE FUNCTION read.task_numbered(whose text, wanted bigint) RETURNS uuid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS
$$
DECLARE
    low    bigint;
    high   bigint;
    middle bigint;
    place  bigint;
    its    bigint;
    id     uuid;
BEGIN
    FOR round IN 1..2 LOOP                -- those on the lists, then the archived ones
        low := 1;
        high := (SELECT c.position FROM read.checkpoints c WHERE c.model = 'tasks');
        WHILE low <= high LOOP
            middle := low + (high - low) / 2;
            IF round = 1 THEN
                SELECT t.created, t.number, t.key INTO place, its, id FROM read.tasks t
                WHERE t.tenant = whose AND NOT t.archived AND t.created <= middle
                ORDER BY t.created DESC LIMIT 1;
            ELSE
                SELECT t.created, t.number, t.key INTO place, its, id FROM read.tasks t
                WHERE t.tenant = whose AND t.archived AND t.created <= middle
                ORDER BY t.created DESC LIMIT 1;
            END IF;
            IF its = wanted THEN
                RETURN id;
            ELSIF its > wanted THEN
                high := place - 1;
            ELSE
                low := middle + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN NULL;
END $$;
-- The functions run as the owner, whom row-level security binds too.
CREATE POLICY owner_reads ON events FOR SELECT TO CURRENT_USER USING (true);

DO $$
DECLARE
    model text;
BEGIN
    FOREACH model IN ARRAY ARRAY['tasks', 'agents', 'operations', 'audit', 'metrics', 'parked']
    LOOP
        EXECUTE format('ALTER TABLE read.%I ENABLE ROW LEVEL SECURITY', model);
        EXECUTE format('ALTER TABLE read.%I FORCE ROW LEVEL SECURITY', model);
        EXECUTE format('CREATE POLICY service ON read.%I FOR ALL TO taffrail_service '
                       'USING (true) WITH CHECK (true)', model);
        EXECUTE format('CREATE POLICY tenant ON read.%I FOR SELECT TO taffrail_gateway '
                       'USING (tenant = (SELECT current_tenant()))', model);
        EXECUTE format('GRANT SELECT ON read.%I TO taffrail_gateway', model);
    END LOOP;
END $$;

-- Past versions of a model's rows: those that stood at a boundary (a multiple of 4,096
-- positions) when they were replaced. With the live rows they are the world as of every
-- boundary; positions between two are folded from the one before. `sum` tells a version whose
-- document was changed by somebody else. As disposable as the live rows.
CREATE FUNCTION past.keep(model text) RETURNS void LANGUAGE plpgsql AS
$$
BEGIN
    EXECUTE format('CREATE TABLE past.%1$I (LIKE read.%1$I, until bigint NOT NULL, '
                   'sum bigint NOT NULL, PRIMARY KEY (tenant, key, at))', model);
    EXECUTE format('CREATE INDEX %2$I ON past.%1$I USING gist (int8range(at, until))',
                   model, model || '_span');
    -- Old and seldom read: small is better than quick.
    EXECUTE format('ALTER TABLE past.%I ALTER doc SET STORAGE MAIN', model);
    EXECUTE format('ALTER TABLE past.%I SET (toast_tuple_target = 128)', model);
    EXECUTE format('ALTER TABLE past.%I ENABLE ROW LEVEL SECURITY', model);
    EXECUTE format('ALTER TABLE past.%I FORCE ROW LEVEL SECURITY', model);
    EXECUTE format('CREATE POLICY service ON past.%I FOR ALL TO taffrail_service '
                   'USING (true) WITH CHECK (true)', model);
    EXECUTE format('CREATE POLICY tenant ON past.%I FOR SELECT TO taffrail_gateway '
                   'USING (tenant = (SELECT current_tenant()))', model);
    EXECUTE format('GRANT SELECT ON past.%I TO taffrail_gateway', model);
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON past.%I TO taffrail_service', model);
END $$;
SELECT past.keep(model) FROM unnest(ARRAY['tasks', 'agents', 'operations', 'metrics']) model;
-- The document of a past version, checked; one that is not as it was written is an error.
CREATE FUNCTION past.sound(model text, doc text, at bigint, until bigint, sum bigint)
RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS
$$
BEGIN
    IF hashtextextended(doc, at # until) = sum THEN
        RETURN doc;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'TF001', TABLE = model,
        MESSAGE = format('the row of %s that stood from %s to %s is not as it was written',
                         model, at, until);
END $$;

GRANT USAGE ON SCHEMA read, past TO taffrail_service, taffrail_gateway;
GRANT USAGE ON SCHEMA rebuild_past TO taffrail_service;
GRANT USAGE ON SCHEMA rebuild TO taffrail_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA read TO taffrail_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA rebuild TO taffrail_service;
GRANT SELECT ON read.checkpoints TO taffrail_gateway;
REVOKE ALL ON FUNCTION read.recorded_at(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION read.recorded_at(bigint) TO taffrail_service, taffrail_gateway;
REVOKE ALL ON FUNCTION read.position_at(timestamptz, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION read.position_at(timestamptz, boolean)
    TO taffrail_service, taffrail_gateway;
REVOKE ALL ON FUNCTION read.task_numbered(text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION read.task_numbered(text, bigint) TO taffrail_service, taffrail_gateway;
