"""Compiled products of the adjacency with an embedding matrix (numba, CPU).

Rows are computed independently and in a fixed order, so the result does not depend on the number of threads. Each
kernel takes eight neighbours at a time: the row that is summed is read and written once for all of them. `Graph` fills
every row up to a multiple of eight (weight 0), and its indices are unsigned: numba then leaves out the test for
negative ones.

Legend: N nodes, E non-zeros, R wanted rows, T touched rows, D dimension.
"""

import math
from typing import Any

import numpy as np
from numba import njit, prange

from hnlm_ray.recommend.compiled import kernel

_FASTMATH = {"contract"}  # fused multiply-add; sums keep their order
_JIT = {"cache": True, "fastmath": _FASTMATH, "boundscheck": False}


AT_A_TIME = 8
"""Neighbours; the number of non-zeros of every row is a multiple of it."""


@njit(**_JIT, inline="always")
def _gather_row(start, end, indices, weights, x_ND, out_D):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    dim = x_ND.shape[1]
    if start == end:
        out_D[:] = 0
    for edge in range(start, end, AT_A_TIME):
        w0, w1, w2, w3 = weights[edge], weights[edge + 1], weights[edge + 2], weights[edge + 3]
        w4, w5, w6, w7 = weights[edge + 4], weights[edge + 5], weights[edge + 6], weights[edge + 7]
        x0, x1, x2, x3 = x_ND[indices[edge]], x_ND[indices[edge + 1]], x_ND[indices[edge + 2]], x_ND[indices[edge + 3]]
        x4, x5 = x_ND[indices[edge + 4]], x_ND[indices[edge + 5]]
        x6, x7 = x_ND[indices[edge + 6]], x_ND[indices[edge + 7]]
        if edge == start:
            for k in range(dim):
                first = w0 * x0[k] + w1 * x1[k] + w2 * x2[k] + w3 * x3[k]
                out_D[k] = first + w4 * x4[k] + w5 * x5[k] + w6 * x6[k] + w7 * x7[k]
        else:
            for k in range(dim):
                first = out_D[k] + w0 * x0[k] + w1 * x1[k] + w2 * x2[k] + w3 * x3[k]
                out_D[k] = first + w4 * x4[k] + w5 * x5[k] + w6 * x6[k] + w7 * x7[k]


@kernel(fastmath=_FASTMATH)
def product(indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray, x_ND: np.ndarray, out_ND: np.ndarray) -> None:
    """out = A x."""
    for row in prange(len(indptr) - 1):
        _gather_row(indptr[row], indptr[row + 1], indices, weights, x_ND, out_ND[row])


@kernel(fastmath=_FASTMATH)
def product_at(
    indptr: np.ndarray,
    indices: np.ndarray,
    weights: np.ndarray,
    x_ND: np.ndarray,
    rows: np.ndarray,
    out_RD: np.ndarray,
) -> None:
    """out = (A x)[rows]: the last layer is needed only where the batch reads it."""
    for r in prange(len(rows)):
        _gather_row(indptr[rows[r]], indptr[rows[r] + 1], indices, weights, x_ND, out_RD[r])


@kernel(fastmath=_FASTMATH)
def product_of(
    indptr: np.ndarray,
    indices: np.ndarray,
    weights: np.ndarray,
    g_TD: np.ndarray,
    position: np.ndarray,
    out_ND: np.ndarray,
) -> None:
    """out = A g for a g that is zero but in T rows; `position[row]` is its place in g_TD, or -1."""
    dim = g_TD.shape[1]
    for row in prange(len(indptr) - 1):
        out_D = out_ND[row]
        out_D[:] = 0
        for edge in range(indptr[row], indptr[row + 1]):
            place = position[indices[edge]]
            if place >= 0:
                weight, g = weights[edge], g_TD[place]
                for k in range(dim):
                    out_D[k] += weight * g[k]


@njit(**_JIT)
def add_rows(source_RD: np.ndarray, places: np.ndarray, out_TD: np.ndarray) -> None:
    """out[places[r]] += source[r], in the order of r: deterministic, unlike an atomic scatter."""
    dim = source_RD.shape[1]
    for r in range(len(places)):
        source, out = source_RD[r], out_TD[places[r]]
        for k in range(dim):
            out[k] += source[k]


@njit(**_JIT)
def add_selected(source_ND: np.ndarray, rows: np.ndarray, out_RD: np.ndarray) -> None:
    """out[r] += source[rows[r]], without a copy of the selected rows in between."""
    dim = source_ND.shape[1]
    for r in range(len(rows)):
        source, out = source_ND[rows[r]], out_RD[r]
        for k in range(dim):
            out[k] += source[k]


@njit(**_JIT)
def number_rows(rows: np.ndarray, position: np.ndarray, places: np.ndarray) -> int:
    """Give each distinct row a place 0..T-1 (`position`, -1 before), write each row's place; returns T."""
    count = 0
    for r in range(len(rows)):
        if position[rows[r]] < 0:
            position[rows[r]] = count
            count += 1
        places[r] = position[rows[r]]
    return count


