"""Config of the encoder, its fine-tune under collaborative signals, and the embeddings it makes."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from hnlm_ray.errors import UserError
from hnlm_ray.generate.engine_args import check_engine_args, decisive_args
from hnlm_ray.settings import Section, operational

_SET_ELSEWHERE = {
    "model": "encoder.model",
    "tokenizer": "encoder.model, whose own tokenizer is taken,",
    "trust_remote_code": "encoder.model to one that needs no code of its own",
    "dtype": "embed.dtype",
    "pooler_config": "encoder.pooling",
    "hf_token": "the environment variable HF_TOKEN",
}
"""Arguments of the encoder's engines that are settings of their own, and which."""


class EncoderConfig(Section):
    """The text encoder that is fine-tuned and embeds: the same for every stage that turns text into vectors."""

    model: str = "minilm"
    """'minilm' (all-MiniLM-L6-v2, installed with the package), a local Hugging Face folder, a Hub name, or a local run
    directory: the encoder that was tuned there, to go on from or, with `finetune.epochs: 0`, as it is."""
    pooling: Literal["auto", "mean", "last", "cls"] = "auto"
    """How token states become one vector; 'auto': mean for encoder-only models, last token for decoders."""
    max_length: int = Field(default=128, ge=8)
    """Tokens per text, special tokens included; longer texts are cut at the end, in training and inference alike."""
    engine_args: dict[str, Any] = operational({})
    """More arguments of `vllm.EngineArgs` for the encoder's engines, passed on as they are (`enforce_eager`, ...).
    Those that may change vectors are part of the result all the same."""

    @model_validator(mode="after")
    def _arguments_are_no_settings(self) -> Self:
        check_engine_args("encoder", self.engine_args, _SET_ELSEWHERE)
        return self

    def result_dict(self) -> dict[str, Any]:
        """The fields that decide the result, with those of `engine_args` that do."""
        return super().result_dict() | decisive_args(self.engine_args)


class LoRAConfig(Section):
    """The low-rank adapter that is trained instead of the whole encoder."""

    r: int = Field(default=32, ge=1)
    """Rank of the update."""
    alpha: int = Field(default=64, ge=1)
    """The update is scaled by alpha / r."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input while training; the frozen encoder drops nothing."""
    targets: Literal["auto"] | list[str] = "auto"
    """Names of the linear layers that get an adapter; 'auto': the q, k, v and o projections, found per architecture."""


Percentile = Annotated[float, Field(ge=0, le=1)]


