"""Sizes of the synthetic catalogue and of the stand-in generator."""

from pydantic import Field

from hnlm_ray.settings import Section


class SyntheticConfig(Section):
    """The built-in catalogue: a book shop with latent tastes (`demo/catalogue.py`)."""

    num_users: int = Field(default=300, ge=2)
    """Readers."""
    num_items: int = Field(default=200, ge=20)
    """Books."""
    interactions_per_user: float = Field(default=17.0, gt=5)
    """Mean number of ratings per reader; at least 5 each, with a long tail."""
    popularity_skew: float = Field(default=0.7, ge=0)
    """Exponent of the popularity law: 0 is flat, 1 is Zipf."""
    text_agreement: float = Field(default=0.7, ge=0, le=1)
    """Share of what draws a reader to a book that its text tells; the rest is taste that no text mentions."""
    seed: int = Field(default=0, ge=0)
    """The same seed gives the same catalogue, byte for byte."""


class StandinConfig(Section):
    """The small generator that is made and trained on the spot where no real model is named."""

    num_layers: int = Field(default=3, ge=2)
    """Transformer layers."""
    hidden_dim: int = Field(default=128, ge=128, multiple_of=64)
    """Width; heads have 64 channels each."""
    vocab_size: int = Field(default=2048, ge=512)
    """Most tokens of the byte-level BPE that is trained on the data set."""
    max_context_tokens: int = Field(default=1024, ge=512)
    """Longest prompt and answer together."""
    num_steps: int = Field(default=600, ge=1)
    """Optimizer steps."""
    batch_tokens: int = Field(default=2048, ge=512)
    """Most tokens per step, padding included."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak of AdamW's rate (linear warm-up, cosine decay)."""
    min_genre_accuracy: float = Field(default=0.8, ge=0, le=1)
    """Share of held-out item profiles that must name the right genre; below it the model is refused."""
    seed: int = Field(default=0, ge=0)
    """Seed of weights and batches."""
