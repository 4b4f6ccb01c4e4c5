-- The ledger in double entry: every movement names the other side. Rows from before get theirs
-- from their kind.

ALTER TABLE {db}.ledger
    MODIFY COLUMN kind Enum8('energy' = 1, 'standing_day' = 2, 'standing_month' = 3, 'purchase' = 4, 'fee' = 5, 'tax' = 6, 'adjustment' = 7, 'debt_recovery' = 8, 'emergency_given' = 9, 'emergency_repaid' = 10, 'correction' = 11, 'refund' = 12, 'reversal' = 13, 'transfer' = 14, 'opening_balance' = 15, 'free_issue' = 16, 'debt_agreed' = 17, 'bound' = 18, 'token' = 19)
;

ALTER TABLE {db}.ledger
    MODIFY COLUMN cause Enum8('readings' = 1, 'period' = 2, 'purchase' = 3, 'person' = 4, 'meter' = 5, 'movement' = 6)
;

ALTER TABLE {db}.ledger
    ADD COLUMN {if_new} contra Enum8('revenue' = 1, 'cash_in_transit' = 2, 'fees' = 3, 'taxes' = 4, 'debt' = 5, 'emergency_credit' = 6, 'adjustments' = 7, 'transfers' = 8, 'opening' = 9, 'grants' = 10, 'suspense' = 11, 'meter_credit' = 12) DEFAULT CAST(multiIf(kind = 'purchase', 'cash_in_transit', kind = 'fee', 'fees', kind = 'tax', 'taxes', kind = 'adjustment', 'adjustments', 'revenue'), 'Enum8(\'revenue\' = 1, \'cash_in_transit\' = 2, \'fees\' = 3, \'taxes\' = 4, \'debt\' = 5, \'emergency_credit\' = 6, \'adjustments\' = 7, \'transfers\' = 8, \'opening\' = 9, \'grants\' = 10, \'suspense\' = 11, \'meter_credit\' = 12)') COMMENT 'The other side: it loses what the account gains' AFTER kind
;
