-- Remote entry: the tokens of a sale go to the meter as commands, written with the sale. `sale` ties
-- the command to it; a sale's commands stand in the order of its tokens.
ALTER TABLE token_meter ADD COLUMN entry TEXT NOT NULL DEFAULT 'keypad'
    CHECK (entry IN ('keypad', 'remote'));
ALTER TABLE command ADD COLUMN sale INTEGER;
CREATE INDEX command_sale ON command (sale, id) WHERE sale IS NOT NULL;

-- A debt that a switch to prepaid made is known to the books; it is noted here once.
ALTER TABLE debt ADD COLUMN switch_at INTEGER;
CREATE UNIQUE INDEX debt_switch ON debt (account, switch_at) WHERE switch_at IS NOT NULL;
