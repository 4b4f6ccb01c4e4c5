//! The durable log, snapshots, the ClickHouse writer and queries, the embedded engine, the registry.
