-- What was decided about queues: their state and policy. Depths come from read.tasks.

CREATE TABLE read.queues (
    tenant text COLLATE "C" NOT NULL,
    key    uuid NOT NULL,                 -- the queue's stream
    doc    text NOT NULL,
    name   text COLLATE "C" NOT NULL,    -- the queue's name
    at     bigint NOT NULL,
    PRIMARY KEY (tenant, key)
) WITH (fillfactor = 80);
CREATE INDEX queues_by_name ON read.queues (tenant, name);

INSERT INTO read.checkpoints VALUES ('queues', 0, 1, 'epoch', clock_timestamp());

ALTER TABLE read.queues ENABLE ROW LEVEL SECURITY;
ALTER TABLE read.queues FORCE ROW LEVEL SECURITY;
CREATE POLICY service ON read.queues FOR ALL TO taffrail_service USING (true) WITH CHECK (true);
CREATE POLICY tenant ON read.queues FOR SELECT TO taffrail_gateway
    USING (tenant = (SELECT current_tenant()));
GRANT SELECT ON read.queues TO taffrail_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON read.queues TO taffrail_service;
SELECT past.keep('queues');
