"""`horae demo`: everything, on real data, on a virtual clock."""
