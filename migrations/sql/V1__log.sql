-- The event log: the truth. Everything else can be made again from it.
--
-- Written by taffrail_service, which owns nothing; read by people through `event_log`.

-- One row per shard; its lock is the order of the log (invariants 2 and 3).
CREATE TABLE log_head (
    shard       smallint PRIMARY KEY,
    position    bigint NOT NULL,          -- of the last event; 0 when there is none
    epoch       bigint NOT NULL,          -- generation of the store; changes only with a restore
    token       bigint NOT NULL,          -- fencing token of the processor that may append
    recorded_at timestamptz NOT NULL      -- of the last append; never runs backwards
) WITH (fillfactor = 10);                 -- room for HOT updates on its one page
INSERT INTO log_head VALUES (0, 0, 1, 0, 'epoch');

CREATE TABLE events (
    position           bigint PRIMARY KEY,
    epoch              bigint NOT NULL,
    tenant             text COLLATE "C" NOT NULL,
    stream_type        text COLLATE "C" NOT NULL,
    stream_id          uuid NOT NULL,
    version            bigint NOT NULL,
    event_type         text COLLATE "C" NOT NULL,
    schema_version     smallint NOT NULL,
    event_id           uuid NOT NULL,
    command_id         uuid NOT NULL,
    actor              text NOT NULL,
    correlation_id     uuid,
    causation_position bigint,
    trace              text,
    occurred_at        timestamptz NOT NULL,
    recorded_at        timestamptz NOT NULL,
    payload            bytea NOT NULL,    -- the canonical JSON bytes that were hashed
    hash               bytea NOT NULL,    -- SHA-256 of every field known before the append
    CONSTRAINT events_stream_version UNIQUE (tenant, stream_id, version)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02);
-- To find an event by its id, which few ask for: a filter per stretch of the table costs an
-- append next to nothing, a tree of random ids would cost it a page each.
CREATE INDEX events_by_id ON events
    USING brin (event_id uuid_bloom_ops (false_positive_rate = 0.0005))
    WITH (pages_per_range = 64);
ALTER TABLE events ALTER COLUMN payload SET STORAGE EXTERNAL; -- compressing costs more than it saves here

-- What became of every command, for ever (invariants 8 and 9).
CREATE TABLE command_results (
    command_id  uuid NOT NULL,
    tenant      text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    stream_type text COLLATE "C" NOT NULL,
    stream_id   uuid NOT NULL,
    command     text COLLATE "C" NOT NULL,
    actor       text NOT NULL,
    version     bigint NOT NULL,          -- of the stream after it
    position    bigint NOT NULL,          -- of the last event, or the head at the decision
    events      text NOT NULL,            -- names of its events, in order, separated by commas
    problem     text,                     -- the refusal as a problem document; null: accepted
    recorded_at timestamptz NOT NULL,
    credential  text COLLATE "C",         -- which token it came with; null: over NATS, a manager's
    -- Of refused commands alone: events have them themselves.
    correlation_id     uuid,
    causation_position bigint,
    trace              text,
    PRIMARY KEY (command_id, tenant)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02);
CREATE INDEX command_results_refused ON command_results (tenant, position, command_id)
    WHERE problem IS NOT NULL;
CREATE INDEX command_results_refused_by_cause
    ON command_results (tenant, causation_position, position)
    WHERE problem IS NOT NULL AND causation_position IS NOT NULL;
CREATE INDEX command_results_refused_by_correlation ON command_results (tenant, correlation_id)
    WHERE problem IS NOT NULL AND correlation_id IS NOT NULL;
CREATE INDEX command_results_refused_by_request
    ON command_results (tenant, substr(trace, 4, 32))
    WHERE problem IS NOT NULL AND trace IS NOT NULL;
CREATE INDEX command_results_by_credential ON command_results (tenant, credential, position)
    WHERE credential IS NOT NULL;

-- Names that one stream of a tenant may own at a time.
CREATE TABLE unique_claims (
    tenant    text COLLATE "C" NOT NULL,
    kind      text COLLATE "C" NOT NULL,
    value     text COLLATE "C" NOT NULL,
    stream_id uuid NOT NULL,
    PRIMARY KEY (tenant, kind, value)
);

