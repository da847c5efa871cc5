"""Differentiable reads of propagated embeddings, restricted to the rows that a batch needs.

Legend: N nodes, R rows of the batch, L graph layers, D dimension. E_0 is the trained matrix, E_l = A E_(l-1).
"""

from collections.abc import Callable
from typing import Any

import torch

from hnlm_ray.recommend.graph import Graph

Perturb = Callable[[torch.Tensor, int], None]
"""Changes a layer in place by something that has no gradient: (E_l or rows of it, l)."""


def propagate_all(graph: Graph, emb: torch.Tensor, num_layers: int, first_layer: int = 0) -> torch.Tensor:
    """Mean of the layers `first_layer`..L for all nodes, [N, D], without gradient, in a reused buffer."""
    current = emb.detach()
    total = graph.scratch("total", emb.shape[1], emb.dtype)
    total.copy_(current) if first_layer == 0 else total.zero_()
    for layer in range(1, num_layers + 1):
        current = graph.product(current, graph.scratch(f"layer{layer % 2}", emb.shape[1], emb.dtype))
        total += current
    return total.div_(num_layers + 1 - first_layer)


def propagate_mean(
    graph: Graph, emb: torch.Tensor, rows: torch.Tensor, num_layers: int, known: torch.Tensor | None = None
) -> tuple[Any, Any]:
    """(mean of layers 0..L, layer 0) at `rows`, both [R, D], with gradient: LightGCN's read of a batch.

    `known`: the mean for all nodes where this step has it already; it is then read instead of computed.
    """
    return _Mean.apply(emb, graph, rows, num_layers, known)


def propagate_layers(
    graph: Graph, emb: torch.Tensor, rows: torch.Tensor, num_layers: int, perturb: Perturb | None = None
) -> torch.Tensor:
    """Every layer 0..L at `rows`, [L + 1, R, D], with gradient; `perturb` changes a layer before the next reads it."""
    return _Layers.apply(emb, graph, rows, num_layers, perturb)


def product(graph: Graph, x: torch.Tensor) -> torch.Tensor:
    """A x for all nodes with gradient, for layers that are not linear."""
    return _Product.apply(x, graph)


def _layer(graph: Graph, emb: torch.Tensor, layer: int) -> torch.Tensor:
    return graph.scratch(f"layer{layer}", emb.shape[1], emb.dtype)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, emb: torch.Tensor, graph: Graph, rows: torch.Tensor, num_layers: int, known: torch.Tensor | None
    ) -> Any:
        ctx.graph, ctx.num_layers = graph, num_layers
        ctx.save_for_backward(rows)
        base = emb.index_select(0, rows)
        if known is not None:
            return known.index_select(0, rows), base
        if num_layers == 0:
            return base.clone(), base
        total, current = base.clone(), emb
        for layer in range(1, num_layers):
            current = graph.product(current, _layer(graph, emb, layer % 2))
            graph.add_at(current, rows, total)
        graph.add_product_at(current, rows, total)
        return total.div_(num_layers + 1), base

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        grad_mean, grad_base = grads
        (rows,) = ctx.saved_tensors
        share = grad_mean / (ctx.num_layers + 1)
        layers = [share + grad_base, *[share] * ctx.num_layers]
        return ctx.graph.backward(layers, rows), None, None, None, None


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, emb: torch.Tensor, graph: Graph, rows: torch.Tensor, num_layers: int, perturb: Perturb | None
    ) -> torch.Tensor:
        ctx.graph = graph
        ctx.save_for_backward(rows)
        current, layers = emb, [emb.index_select(0, rows)]
        for layer in range(1, num_layers + 1):
            if layer == num_layers and perturb is None:
                layers.append(torch.zeros_like(layers[0]))
                graph.add_product_at(current, rows, layers[-1])
                break
            current = graph.product(current, _layer(graph, emb, layer % 2))
            if perturb is not None:
                perturb(current, layer)
            layers.append(current.index_select(0, rows))
        return torch.stack(layers)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (rows,) = ctx.saved_tensors
        return ctx.graph.backward(list(grads[0].unbind(0)), rows), None, None, None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, graph: Graph) -> torch.Tensor:
        ctx.graph = graph
        return graph.product(x, torch.empty_like(x))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return ctx.graph.product(grads[0].contiguous(), torch.empty_like(grads[0])), None