class FinetuneConfig(Section):
    """What the encoder learns from, triplets of texts (q, p, n) or users' items, and how (METHOD.md section 3)."""

    context: Literal["neighbors", "numbers", "none"] = "neighbors"
    """The collaborative context in q: titles of CF neighbours, the paper's vectors printed as numbers, or nothing."""
    num_context_items: int = Field(default=3, ge=1)
    """Titles per side (nearest to the user, nearest to the item) with context 'neighbors'."""
    num_context_dims: int = Field(default=8, ge=1)
    """Leading components of each CF vector that are printed with context 'numbers'."""
    window: tuple[Percentile, Percentile] = (0.5, 0.95)
    """A hard negative's CF percentile for the user must lie in [lo, hi]: hard, yet below likely false negatives."""
    num_semantic_candidates: int = Field(default=50, ge=0)
    """Nearest catalogue items of the positive that join the grounded LLM negatives as candidates for p."""
    max_triplets: int | None = Field(default=20_000, ge=1)
    """About so many training pairs, drawn by the seed, are given a triplet; null: all of them."""
    loss: Literal["pairwise", "infonce", "taste"] = "pairwise"
    """'pairwise': logistic over all (q_a, p_a) against n_b; 'infonce': softmax with the other p_b and all n_b. 'taste':
    no triplets are learnt, a user's items are to lie near each other, which is what `guarded` and `graded` read;
    triplets are made of held-out users alone, to measure the tune by."""
    max_items_per_user: int = Field(default=20, ge=2)
    """Of a user with more, so many items are drawn anew in every step, with loss 'taste'."""
    tau: float = Field(default=0.05, gt=0)
    """Temperature of the loss."""
    method: Literal["lora", "full"] = "lora"
    """What is trained: an adapter, or every weight of the encoder."""
    lora: LoRAConfig = LoRAConfig()
    """The adapter, with method 'lora'."""
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate: suits LoRA on a small encoder; the paper's 8B model takes 2e-5."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW weight decay."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises linearly; then it falls by a cosine to zero."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    epochs: int = Field(default=2, ge=0)
    """Passes over the training triplets or users; 0 = the control `base-llm`: the encoder stays as it came."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many epochs without a better validation loss; null: never early."""
    batch_size: int = Field(default=64, ge=2)
    """Triplets per step over all workers: every n of the batch is a negative of every q. Users, with loss 'taste'."""
    chunk_size: int | None = Field(default=None, ge=1)
    """Triplets per forward pass (GradCache), items with loss 'taste': the same gradients with the memory of a small
    batch; null: all at once."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the encoder while training; 'auto': bf16 where the hardware computes in it, else fp32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed shards over the workers: 1 optimizer state, 2 and gradients, 3 and parameters."""
    validation_fraction: float = Field(default=0.05, gt=0, le=0.5)
    """Share of the triplets, or users, that is kept for validation loss, accuracy and the choice of the best epoch."""
    max_validation_triplets: int = Field(default=500, ge=1)
    """At most so many of them."""
    num_retrieval_candidates: int = Field(default=1000, ge=2)
    """Does q find its p, or the rest of a user's items each of them, among so many items?"""
    checkpoint_interval_s: float = operational(60.0, gt=0)
    """Seconds between checkpoints inside an epoch."""

    @model_validator(mode="after")
    def _window_is_an_interval(self) -> "FinetuneConfig":
        low, high = self.window
        if low >= high:
            raise ValueError(f"finetune.window is [{low}, {high}]; give [lo, hi] with 0 <= lo < hi <= 1")
        return self

    def check_shares(self, num_workers: int) -> None:
        """Refuse a batch that `num_workers` cannot share equally, as the loss over all of them needs it."""
        if self.batch_size % num_workers:
            raise UserError(
                f"finetune.batch_size={self.batch_size} cannot be shared equally by {num_workers} workers; "
                "give a multiple of every number that runtime.train_workers allows"
            )


class TasteConfig(Section):
    """The projection of item vectors in which a user lies near what the user takes, for the variants `guarded` and
    `graded`."""

    epochs: int = Field(default=10, ge=0)
    """Passes over the training pairs; 0 leaves the encoder's vectors as they are."""
    max_steps: int = Field(default=1_000, ge=1)
    """At most so many steps, whatever the number of pairs."""
    batch_size: int = Field(default=1024, ge=2)
    """Pairs per step: every item of the batch is a negative of the others."""
    lr: float = Field(default=2e-3, gt=0)
    """Learning rate of AdamW; it falls to zero over the steps."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Weight decay of AdamW."""
    tau: float = Field(default=0.1, gt=0)
    """Temperature."""


class EmbedConfig(Section):
    """z of training pairs and of items by the tuned encoder (METHOD.md section 4)."""

    max_pairs_per_user: int | None = Field(default=None, ge=0)
    """At most so many training pairs of a user, the newest; null: all. 0: items alone, whose vectors are all that
    `guarded`, `graded` and the models that read text take."""
    taste: TasteConfig = TasteConfig()
    """What text says about taste, learnt from behaviour."""
    r: int | None = Field(default=None, ge=1)
    """PCA to so many dimensions, fitted on a sample; null: the encoder's own width."""
    num_pca_rows: int = Field(default=20_000, ge=2)
    """Training pairs in the sample that PCA is fitted on."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the engine; 'auto': bfloat16 where the hardware computes in it, else float32. Parity is checked."""
    unit_rows: int = Field(default=1024, ge=1)
    """Training pairs per unit of work: one shard, and the most that a crash costs an actor."""
