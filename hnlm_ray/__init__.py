"""LLM-driven hard negatives for recommenders, at cluster scale."""
