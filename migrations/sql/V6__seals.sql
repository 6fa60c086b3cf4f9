-- Seals of the log: what it was at a moment, signed. Nobody's tenant: they hold hashes alone.

CREATE TABLE seals (
    number    bigint PRIMARY KEY,
    kind      text COLLATE "C" NOT NULL,  -- seal, rotation
    size      bigint NOT NULL,            -- positions 1 to this one
    epoch     bigint NOT NULL,
    sealed_at timestamptz NOT NULL,
    doc       text NOT NULL               -- the seal as it was published
);
CREATE INDEX seals_by_size ON seals (size, number);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON seals
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Complete nodes of the log's Merkle tree at heights 8, 16, …: made from the events, and made
-- again where they are wrong.
CREATE TABLE seal_nodes (
    height smallint NOT NULL,
    index  bigint NOT NULL,
    hash   bytea NOT NULL,
    PRIMARY KEY (height, index)
);

GRANT SELECT, INSERT ON seals TO taffrail_service;
GRANT SELECT, INSERT, UPDATE ON seal_nodes TO taffrail_service;
GRANT SELECT ON seals TO taffrail_gateway;
