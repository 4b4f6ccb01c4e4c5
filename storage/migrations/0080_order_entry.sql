-- Engineering tokens of meters with remote entry go to the meter as commands, written with the approval.
ALTER TABLE command ADD COLUMN token_order INTEGER;
CREATE INDEX command_token_order ON command (token_order, id) WHERE token_order IS NOT NULL;
