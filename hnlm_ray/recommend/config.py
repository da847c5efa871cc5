"""Config sections `signal`, `train` and `evaluate`. Imports nothing heavy, so that a config is checked in no time."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hnlm_ray.settings import Section, operational

SamplerKind = Literal["rns", "pns", "dns", "dns_mn", "mixgcf", "ahns"]
LossKind = Literal["bpr", "margin", "softmax", "infonce", "directau"]
Variant = Literal["none", "aligned", "grounded", "hybrid", "guarded", "graded"]
AlignmentKind = Literal["linear", "mlp", "attention", "moe"]
TextMatchKind = Literal["nearest", "density"]
Control = Literal["none", "gaussian", "shuffled", "frozen-adapter", "popularity-matched", "window-only"]

_CHOOSING: tuple[SamplerKind, ...] = ("dns", "dns_mn", "ahns")
"""Samplers whose rule chooses one of several candidates."""
_VARIANTS_OF_CONTROL: dict[Control, tuple[Variant, ...]] = {
    "gaussian": ("aligned", "guarded", "graded"),
    "shuffled": ("aligned", "guarded", "graded"),
    "frozen-adapter": ("aligned",),
    "popularity-matched": ("grounded", "hybrid", "guarded", "graded"),
    "window-only": ("grounded", "hybrid", "guarded", "graded"),
}


class SamplerConfig(Section):
    """The base sampler: where e_j of METHOD.md section 5 comes from."""

    kind: SamplerKind = "rns"
    """`rns` uniform; `pns` popularity^`popularity_power`; `dns` hardest of `num_candidates`; `dns_mn` one of the
    `top_m` hardest of `num_candidates`; `mixgcf` positive and hop mixing; `ahns` hardness falls as the positive's
    score rises."""
    num_candidates: int = Field(default=16, ge=1)
    """N: candidates drawn per pair by every sampler that compares candidates."""
    top_m: int = Field(default=4, ge=1)
    """M of DNS(M,N)."""
    popularity_power: float = Field(default=0.75, ge=0)
    """Exponent of PNS: an item is drawn in proportion to (number of training interactions)^power."""
    ahns_alpha: float = 0.1
    """alpha of AHNS: added to the positive's score."""
    ahns_beta: float = Field(default=0.5, gt=0)
    """beta of AHNS: overall hardness. Up to 1, candidates get easy as scores grow; from 8 on it is nearly DNS."""
    ahns_power: float = Field(default=-2.0, lt=-1)
    """p of AHNS: how fast hardness falls with the positive's score."""

    @model_validator(mode="after")
    def _enough_candidates(self) -> "SamplerConfig":
        if self.kind == "mixgcf" and self.num_candidates < 2:
            raise ValueError(f"num_candidates={self.num_candidates}: mixgcf compares candidates, set 2 or more")
        if self.kind == "dns_mn" and self.top_m > self.num_candidates:
            raise ValueError(f"top_m={self.top_m} must not exceed num_candidates={self.num_candidates}")
        return self


class LossConfig(Section):
    """The ranking loss; the L2 term on layer-0 embeddings is `reg` beside it."""

    kind: LossKind = "bpr"
    """`bpr`; `margin`; `softmax` over shared sampled negatives; `infonce` over the batch; `directau`."""
    margin: float = Field(default=0.3, gt=0)
    """m of the margin loss."""
    temperature: float = Field(default=0.15, gt=0)
    """Temperature of `softmax` and `infonce` on cosine scores."""
    num_shared_negatives: int = Field(default=1024, ge=1)
    """Negatives shared by a batch in `softmax`."""
    uniformity: float = Field(default=1.0, ge=0)
    """Weight of DirectAU's uniformity term."""


