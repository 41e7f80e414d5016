"""The store: tables, connections, schema versions, partitions and bulk transfer. PostgreSQL is the queue and the truth."""
