"""Benchmarks: `python -m benches` runs all of them, each module one family, and `benches.readme` fills in README's
tables from what they wrote to benches/results."""
