"""How well the text of each item matches what a user took (METHOD.md section 5, `graded`).

A user with two interests is near the items of both; the sum of all items lies between the two and is near neither. So
each item is compared with each one taken.

I items, B users of a block, e items taken that are compared at a time, r width of a text vector.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch

from hnlm_ray.recommend.config import TextMatchKind
from hnlm_ray.recommend.interactions import UserItems

_ENTRIES_PER_BLOCK = 256
"""e: items taken whose comparison with the whole catalogue is held at a time"""
_HUB_NEIGHBOURS = 10
_BANDWIDTH = np.float32(0.2)


class TextMatch(ABC):
    """Scores items by text alone: each is compared with all that the user took, and one number made of it."""

    _reduce: np.ufunc

    def __init__(self, items_Ir: np.ndarray, train: UserItems) -> None:
        """`items_Ir`: unit rows, zero without text."""
        self._items_Ir, self._train = items_Ir, train
        self._has_text: np.ndarray = np.any(items_Ir, axis=1)

    def scores(self, user_ids: np.ndarray) -> np.ndarray:
        """Float32 [B, I]; 0 where one side has no text."""
        rows, item_ids = self._train.entries(user_ids)
        with_text = self._has_text[item_ids]
        rows, item_ids = rows[with_text], item_ids[with_text]
        out = np.zeros((len(user_ids), self._train.num_items), np.float32)
        for start in range(0, len(rows), _ENTRIES_PER_BLOCK):
            block = rows[start : start + _ENTRIES_PER_BLOCK]
            found, first = np.unique(block, return_index=True)
            compared = self._compare(item_ids[start : start + _ENTRIES_PER_BLOCK])
            reduced = self._reduce.reduceat(compared, first, axis=0)
            if start and rows[start - 1] == block[0]:  # this user began in the block before
                self._reduce(reduced[0], out[block[0]], out=reduced[0])
            out[found] = reduced
        return out

    @abstractmethod
    def _compare(self, item_ids: np.ndarray) -> np.ndarray:
        """Of items taken that have text with the whole catalogue, float32 [e, I]; 0 for items without."""


class NearestText(TextMatch):
    """Cosine with the nearest item that the user took."""

    _reduce = np.maximum

    def _compare(self, item_ids: np.ndarray) -> np.ndarray:
        return self._items_Ir[item_ids] @ self._items_Ir.T


class TextDensity(TextMatch):
    """How densely the user's items lie around each item: the sum over them of exp(c / 0.2), where c is the cosine less
    the mean hubness of the two, and hubness the mean cosine with the ten nearest items (CSLS, Conneau et al., 2018).

    Several items fairly near say more than one that is nearest; what is near everything, as the volumes of a long
    series are, says little. An item that the user took counts what the others say of it.
    """

    _reduce = np.add

    def __init__(self, items_Ir: np.ndarray, train: UserItems) -> None:
        """See `TextMatch`."""
        super().__init__(items_Ir, train)
        self._half_hubness = _hubness(items_Ir, self._has_text) / 2

    def _compare(self, item_ids: np.ndarray) -> np.ndarray:
        exponents = self._items_Ir[item_ids] @ self._items_Ir.T
        exponents -= self._half_hubness
        exponents -= self._half_hubness[item_ids, None]
        exponents /= _BANDWIDTH
        density = np.exp(exponents, out=exponents)
        density[np.arange(len(item_ids)), item_ids] = 0
        density *= self._has_text
        return density


def text_match(kind: TextMatchKind, items_Ir: np.ndarray, train: UserItems) -> TextMatch:
    """The one that `hnlm.text_match` names."""
    return NearestText(items_Ir, train) if kind == "nearest" else TextDensity(items_Ir, train)


def _hubness(items_Ir: np.ndarray, has_text: np.ndarray) -> np.ndarray:
    """Mean cosine of each item with the nearest others, float32 [I]; 0 where there is none."""
    hubness = np.zeros(len(items_Ir), np.float32)
    texts = torch.from_numpy(np.ascontiguousarray(items_Ir[has_text]))
    num_neighbours = min(_HUB_NEIGHBOURS, len(texts) - 1)
    if num_neighbours > 0:
        nearest = [(block @ texts.T).topk(num_neighbours + 1).values for block in texts.split(_ENTRIES_PER_BLOCK)]
        hubness[has_text] = torch.cat(nearest)[:, 1:].mean(dim=1).numpy()  # the first is the item itself
    return hubness
