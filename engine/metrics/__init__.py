"""What runs and how it stands, in numbers: one reading for `horae status`, `horae metrics` and `/metrics`.

body = exposition(database, broker, now)     # Prometheus' text format; now: business time
"""

from engine.metrics.exposition import CONTENT_TYPE, exposition

__all__ = ["CONTENT_TYPE", "exposition"]
