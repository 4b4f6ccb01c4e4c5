-- A meter's tokens lie together, in the order in which it was given them: one tree instead of two and
-- an index, and the list of a meter reads its own rows only. That no identifier is given twice follows
-- from the last one, which is read in the transaction that writes the next.
CREATE TABLE meter_token (
    meter INTEGER NOT NULL REFERENCES token_meter (meter),
    number INTEGER NOT NULL,
    sale INTEGER,
    kind TEXT NOT NULL,
    base_year INTEGER NOT NULL,
    tid INTEGER,
    digits TEXT NOT NULL,
    actor INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (meter, number)
) STRICT, WITHOUT ROWID;
INSERT INTO meter_token
SELECT meter, ROW_NUMBER() OVER (PARTITION BY meter ORDER BY id), sale, kind, base_year, tid, digits,
    actor, at FROM issued_token;
DROP TABLE issued_token;
