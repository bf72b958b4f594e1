"""An order of the keyframes that keeps the reduced system of a global bundle adjustment narrow."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee


def narrow_order(count: int, pairs: np.ndarray) -> np.ndarray:
    """Permutation of ``count`` keyframes, int64 [N]: new place -> keyframe.

    ``pairs`` [E, 2]: source and target of the edges. Eliminating the depths of a source couples it with all its targets
    and those with each other. Reverse Cuthill-McKee (Cuthill and McKee, ACM 1969, reversed by George) puts what is
    coupled close together; where that needs more room than the order of the video, as on a drive without loops, the
    order of the video stays.
    """
    coupling = coupled_keyframes(count, pairs)
    video = np.arange(count, dtype=np.int64)
    order = reverse_cuthill_mckee(coupling, symmetric_mode=True).astype(np.int64)
    return order if envelope_size(coupling, order) < envelope_size(coupling, video) else video


def coupled_keyframes(count: int, pairs: np.ndarray) -> csr_array:
    """Which keyframes share an equation of the reduced system, sparse [N, N], symmetric, diagonal included."""
    rows = np.concatenate([np.arange(count), pairs[:, 0]])
    columns = np.concatenate([np.arange(count), pairs[:, 1]])
    touched = coo_array((np.ones(len(rows), np.int32), (rows, columns)), shape=(count, count)).tocsr()
    return csr_array(touched.T @ touched)


def envelope_size(coupling: csr_array, order: np.ndarray) -> int:
    """Blocks between the first coupled column of every row and the diagonal."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    entries = coupling.tocoo()
    first = place.copy()
    np.minimum.at(first, entries.row, place[entries.col])
    return int((place - first).sum())
