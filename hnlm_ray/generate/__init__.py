"""LLM stages: prompts, output schemas, engines, profiles, negatives, grounding."""
