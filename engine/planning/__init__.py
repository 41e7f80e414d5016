"""Planning: runs, shards and settlement; who gets what, when, or nothing, and why."""
