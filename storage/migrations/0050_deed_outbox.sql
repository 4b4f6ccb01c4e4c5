-- Which row of the outbox carries a reversal or a refund to the log, so that an audit knows whether the
-- log has it. 0: none (a copy of a receipt), or done before this was kept, hence long in the log.
ALTER TABLE sale_deed ADD COLUMN outbox INTEGER NOT NULL DEFAULT 0;
