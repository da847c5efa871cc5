"""Sweeps of training settings on Ray Tune: many trials over one set of LLM artifacts."""
