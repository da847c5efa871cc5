"""Does the engine make the vectors that the trained encoder makes? Asked before a single pair is embedded."""

from typing import Any

import numpy as np

MAX_DIFFERENCE_FP32 = 1e-4
MIN_COSINE_LOW_PRECISION = 0.999


class ParityError(RuntimeError):
    """The engine's vectors are not those of the trained encoder: embedding with it would be silently wrong."""


def check_parity(trained_Nd: np.ndarray, engine_Nd: np.ndarray, dtype: str) -> dict[str, Any]:
    """Compare unit vectors of the same texts; returns the differences, which go into the artifact.

    In float32 no component may differ by 1e-4 or more; in 16 bits every cosine must exceed 0.999.

    Raises `ParityError` where that does not hold.
    """
    if trained_Nd.shape != engine_Nd.shape:
        raise ParityError(
            f"the engine returns vectors of shape {engine_Nd.shape}, the trained encoder {trained_Nd.shape}"
        )
    difference = float(np.abs(trained_Nd - engine_Nd).max())
    norms = np.linalg.norm(trained_Nd, axis=1) * np.linalg.norm(engine_Nd, axis=1)
    cosine = float(((trained_Nd * engine_Nd).sum(1) / np.maximum(norms, 1e-12)).min())
    same = difference < MAX_DIFFERENCE_FP32 if dtype == "float32" else cosine > MIN_COSINE_LOW_PRECISION
    if not same:  # also when either is NaN
        raise ParityError(
            f"engine ({dtype}) and trained encoder differ on {len(trained_Nd)} texts: largest difference "
            f"{difference:.2e}, smallest cosine {cosine:.6f}; nothing was embedded. Try embed.dtype=float32; "
            "if that fails too, the merged model or its pooling is not what was trained"
        )
    return {"num_rows": len(trained_Nd), "dtype": dtype, "max_difference": difference, "min_cosine": cosine}
