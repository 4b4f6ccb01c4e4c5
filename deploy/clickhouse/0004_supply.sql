-- Alarms of supply and of the ledger. Values are only added.

ALTER TABLE {db}.alarms
    MODIFY COLUMN code Enum8('over_voltage' = 1, 'under_voltage' = 2, 'overload' = 3, 'reverse_energy' = 4, 'power_down' = 5, 'relay' = 6, 'tamper' = 7, 'clock' = 8, 'register' = 9, 'register_proposal' = 10, 'low_balance' = 11, 'very_low_balance' = 12, 'overdrawn' = 13, 'meter_silent' = 14, 'gateway_silent' = 15, 'line_loss' = 16, 'negative_loss' = 17, 'unusual_use' = 18, 'emergency_offered' = 24, 'balance_bound' = 25, 'supply_trip' = 26)
;
