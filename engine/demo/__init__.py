"""`horae demo`."""
