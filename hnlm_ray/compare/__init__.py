"""Comparisons: every sampler, variant, control and rival with the same tuning budget, several seeds, one test."""
