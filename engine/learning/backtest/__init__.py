"""How good the decisions would have been: learn up to some weeks of the log, decide, and look at what users did."""
