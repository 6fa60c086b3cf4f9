-- The read model of schedules; the same shape and rights as those of V2.

CREATE TABLE read.schedules (
    tenant  text COLLATE "C" NOT NULL,
    key     uuid NOT NULL,
    doc     text NOT NULL,
    created bigint NOT NULL,
    kind    text COLLATE "C" NOT NULL,
    state   text COLLATE "C" NOT NULL,
    at      bigint NOT NULL,
    PRIMARY KEY (tenant, key)
) WITH (fillfactor = 80);
CREATE INDEX schedules_newest ON read.schedules (tenant, created);
CREATE INDEX schedules_by_state ON read.schedules (tenant, state, created);

INSERT INTO read.checkpoints VALUES ('schedules', 0, 1, 'epoch', clock_timestamp());

ALTER TABLE read.schedules ENABLE ROW LEVEL SECURITY;
ALTER TABLE read.schedules FORCE ROW LEVEL SECURITY;
CREATE POLICY service ON read.schedules FOR ALL TO taffrail_service USING (true) WITH CHECK (true);
CREATE POLICY tenant ON read.schedules FOR SELECT TO taffrail_gateway
    USING (tenant = (SELECT current_tenant()));
GRANT SELECT ON read.schedules TO taffrail_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON read.schedules TO taffrail_service;
SELECT past.keep('schedules');
