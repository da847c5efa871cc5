"""Products and their backward against dense float64 algebra, and the compiled kernels on several threads."""

import itertools

import numba
import numpy as np
import pytest
import torch

from hnlm_ray.recommend.graph import Graph
from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.recommend.kernels import AT_A_TIME
from hnlm_ray.recommend.propagation import product, propagate_all, propagate_layers, propagate_mean

NUM_USERS, NUM_ITEMS, DIM = 20, 13, 6


@pytest.fixture(scope="module")
def graph() -> Graph:
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, NUM_USERS - 1, 60), rng.integers(0, NUM_ITEMS, 60)  # the last user has no edges
    return Graph(UserItems.from_pairs(*pairs, NUM_USERS, NUM_ITEMS))


def dense(graph: Graph) -> torch.Tensor:
    matrix = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64)
    for row in range(graph.num_nodes):
        for edge in range(graph.indptr[row], graph.indptr[row + 1]):
            matrix[row, graph.indices[edge]] += float(graph.weights[edge])
    return matrix


def test_the_matrix_is_symmetric_and_normalised(graph: Graph) -> None:
    matrix = dense(graph)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=0)
    degrees = (matrix > 0).sum(1).numpy()
    row = int(np.flatnonzero(degrees)[0])
    column = int(graph.indices[graph.indptr[row]])
    assert matrix[row, column] == pytest.approx(1 / np.sqrt(degrees[row] * degrees[column]))
    assert torch.linalg.eigvalsh(matrix).abs().max() == pytest.approx(1)


def test_rows_are_filled_up_by_neighbours_without_weight(graph: Graph) -> None:
    lengths = np.diff(graph.indptr)
    assert not (lengths % AT_A_TIME).any()
    assert lengths[NUM_USERS - 1] == 0
    neighbours = [set(graph.indices[a:b]) for a, b in itertools.pairwise(graph.indptr)]
    assert [len(row) for row in neighbours] == (dense(graph) > 0).sum(1).tolist()


@pytest.mark.parametrize("num_layers", [0, 1, 2, 3, 4])
def test_rows_and_gradients_equal_dense_algebra(graph: Graph, num_layers: int) -> None:
    torch.manual_seed(num_layers)
    emb = torch.randn(graph.num_nodes, DIM, requires_grad=True)
    rows = torch.randint(0, graph.num_nodes, (15,))
    weights = torch.randn(num_layers + 3, 15, DIM)

    reference = emb.detach().double().requires_grad_()
    layers = [reference]
    for _ in range(num_layers):
        layers.append(dense(graph) @ layers[-1])
    stacked = torch.stack(layers)
    mean = stacked.mean(0)

    own_mean, own_base = propagate_mean(graph, emb, rows, num_layers)
    own_layers = propagate_layers(graph, emb, rows, num_layers)
    torch.testing.assert_close(own_mean.double(), mean[rows], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own_layers.double(), stacked[:, rows], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(propagate_all(graph, emb, num_layers).double(), mean, rtol=1e-5, atol=1e-5)

    ((own_mean * weights[0]).sum() + (own_base * weights[1]).sum() + (own_layers * weights[2:]).sum()).backward()
    loss = (mean[rows] * weights[0]).sum() + (reference[rows] * weights[1]).sum()
    (loss + (stacked[:, rows] * weights[2:]).sum()).backward()
    assert emb.grad is not None
    assert reference.grad is not None
    torch.testing.assert_close(emb.grad.double(), reference.grad, rtol=1e-4, atol=1e-4)


def test_known_values_give_the_same_rows_and_gradients(graph: Graph) -> None:
    emb = torch.randn(graph.num_nodes, DIM, requires_grad=True)
    rows = torch.tensor([3, 3, 30, 0])
    known = propagate_all(graph, emb, 3)
    for given in (None, known):
        emb.grad = None
        mean, base = propagate_mean(graph, emb, rows, 3, given)
        (mean.square().sum() + base.sum()).backward()
        if given is None:
            values, gradient = mean.detach(), emb.grad
    torch.testing.assert_close(mean, values)
    torch.testing.assert_close(emb.grad, gradient)


def test_the_general_product_has_its_own_gradient(graph: Graph) -> None:
    x = torch.randn(graph.num_nodes, DIM, requires_grad=True)
    weights = torch.randn(graph.num_nodes, DIM)
    (product(graph, x) * weights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.double(), dense(graph).T @ weights.double(), rtol=1e-5, atol=1e-5)


def test_threads_do_not_change_a_bit(graph: Graph) -> None:
    emb = torch.randn(graph.num_nodes, DIM)
    before = numba.get_num_threads()
    results = []
    try:
        for threads in {1, numba.config.NUMBA_NUM_THREADS}:
            numba.set_num_threads(threads)
            results.append(propagate_all(graph, emb, 3).clone())
    finally:
        numba.set_num_threads(before)
    assert torch.equal(results[0], results[-1])


def test_the_csr_product_of_other_devices_agrees_with_the_kernels(graph: Graph) -> None:
    emb, rows = torch.randn(graph.num_nodes, DIM), torch.tensor([1, 25, 1])
    other = Graph(UserItems(graph_items(graph).indptr, graph_items(graph).item_ids, NUM_ITEMS))
    other._csr = other._torch_csr()
    torch.testing.assert_close(other.product(emb, torch.empty_like(emb)), graph.product(emb, torch.empty_like(emb)))
    grads = [torch.randn(3, DIM) for _ in range(4)]
    torch.testing.assert_close(other.backward(grads, rows), graph.backward(grads, rows))


def graph_items(graph: Graph) -> UserItems:
    rows, columns = np.nonzero(dense(graph)[:NUM_USERS, NUM_USERS:].numpy())
    return UserItems.from_pairs(rows, columns, NUM_USERS, NUM_ITEMS)
