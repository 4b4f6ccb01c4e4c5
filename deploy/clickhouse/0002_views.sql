-- Daily and monthly figures, version 2. Plain views over `intervals FINAL`: nothing is summed at
-- insert time, so a row sent twice or replaced cannot be counted twice. Energy is the sum of
-- quarter hours (the difference of registers within a day would lose one interval in 96).
-- Days and months are those of the deployment's time zone, {zone}.

CREATE VIEW IF NOT EXISTS {db}.daily AS
SELECT
    i.meter_id AS meter_id,
    toDate(i.start, '{zone}') AS day,
    sum(i.energy_wh) AS energy_wh,
    sum(i.cost_ticks) AS cost_ticks,
    max(i.register_wh) AS register_wh,
    minIf(i.voltage_min_mv, i.voltage_min_mv > 0) AS voltage_min_mv,
    max(i.voltage_max_mv) AS voltage_max_mv,
    max(i.current_max_ma) AS current_max_ma,
    max(i.power_max_w) AS power_max_w,
    count() AS intervals,
    countIf(i.quality = 'actual') AS intervals_actual
FROM {db}.intervals AS i FINAL
GROUP BY meter_id, day
;

CREATE VIEW IF NOT EXISTS {db}.monthly AS
SELECT
    i.meter_id AS meter_id,
    toStartOfMonth(toDate(i.start, '{zone}')) AS month,
    sum(i.energy_wh) AS energy_wh,
    sum(i.cost_ticks) AS cost_ticks,
    max(i.register_wh) AS register_wh,
    max(i.power_max_w) AS power_max_w,
    count() AS intervals,
    countIf(i.quality = 'actual') AS intervals_actual
FROM {db}.intervals AS i FINAL
GROUP BY meter_id, month
;
