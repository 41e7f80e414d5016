"""The store: tables, connections, schema versions, partitions, bulk transfer. PostgreSQL is the queue and the truth."""
