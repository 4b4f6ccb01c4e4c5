"""clickhouse-connect as an analyst uses it: python connect.py HOST PORT USER PASSWORD DATABASE.

Each line that is printed is a thing that was tried, with what came of it; an assertion that fails
ends it with 1.
"""

import sys

import clickhouse_connect
from clickhouse_connect.driver.exceptions import DatabaseError

host, port, user, password, database = sys.argv[1:]
client = clickhouse_connect.get_client(
    host=host, port=int(port), username=user, password=password, database=database
)
print("clickhouse-connect", clickhouse_connect.common.version(), "server", client.server_version)


def tried(what, got, want):
    print(f"{what}: {got!r}")
    assert got == want, f"{what}: {got!r} is not {want!r}"


tried("ping", client.ping(), True)
tried("command", client.command("SELECT count() FROM readings FINAL"), 766)
rows = client.query(
    "SELECT meter_id, count() AS intervals FROM intervals FINAL GROUP BY meter_id ORDER BY meter_id"
)
tried("columns", rows.column_names, ("meter_id", "intervals"))
tried("rows", rows.result_rows, [(1, 384), (2, 384)])
text = "quote ' tab \t backslash \\ ü"
tried(
    "client-side parameters",
    client.query("SELECT %(n)s + 1, %(s)s", parameters={"n": 41, "s": text}).result_rows,
    [(42, text)],
)
bound = client.query(
    "SELECT {n:UInt32} + 1, {s:String}, {l:Array(UInt8)}",
    parameters={"n": 41, "s": text, "l": [1, 2]},
)
tried("server-side parameters", bound.result_rows, [(42, text, [1, 2])])
with client.query_row_block_stream("SELECT number FROM system.numbers LIMIT 200000") as blocks:
    tried("stream", sum(len(block) for block in blocks), 200_000)
csv = client.raw_query("SELECT meter_id, role FROM meters FINAL", fmt="CSV")
tried("raw CSV", csv, b'1,"supply"\n')
for statement in ["DROP TABLE readings", "CREATE TABLE t (a UInt8) ENGINE = Memory"]:
    try:
        client.command(statement)
    except DatabaseError as error:
        tried(f"{statement} is refused", "164" in str(error), True)
    else:
        raise AssertionError(f"{statement} went through")
try:
    client.query("SELECT nothing")
except DatabaseError as error:
    tried("an unknown column is said", "47" in str(error), True)
