"""Benchmarks: each module runs by itself, `python -m benches.dissect`, and writes its figures to benches/results."""
