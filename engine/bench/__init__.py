"""`horae bench NAME`: speeds, each beside its own bound, measured in one run.

A bench is a module here with `run(options: report.Options, tell: report.Tell) -> report.Report`. It makes its own load
(`loads`, seeded) and its own database (`scratch.scratch_database`), alternates what it compares, and reports medians.
`engine.cli.bench` lists the benches and prints reports.
"""