class SslConfig(Section):
    """Self-supervision of SGL, SimGCL and XSimGCL; unused by the other models."""

    weight: float = Field(default=0.1, ge=0)
    """Weight of the contrastive term."""
    temperature: float = Field(default=0.2, gt=0)
    """Temperature of the contrastive term."""
    edge_drop: float = Field(default=0.1, ge=0, lt=1)
    """Share of edges that SGL leaves out of each view."""
    noise: float = Field(default=0.2, ge=0)
    """Length of the noise that SimGCL and XSimGCL add per layer."""
    contrast_layer: int = Field(default=1, ge=1)
    """The layer XSimGCL contrasts with the final embedding."""


class FitConfig(Section):
    """What every training of a recommender needs; shared by `signal` and `train`."""

    model: str = "lightgcn"
    """`mf`, `lightgcn`, `ngcf`, `sgl`, `simgcl`, `xsimgcl`, `ease`, or the dotted path of your own class; for `train`
    also `alpharec`, `rlmrec_con`, `rlmrec_gen`, `kar` and `text`, which read the texts that the section `text` names.
    `text` is the ranking by those alone: the cosine of a user's text with an item's."""
    dim: int = Field(default=64, ge=1)
    """D: width of the embeddings."""
    num_layers: int = Field(default=3, ge=0)
    """Graph layers; `mf` and `ease` have none."""
    sampler: SamplerConfig = SamplerConfig()
    """Base sampler of negatives."""
    loss: LossConfig = LossConfig()
    """Ranking loss."""
    ssl: SslConfig = SslConfig()
    """Self-supervision, for the models that have it."""
    ease_reg: float = Field(default=100.0, gt=0)
    """Ridge term of EASE, as the model and as the behaviour of `graded`."""
    lr: float = Field(default=5e-3, gt=0)
    """Learning rate of Adam."""
    reg: float = Field(default=1e-4, ge=0)
    """Weight of (|E_u|^2 + |E_i|^2 + |E_j|^2) / (2B) on layer-0 embeddings."""
    batch_size: int = Field(default=2048, ge=1)
    """B: pairs per optimizer step, over all workers."""
    epochs: int = Field(default=100, ge=1)
    """At most this many passes over the training pairs."""
    eval_every: int = Field(default=5, ge=1)
    """Epochs between two validations."""
    patience: int = Field(default=5, ge=1)
    """Validations without a better `monitor` before training stops."""
    monitor: str = Field(default="ndcg@20", pattern=r"^(recall|ndcg|hr|precision|mrr|map)@[1-9]\d*$")
    """The validation metric that picks the best epoch, `name@k`."""
    zero_stage: Literal[0, 1, 2] = operational(0)
    """DeepSpeed ZeRO stage."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 needs a GPU, and DeepSpeed: `hnlm run` has it, sweeps, comparisons and the library train in fp32."""
    checkpoint_every_s: float = operational(60.0, gt=0)
    """Seconds between two checkpoints; a killed run loses at most these."""


class SignalConfig(FitConfig):
    """The warm-up CF model, whose scores serve as behavioural windows (METHOD.md section 3)."""

    epochs: int = Field(default=60, ge=1)
    """At most this many passes over the training pairs."""


