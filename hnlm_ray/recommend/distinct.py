"""The distinct rows of a batch, without a sort or a hash: one reused position per node."""

import numpy as np
import torch

from hnlm_ray.recommend import kernels


class DistinctRows:
    """Numbers the rows that a batch touches, in the order they first occur. Not for several threads at a time."""

    def __init__(self, num_nodes: int) -> None:
        self.position = np.full(num_nodes, -1, np.int32)
        """Scratch: -1 everywhere between two calls."""

    def of(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(distinct rows int64 [T], place of each row among them int64 [R]); `rows` int64 [R] on the CPU."""
        places = np.empty(len(rows), np.int64)
        touched = np.empty(kernels.number_rows(rows.numpy(), self.position, places), np.int64)
        touched[places] = rows.numpy()
        self.position[touched] = -1
        return torch.from_numpy(touched), torch.from_numpy(places)