_SUMS: dict[str, Any] = {"cache": True, "boundscheck": False, "fastmath": {"contract", "reassoc"}}


@njit(**_SUMS)
def bpr_step(
    final_TD: np.ndarray,
    users: np.ndarray,
    positives: np.ndarray,
    negatives: np.ndarray,
    scale: float,
    grad_TD: np.ndarray,
) -> float:
    """scale * sum of BPR over B pairs; its gradient is added to `grad`.

    Users, positives and negatives [B] name rows: one that the batch reads often is read from cache.
    """
    dim = final_TD.shape[1]
    total: Any = 0.0
    for u, i, j in zip(users, positives, negatives):  # noqa: B905 - numba's zip takes no `strict`
        user, pos, neg = final_TD[u], final_TD[i], final_TD[j]
        score: Any = np.float32(0)
        for k in range(dim):
            score += user[k] * (pos[k] - neg[k])
        total += max(-score, 0.0) + math.log1p(math.exp(-abs(score)))
        slope = np.float32(-scale / (1 + math.exp(score)))
        grad_user, grad_pos, grad_neg = grad_TD[u], grad_TD[i], grad_TD[j]
        for k in range(dim):
            grad_user[k] += slope * (pos[k] - neg[k])
            grad_pos[k] += slope * user[k]
            grad_neg[k] -= slope * user[k]
    return float(scale * total)


@njit(**_SUMS)
def layer0_step(base_TD: np.ndarray, places: np.ndarray, reg: float, scale: float, grad_TD: np.ndarray) -> float:
    """scale * reg / 2 * sum of |base[p]|^2 over the places p; its gradient is added to `grad`."""
    dim = base_TD.shape[1]
    times = np.zeros(len(base_TD), np.float32)
    for place in places:
        times[place] += 1
    squares: Any = 0.0
    for t in range(len(base_TD)):
        base, grad = base_TD[t], grad_TD[t]
        weight = np.float32(scale * reg) * times[t]
        row: Any = np.float32(0)
        for k in range(dim):
            row += base[k] * base[k]
            grad[k] += weight * base[k]
        squares += times[t] * row
    return float(scale * reg / 2 * squares)


@njit(**_SUMS)
def mixed_step(
    layers_LTD: np.ndarray,
    users: np.ndarray,
    positives: np.ndarray,
    negatives_LB: np.ndarray,
    beta_LB: np.ndarray,
    reg: float,
    scale: float,
    grad_LTD: np.ndarray,
) -> float:
    """scale * sum over B pairs of BPR against MixGCF's negative, whose layer l is beta_l e_i + (1 - beta_l) e_(n_l),
    and of reg / 2 * |layer 0|^2 of user, positive and that negative; the gradient is added to `grad`.

    The negative holds a share of the positive, so that e_u.e_i - e_u.e~ is e_u times the mean of
    (1 - beta_l) (e_i - e_(n_l)).
    """
    num_layers, _, dim = layers_LTD.shape
    user, gap = np.empty(dim, np.float32), np.empty(dim, np.float32)
    share, decay = np.float32(1 / num_layers), np.float32(scale * reg)
    total: Any = 0.0
    for b in range(len(users)):
        u, i = users[b], positives[b]
        user[:] = 0
        gap[:] = 0
        for layer in range(num_layers):
            own, pos, neg = layers_LTD[layer, u], layers_LTD[layer, i], layers_LTD[layer, negatives_LB[layer, b]]
            left = share * (np.float32(1) - beta_LB[layer, b])
            for k in range(dim):
                user[k] += share * own[k]
                gap[k] += left * (pos[k] - neg[k])
        score: Any = np.float32(0)
        for k in range(dim):
            score += user[k] * gap[k]
        total += max(-score, 0.0) + math.log1p(math.exp(-abs(score)))
        slope = np.float32(-scale / (1 + math.exp(score)))
        for layer in range(num_layers):
            n = negatives_LB[layer, b]
            grad_user, grad_pos, grad_neg = grad_LTD[layer, u], grad_LTD[layer, i], grad_LTD[layer, n]
            left = slope * share * (np.float32(1) - beta_LB[layer, b])
            for k in range(dim):
                grad_user[k] += slope * share * gap[k]
                grad_pos[k] += left * user[k]
                grad_neg[k] -= left * user[k]
        n, beta = negatives_LB[0, b], beta_LB[0, b]
        own, pos, neg = layers_LTD[0, u], layers_LTD[0, i], layers_LTD[0, n]
        grad_user, grad_pos, grad_neg = grad_LTD[0, u], grad_LTD[0, i], grad_LTD[0, n]
        squares: Any = np.float32(0)
        for k in range(dim):
            mixed = beta * pos[k] + (np.float32(1) - beta) * neg[k]
            squares += own[k] * own[k] + pos[k] * pos[k] + mixed * mixed
            grad_user[k] += decay * own[k]
            grad_pos[k] += decay * (pos[k] + beta * mixed)
            grad_neg[k] += decay * (np.float32(1) - beta) * mixed
        total += reg / 2 * squares
    return float(scale * total)