class HnlmConfig(Section):
    """How LLM negatives enter the training (METHOD.md section 5), and the controls of section 6."""

    variant: Variant = "aligned"
    """`none`; `aligned` mixes h = A(z) into the negative; `grounded` replaces negatives by real items near z; `hybrid`
    lets the base sampler choose among its own candidates and such items; `guarded` takes hardness away from candidates
    that the tuned text says the user would take: likely false negatives; `graded` finds those by behaviour and text
    and ranks them above the negatives."""
    alignment: AlignmentKind = "mlp"
    """A: `linear`, `mlp`, `attention` over the K negatives then MLP, `moe` mixture of experts."""
    hidden_dim: int = Field(default=128, ge=1)
    """Width of the alignment's hidden layer."""
    num_experts: int = Field(default=4, ge=2)
    """Experts of `moe`."""
    num_heads: int = Field(default=4, ge=1)
    """Heads of `attention`."""
    num_hard_negatives: int = Field(default=1, ge=1)
    """K: vectors per pair that `attention` sees: the pair's own z, then those of other pairs of the same user."""
    alpha: float = Field(default=1e-2, ge=0, le=1)
    """Share of h in the mixed negative; 0 is the control `alpha=0`."""
    lambda_cl: float = Field(default=1e-3, ge=0)
    """Weight of L_CL; 0 is the control `lambda=0`."""
    tau: float = Field(default=0.2, gt=0)
    """Temperature of L_CL."""
    pool_size: int = Field(default=50, ge=1)
    """Real items kept per pair by `grounded` and `hybrid`."""
    pool_source: Literal["embeddings", "negatives"] = "embeddings"
    """Where the pool comes from: items nearest to z, or the grounded text negatives of the stage `negative`."""
    pool_share: float = Field(default=0.5, ge=0, le=1)
    """Share of negatives (`grounded`) or of candidates (`hybrid`) that come from the pool."""
    window: tuple[float, float] = (0.5, 0.98)
    """Percentiles [lo, hi] of the user's CF scores between which a pool item must lie: hard, but not a likely
    false negative."""
    guard: float = Field(default=0.5, ge=0)
    """gamma of `guarded`: standard deviations of hardness that a candidate loses per standard deviation of similarity
    between its text and the user's taste; 0 is the base sampler."""
    grade: float = Field(default=0.5, ge=0)
    """beta of `graded`: weight of ranking a likely false negative above the pair's negative; 0 is the base sampler."""
    num_false_negatives: int = Field(default=20, ge=1)
    """T of `graded`: likely false negatives per user, one of which each pair draws."""
    grade_tau: float = Field(default=1.0, gt=0)
    """tau of `graded`: an item that is behind another by so many standard deviations of the score that names them is
    drawn e times less often. Large: all T alike, which favours recall; small: the surest alone."""
    behaviour: Literal["signal", "ease", "both"] = "signal"
    """Whose scores of unseen items count beside the text in `graded`: the warm-up signal's, those of EASE, or `both`:
    their sum in standard deviations of each."""
    text_weight: float = Field(default=0.8, ge=0)
    """omega of `graded`: standard deviations of the user's scores by behaviour that one of the match in text counts; 0
    is the control `window-only`."""
    text_match: TextMatchKind = "nearest"
    """How `graded` matches an item's text with what the user took: `nearest` by the nearest of those; `density` by all,
    the nearer the more, less what a text that is near everything would have anyway."""
    popularity_discount: float = Field(default=0.0, ge=0)
    """pi of `graded`: standard deviations of that score that an item loses per e-fold of its popularity, since
    what everybody takes says little about a user; 0 discounts nothing."""
    refresh_every: int = Field(default=0, ge=0)
    """Every this many epochs windows, and the likely false negatives of `graded`, are scored again with the current
    model; 0 = never."""
    control: Control = "none"
    """One switch of METHOD.md section 6, all else equal."""

    @model_validator(mode="after")
    def _settings_agree(self) -> "HnlmConfig":
        lo, hi = self.window
        if not 0 <= lo < hi <= 1:
            raise ValueError(f"window={[lo, hi]} must satisfy 0 <= lo < hi <= 1")
        if self.behaviour != "signal" and self.refresh_every:
            raise ValueError(
                f"behaviour={self.behaviour!r} does not change while the model trains: set refresh_every=0"
            )
        if self.control != "none" and self.variant not in _VARIANTS_OF_CONTROL[self.control]:
            wanted = " or ".join(repr(variant) for variant in _VARIANTS_OF_CONTROL[self.control])
            raise ValueError(f"control={self.control!r} needs variant {wanted}, not {self.variant!r}")
        return self


TEXT_MODELS = ("alpharec", "rlmrec_con", "rlmrec_gen", "kar")
"""Models that are trained and read the texts of items and users."""
CLOSED_FORM_MODELS = ("ease", "text")
"""Models that are solved or read off, without the trainer; the second reads texts."""


