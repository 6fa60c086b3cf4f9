-- The read models of nodes and profiles; the same shape and rights as those of V2.

CREATE TABLE read.nodes (
    tenant  text COLLATE "C" NOT NULL,
    key     uuid NOT NULL,
    doc     text NOT NULL,
    created bigint NOT NULL,
    name    text COLLATE "C" NOT NULL,    -- unique among those that are there
    state   text COLLATE "C" NOT NULL,
    at      bigint NOT NULL,
    PRIMARY KEY (tenant, key)
) WITH (fillfactor = 80);
CREATE INDEX nodes_newest ON read.nodes (tenant, created);

INSERT INTO read.checkpoints VALUES ('nodes', 0, 1, 'epoch', clock_timestamp());

ALTER TABLE read.nodes ENABLE ROW LEVEL SECURITY;
ALTER TABLE read.nodes FORCE ROW LEVEL SECURITY;
CREATE POLICY service ON read.nodes FOR ALL TO taffrail_service USING (true) WITH CHECK (true);
CREATE POLICY tenant ON read.nodes FOR SELECT TO taffrail_gateway
    USING (tenant = (SELECT current_tenant()));
GRANT SELECT ON read.nodes TO taffrail_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON read.nodes TO taffrail_service;

CREATE TABLE read.profiles (
    tenant  text COLLATE "C" NOT NULL,
    key     uuid NOT NULL,
    doc     text NOT NULL,
    created bigint NOT NULL,
    name    text COLLATE "C" NOT NULL,    -- unique among those that are there
    at      bigint NOT NULL,
    PRIMARY KEY (tenant, key)
) WITH (fillfactor = 80);
CREATE INDEX profiles_newest ON read.profiles (tenant, created);
CREATE INDEX profiles_by_name ON read.profiles (tenant, name);

INSERT INTO read.checkpoints VALUES ('profiles', 0, 1, 'epoch', clock_timestamp());

ALTER TABLE read.profiles ENABLE ROW LEVEL SECURITY;
ALTER TABLE read.profiles FORCE ROW LEVEL SECURITY;
CREATE POLICY service ON read.profiles FOR ALL TO taffrail_service USING (true) WITH CHECK (true);
CREATE POLICY tenant ON read.profiles FOR SELECT TO taffrail_gateway
    USING (tenant = (SELECT current_tenant()));
GRANT SELECT ON read.profiles TO taffrail_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON read.profiles TO taffrail_service;
SELECT past.keep(model) FROM unnest(ARRAY['nodes', 'profiles']) model;
