"""Initial weights with which a Llama copies from its prompt before it has learnt anything.

Copying needs two heads in a row (an induction circuit): one that tells each token what stood before it, and one that
finds where the current token stood before and hands on what came after it. Gradient descent takes most of a short
training to find that pair; here it is written into the weights, and the training only has to learn when to use it.

V vocabulary, D width. Channel 0 is constant; a token's embedding fills the other channels of the lower half, and the
embedding of the token before it is copied into the upper half.
"""

import math

import torch
from transformers import LlamaForCausalLM

_EMBEDDING_STD = 0.07
_CONSTANT = 4 * _EMBEDDING_STD
_NUM_NEAR_FREQUENCIES = 6
"""Rotations per token that are fast enough to tell neighbours apart."""
_PREVIOUS_SHARPNESS = 2.25
_MATCH_SHARPNESS = 2.3
_WRITE_PREVIOUS = 0.1
_WRITE_COPY = 0.3
_REST_STD = 0.02


@torch.no_grad()
def start_with_copying(model: LlamaForCausalLM, seed: int) -> None:
    """Overwrite the weights of an untrained model (two or more layers, two or more heads) with copying ones."""
    width = model.config.hidden_size
    generator = torch.Generator().manual_seed(seed)
    _embed(model.model.embed_tokens.weight, generator)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for reads in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.up_proj, mlp.gate_proj):
            reads.weight.normal_(0, 0.7 / math.sqrt(width), generator=generator)
        for writes in (attention.o_proj, mlp.down_proj):
            writes.weight.normal_(0, _REST_STD, generator=generator)
    _previous_token_head(model)
    _matching_heads(model)


def _embed(weight: torch.Tensor, generator: torch.Generator) -> None:
    """Random embeddings [V, D] of one length, so that attention sees no token louder than another."""
    num_tokens, width = weight.shape
    weight.zero_()
    weight[:, 1 : width // 2] = torch.randn(num_tokens, width // 2 - 1, generator=generator)
    weight *= _EMBEDDING_STD * math.sqrt(width) / weight.norm(dim=1, keepdim=True)
    weight[:, 0] = _CONSTANT


def _previous_token_head(model: LlamaForCausalLM) -> None:
    """First layer, first head: attend to the token before, and write its embedding into the upper half.

    Query and key are the same constant vector, the key turned by one position: rotary embeddings make their product
    largest where the key stands one position before the query.
    """
    width, head_dim = model.config.hidden_size, model.config.head_dim
    attention = model.model.layers[0].self_attn
    near = torch.arange(_NUM_NEAR_FREQUENCIES)
    angle = model.config.rope_parameters["rope_theta"] ** (-2 * near / head_dim)
    for part in (attention.q_proj, attention.k_proj, attention.v_proj):
        part.weight[:head_dim] = 0
    attention.o_proj.weight[:, :head_dim] = 0
    attention.q_proj.weight[near, 0] = _PREVIOUS_SHARPNESS
    attention.k_proj.weight[near, 0] = _PREVIOUS_SHARPNESS * torch.cos(angle)
    attention.k_proj.weight[near + head_dim // 2, 0] = _PREVIOUS_SHARPNESS * torch.sin(angle)
    channel = torch.arange(min(head_dim, width // 2 - 1))
    attention.v_proj.weight[channel, channel + 1] = 1.0
    attention.o_proj.weight[width // 2 + channel, channel] = _WRITE_PREVIOUS


def _matching_heads(model: LlamaForCausalLM) -> None:
    """Second layer, first two heads: attend to where the token before was the current one; copy what stands there.

    Only the slowly turning half of the rotary channels compares embeddings: there, distance hardly matters.
    """
    width, head_dim = model.config.hidden_size, model.config.head_dim
    attention = model.model.layers[1].self_attn
    slow = torch.cat([torch.arange(head_dim // 4, head_dim // 2), torch.arange(3 * head_dim // 4, head_dim)])
    num_copied = min(head_dim, width // 2 - 1)
    for head in range(2):
        rows = slice(head * head_dim, (head + 1) * head_dim)
        compared = torch.arange(len(slow)) + head * len(slow)
        compared = compared[compared < num_copied]
        query, key, value = (torch.zeros(head_dim, width) for _ in range(3))
        query[slow[: len(compared)], 1 + compared] = _MATCH_SHARPNESS
        key[slow[: len(compared)], width // 2 + compared] = _MATCH_SHARPNESS
        copied = torch.arange(num_copied)
        channel = 1 + copied + head * (width // 2 - 1 - num_copied)  # two heads cover the lower half between them
        value[copied, channel] = 1.0
        attention.q_proj.weight[rows] = query
        attention.k_proj.weight[rows] = key
        attention.v_proj.weight[rows] = value
        attention.o_proj.weight[:, rows] = _WRITE_COPY * value.T