class TextConfig(Section):
    """Vectors of texts, made by the encoder for the models that read text; no other model needs them."""

    source: Literal["catalogue", "profiles", "tuned", "taste"] = "catalogue"
    """`catalogue`: what the data set says of an item, and a user is the mean of the training items; `profiles`: titles
    with the profiles P_i, and P_u of users; `tuned`: items by the fine-tuned encoder, and a user is their mean;
    `taste`: the same in the space of taste (`embed.taste`), the text that `guarded` and `graded` use."""


class RivalConfig(Section):
    """The rivals that read text (METHOD.md section 8); unused by the other models."""

    backbone: str = "lightgcn"
    """What `rlmrec_con`, `rlmrec_gen` and `kar` add to: a model that reads no text, or a dotted path."""
    hidden_dim: int = Field(default=256, ge=1)
    """Width of the hidden layer between text and recommender; the experts of `kar` share it."""
    text_temperature: float = Field(default=0.2, gt=0)
    """Temperature of RLMRec's contrast between texts and embeddings."""
    align_weight: float = Field(default=0.01, ge=0)
    """Weight of that contrast in `rlmrec_con`."""
    reconstruct_weight: float = Field(default=0.1, ge=0)
    """Weight of it in `rlmrec_gen`."""
    mask_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the nodes with text that `rlmrec_gen` masks in a step."""
    num_experts: int = Field(default=2, ge=1)
    """Experts of `kar`: as many shared by users and items as each kind has of its own."""

    @model_validator(mode="after")
    def _backbone_without_text(self) -> "RivalConfig":
        if self.backbone in (*TEXT_MODELS, *CLOSED_FORM_MODELS):
            raise ValueError(
                f"backbone={self.backbone!r} cannot be added to: give mf, lightgcn or another trained id model"
            )
        return self


class TrainConfig(FitConfig):
    """The recommender, trained with LLM hard negatives."""

    rival: RivalConfig = RivalConfig()
    """Settings of the models that read text."""
    hnlm: HnlmConfig = HnlmConfig()
    """LLM hard negatives."""

    @model_validator(mode="after")
    def _negatives_are_taken(self) -> "TrainConfig":
        if self.model in CLOSED_FORM_MODELS and self.hnlm.variant != "none":
            raise ValueError(f"model={self.model!r} is not trained with negatives: set hnlm.variant to none")
        return self

    @model_validator(mode="after")
    def _grades_are_ranked(self) -> "TrainConfig":
        if self.hnlm.variant == "graded" and self.loss.kind in ("infonce", "directau"):
            raise ValueError(
                f"hnlm.variant='graded' ranks against sampled negatives, which loss.kind={self.loss.kind!r} has not: "
                "set loss.kind to bpr, margin or softmax"
            )
        return self

    @model_validator(mode="after")
    def _guard_has_a_choice(self) -> "TrainConfig":
        if self.hnlm.variant == "guarded" and self.sampler.kind not in _CHOOSING:
            raise ValueError(
                f"hnlm.variant='guarded' compares candidates, which sampler.kind={self.sampler.kind!r} does not: "
                f"set sampler.kind to {', '.join(_CHOOSING)}"
            )
        return self

    @model_validator(mode="after")
    def _hybrid_has_candidates(self) -> "TrainConfig":
        draws_one = self.sampler.kind in ("rns", "pns") or self.sampler.num_candidates < 2
        if self.hnlm.variant == "hybrid" and draws_one:
            raise ValueError(
                f"hnlm.variant='hybrid' takes the hardest of several candidates, sampler.kind={self.sampler.kind!r} "
                "draws one: set sampler.kind to dns, dns_mn, ahns or mixgcf, and sampler.num_candidates to 2 or more"
            )
        return self


class EvaluateConfig(Section):
    """Full ranking over all items (METHOD.md section 7)."""

    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(5, 10, 20, 50), min_length=1)
    """Cut-offs k of every metric."""
    num_user_groups: int = Field(default=4, ge=1)
    """Groups of users by number of training interactions."""
    num_item_groups: int = Field(default=4, ge=1)
    """Groups of items by popularity."""
    users_per_block: int = operational(256, ge=1)
    """Users ranked at once; bounds the memory."""
