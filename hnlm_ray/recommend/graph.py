"""The normalised user-item graph: A = S^-1/2 [[0, R], [R^T, 0]] S^-1/2, nodes 0..U-1 users, U..U+I-1 items.

A is symmetric: the backward of y = A x is A grad_y, the same product, so no transpose is ever built.
On the CPU the products are compiled (`kernels`); on other devices torch's CSR product does the same.
"""

import warnings

import numpy as np
import torch

from hnlm_ray.recommend import kernels
from hnlm_ray.recommend.distinct import DistinctRows
from hnlm_ray.recommend.interactions import UserItems


class Graph:
    """Products of A with [N, D] matrices, N = U + I. Scratch buffers are reused: a big fresh allocation costs more
    than a product of a small graph."""

    def __init__(self, user_items: UserItems, device: torch.device | str = "cpu") -> None:
        num_users, num_items = user_items.num_users, user_items.num_items
        self.num_users, self.num_items, self.num_nodes = num_users, num_items, num_users + num_items
        by_item = np.argsort(user_items.item_ids, kind="stable")
        degrees = np.concatenate([user_items.counts, user_items.item_counts])
        indices = np.concatenate([user_items.item_ids + num_users, user_items.user_ids[by_item]]).astype(np.uint32)
        scale = 1 / np.sqrt(np.maximum(degrees, 1))  # a node without edges has an empty row: any finite scale will do
        weights = (np.repeat(scale, degrees) * scale[indices]).astype(np.float32)
        self.indptr, self.indices, self.weights = _filled_up(degrees, indices, weights)
        self.device = torch.device(device)
        self._csr = None if self.device.type == "cpu" else self._torch_csr()
        self._scratch: dict[tuple[str, int, torch.dtype], torch.Tensor] = {}
        self._distinct = DistinctRows(self.num_nodes)

    def scratch(self, name: str, dim: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A reused [N, dim] buffer with undefined content."""
        key = (name, dim, dtype)
        if key not in self._scratch:
            self._scratch[key] = torch.empty(self.num_nodes, dim, dtype=dtype, device=self.device)
        return self._scratch[key]

    def product(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """out = A x; both [N, D], no autograd."""
        if self._csr is None:
            kernels.product(self.indptr, self.indices, self.weights, x.detach().numpy(), out.numpy())
        else:
            out.copy_(self._csr.to(x.dtype) @ x.detach())
        return out

    def add_at(self, x: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> None:
        """out += x[rows], [R, D], no autograd."""
        if self._csr is None:
            kernels.add_selected(x.detach().numpy(), rows.numpy(), out.numpy())
        else:
            out += x.detach().index_select(0, rows)

    def add_product_at(self, x: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> None:
        """out += (A x)[rows], [R, D], no autograd."""
        if self._csr is not None:
            out += (self._csr.to(x.dtype) @ x.detach()).index_select(0, rows)
            return
        touched, places = self._distinct.of(rows)
        products = self.scratch("products", x.shape[1])[: len(touched)]
        source = x.detach().numpy()
        kernels.product_at(self.indptr, self.indices, self.weights, source, touched.numpy(), products.numpy())
        self.add_at(products, places, out)

    def backward(self, grads_LRD: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """Gradient [N, D] with respect to layer 0, from the gradients of each layer's `rows`.

        With E_l = A^l E_0 it is sum_l A^l G_l = G_0 + A (G_1 + A (G_2 + ...)): L products, the innermost of a G
        that is zero outside the batch. Equal entries of `grads_LRD` (the same object) are scattered once.
        """
        if self._csr is not None:
            return self._backward_torch(grads_LRD, rows)
        dim = grads_LRD[0].shape[1]
        touched, places = (index.numpy() for index in self._distinct.of(rows))
        compact: dict[int, np.ndarray] = {}
        for grad in grads_LRD:
            if id(grad) not in compact:
                compact[id(grad)] = _summed(grad.contiguous().numpy(), places, len(touched))
        layers = [compact[id(grad)] for grad in grads_LRD]
        total = np.empty((self.num_nodes, dim), np.float32)  # fresh: autograd keeps it as the parameter's .grad
        if len(layers) == 1:
            total[:] = 0
        else:  # two buffers in turn, such that the last product lands in `total`
            other = self.scratch("grad", dim).numpy()
            current, spare = (total, other) if len(layers) % 2 == 0 else (other, total)
            self._product_of(layers[-1], touched, current, spare)
            for layer in reversed(layers[1:-1]):
                kernels.add_rows(layer, touched, current)
                kernels.product(self.indptr, self.indices, self.weights, current, spare)
                current, spare = spare, current
        kernels.add_rows(layers[0], touched, total)
        return torch.from_numpy(total)

    def _product_of(self, g_TD: np.ndarray, touched: np.ndarray, out_ND: np.ndarray, spare_ND: np.ndarray) -> None:
        """out = A g for a g that is zero but in the rows `touched`; if many, by the full product."""
        if 2 * len(touched) > self.num_nodes:
            spare_ND[:] = 0
            kernels.add_rows(g_TD, touched, spare_ND)
            kernels.product(self.indptr, self.indices, self.weights, spare_ND, out_ND)
            return
        position = self._distinct.position
        position[touched] = np.arange(len(touched), dtype=np.int32)
        kernels.product_of(self.indptr, self.indices, self.weights, g_TD, position, out_ND)
        position[touched] = -1

    def _backward_torch(self, grads_LRD: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        assert self._csr is not None
        csr = self._csr.to(grads_LRD[0].dtype)
        total = torch.zeros(self.num_nodes, grads_LRD[0].shape[1], dtype=csr.dtype, device=self.device)
        total.index_add_(0, rows, grads_LRD[-1])
        for grad in reversed(grads_LRD[:-1]):
            total = csr @ total
            total.index_add_(0, rows, grad)
        return total

    def _torch_csr(self) -> torch.Tensor:
        real = self.weights > 0
        rows = np.repeat(np.arange(self.num_nodes), np.diff(self.indptr))[real]
        with warnings.catch_warnings():  # torch calls its CSR layout beta
            warnings.simplefilter("ignore", UserWarning)
            return torch.sparse_csr_tensor(
                torch.from_numpy(_starts(np.bincount(rows, minlength=self.num_nodes))),
                torch.from_numpy(self.indices[real].astype(np.int64)),
                torch.from_numpy(self.weights[real]),
                (self.num_nodes, self.num_nodes),
                device=self.device,
            )


def _summed(grad_RD: np.ndarray, places: np.ndarray, num_places: int) -> np.ndarray:
    """The sum of the rows of each place, [num_places, D]; where every row has its own, the rows as they are."""
    if len(grad_RD) == num_places:
        return grad_RD
    sum_TD = np.zeros((num_places, grad_RD.shape[1]), np.float32)
    kernels.add_rows(grad_RD, places, sum_TD)
    return sum_TD


def _filled_up(
    degrees: np.ndarray, indices: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(indptr, indices, weights) with every row filled up as `kernels` wants it: by its last neighbour, weight 0.

    That row of the matrix is at hand then, and no value gets in that the row has not already.
    """
    filled = -(-degrees // kernels.AT_A_TIME) * kernels.AT_A_TIME
    ends = np.repeat(np.cumsum(degrees), filled - degrees)
    return _starts(filled), np.insert(indices, ends, indices[ends - 1]), np.insert(weights, ends, np.float32(0))


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
