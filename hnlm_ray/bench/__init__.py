"""Benchmarks, each paired against its baseline in the same run. `frame.py` runs them, one module per name measures."""