-- Which task is a part of which, and which waits for which: what the rules about links
-- between tasks are decided by. Written with the events that say so.
CREATE TABLE task_links (
    tenant text COLLATE "C" NOT NULL,
    kind   text COLLATE "C" NOT NULL,     -- part_of, depends_on
    target uuid NOT NULL,                 -- the parent; the dependency
    source uuid NOT NULL,                 -- the task that names it
    PRIMARY KEY (tenant, kind, target, source)
);

-- A cache of folded streams; never the only copy.
CREATE TABLE snapshots (
    tenant    text COLLATE "C" NOT NULL,
    stream_id uuid NOT NULL,
    version   bigint NOT NULL,
    fold      text NOT NULL,              -- names the code that folded; another one ignores the row
    state     bytea NOT NULL,
    PRIMARY KEY (tenant, stream_id)
);

-- Who may run a role that only one process at a time may run.
CREATE TABLE leases (
    role       text PRIMARY KEY,
    holder     text NOT NULL,
    token      bigint NOT NULL,
    expires_at timestamptz NOT NULL
);

-- Digests of the API's bearer tokens.
CREATE TABLE api_tokens (
    digest     bytea PRIMARY KEY,         -- SHA-256 of the token
    tenant     text COLLATE "C" NOT NULL,
    principal  text NOT NULL,
    role       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The log is append-only also for its owner, in normal operation.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON command_results
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- For people with psql: the same log with the payload as JSON.
CREATE VIEW event_log WITH (security_invoker = true) AS
SELECT position, epoch, tenant, stream_type, stream_id, version,
       stream_type || '.' || event_type AS type, schema_version,
       convert_from(payload, 'UTF8')::jsonb AS payload,
       actor, command_id, event_id, correlation_id, causation_position, trace,
       occurred_at, recorded_at, encode(hash, 'hex') AS hash
FROM events;

-- The tenant of the present transaction; unset and empty both mean none (D56).
CREATE FUNCTION current_tenant() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT NULLIF(current_setting('app.tenant', true), '') $$;

ALTER TABLE events ENABLE ROW LEVEL SECURITY;
ALTER TABLE events FORCE ROW LEVEL SECURITY;
ALTER TABLE command_results ENABLE ROW LEVEL SECURITY;
ALTER TABLE command_results FORCE ROW LEVEL SECURITY;
ALTER TABLE unique_claims ENABLE ROW LEVEL SECURITY;
ALTER TABLE unique_claims FORCE ROW LEVEL SECURITY;
ALTER TABLE task_links ENABLE ROW LEVEL SECURITY;
ALTER TABLE task_links FORCE ROW LEVEL SECURITY;
ALTER TABLE snapshots ENABLE ROW LEVEL SECURITY;
ALTER TABLE snapshots FORCE ROW LEVEL SECURITY;

-- The service appends and reads across tenants in one batch.
CREATE POLICY service ON events FOR ALL TO taffrail_service USING (true) WITH CHECK (true);
CREATE POLICY service ON command_results FOR ALL TO taffrail_service USING (true) WITH CHECK (true);
CREATE POLICY service ON unique_claims FOR ALL TO taffrail_service USING (true) WITH CHECK (true);
CREATE POLICY service ON task_links FOR ALL TO taffrail_service USING (true) WITH CHECK (true);
CREATE POLICY service ON snapshots FOR ALL TO taffrail_service USING (true) WITH CHECK (true);
-- The gateway sees the tenant of its transaction and nothing else.
CREATE POLICY tenant ON events FOR SELECT TO taffrail_gateway
    USING (tenant = (SELECT current_tenant()));
CREATE POLICY tenant ON command_results FOR SELECT TO taffrail_gateway
    USING (tenant = (SELECT current_tenant()));

GRANT SELECT, INSERT ON events, command_results TO taffrail_service;
GRANT SELECT, UPDATE ON log_head TO taffrail_service;
GRANT SELECT, INSERT, DELETE ON unique_claims, task_links TO taffrail_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON snapshots, leases TO taffrail_service;
GRANT SELECT ON event_log TO taffrail_service, taffrail_gateway;
GRANT SELECT ON events, command_results, log_head, leases TO taffrail_gateway;
GRANT SELECT, INSERT ON api_tokens TO taffrail_gateway;
