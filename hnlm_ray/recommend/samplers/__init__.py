"""Samplers of negatives: proposals, rules, MixGCF's mixing, and the pools of LLM negatives."""

from dataclasses import dataclass

import numpy as np
import torch

from hnlm_ray.recommend.config import SamplerConfig
from hnlm_ray.recommend.guard import Guard
from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.recommend.samplers.base import Batch, Popularity, Proposal, Rule, Uniform, score_candidates
from hnlm_ray.recommend.samplers.rules import Ahns, Hardest, TopM


@dataclass(frozen=True)
class Sampler:
    """Negatives of a batch: candidates of `proposal`, one of them by `rule` (none: the first)."""

    proposal: Proposal
    num_candidates: int
    rule: Rule | None
    num_users: int
    guard: Guard | None = None
    """Takes hardness away from candidates before the rule chooses."""

    @property
    def needs_embeddings(self) -> bool:
        """Whether current embeddings of all nodes are needed."""
        return self.rule is not None

    def sample(self, batch: Batch, emb_ND: torch.Tensor | None) -> np.ndarray:
        """int32 [B] item ids, or [B, N] where another part chooses (MixGCF). `emb_ND`: current final embeddings."""
        candidates = self.proposal.draw(batch, self.num_candidates)
        if self.rule is None:
            return candidates[:, 0] if self.num_candidates == 1 else candidates
        assert emb_ND is not None
        scores = score_candidates(emb_ND, batch.user_ids, candidates, self.num_users)
        if self.guard is not None:
            scores -= scores.std(axis=1, keepdims=True) * self.guard.of_candidates(batch.user_ids, candidates)
        positive = score_candidates(emb_ND, batch.user_ids, batch.item_ids[:, None], self.num_users)[:, 0]
        return candidates[np.arange(len(candidates)), self.rule.choose(batch, positive, scores)]


def build_proposal(config: SamplerConfig, user_items: UserItems, seed: int) -> Proposal:
    """Where candidates come from before any LLM negative is mixed in."""
    if config.kind == "pns":
        return Popularity(user_items, seed, config.popularity_power)
    return Uniform(user_items, seed)


def build_rule(config: SamplerConfig, seed: int) -> Rule | None:
    """Which candidate becomes the negative; None: the first, or (mixgcf) all of them, mixed."""
    match config.kind:
        case "dns":
            return Hardest()
        case "dns_mn":
            return TopM(config.top_m, seed)
        case "ahns":
            return Ahns(config.ahns_alpha, config.ahns_beta, config.ahns_power)
        case _:
            return None


def build_sampler(config: SamplerConfig, user_items: UserItems, seed: int) -> Sampler:
    """The base sampler of a config."""
    num_candidates = 1 if config.kind in ("rns", "pns") else config.num_candidates
    proposal, rule = build_proposal(config, user_items, seed), build_rule(config, seed)
    return Sampler(proposal, num_candidates, rule, user_items.num_users)
