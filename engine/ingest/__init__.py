"""Users, items and events into the store, and events into profiles.

A file goes `formats` (what it is) → `csv_rows` | `json_rows` | `parquet_rows` (blocks of rows) → `check` (typed rows
and refusals) → `intake` (one transaction a chunk), driven by `run`. Users and items end in `entities`, events in
`write`, the one path by which any event enters the store. Profiles are folded by `profiles`, queued events by `fold`;
`replay` computes them again.
"""
