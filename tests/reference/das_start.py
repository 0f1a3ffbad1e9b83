"""The rotation that a seed of `fit-directions` starts DAS from, drawn anew: src/directions/das/haar.rs in f64.

Random bits are ChaCha20's, normal numbers a ziggurat's (Doornik 2005), both as the crates rand_chacha and rand_distr have them.
"""

import math

import numpy as np
import torch

# Where the ziggurat's tail begins, and the area of each of its 256 layers.
TAIL = 3.654152885361008796
AREA = 0.00492867323399
BLOCKS = 1 << 10


def rotation_start(width, seed):
    """T, (width, width): the strictly lower triangle of a Haar-random orthogonal matrix."""
    draw = normals(seed)
    vectors, signs = np.zeros((width, width)), np.ones(width)
    for row, vector in enumerate(vectors):
        # Ours draws in f32.
        vector[row:] = np.float32([next(draw) for _ in range(width - row)])
        signs[row] = -1.0 if vector[row] < 0 else 1.0
    matrix = np.diag(np.append(-signs[:-1], signs[-1]))
    # The product of the Householder reflections of vectors of decreasing length (Stewart 1980).
    for row in reversed(range(width - 1)):
        vector = vectors[row].copy()
        vector[row] += signs[row] * np.linalg.norm(vector)
        matrix -= np.outer(2 / (vector @ vector) * vector, vector @ matrix)
    return torch.tensor(matrix).tril(-1)


def normals(seed):
    edges, heights = ziggurat()
    draw = whole_numbers(seed)
    unit = lambda: (next(draw) >> 11) * 2.0**-53
    open_unit = lambda: ((next(draw) >> 12) + 0.5) * 2.0**-52
    while True:
        bits = next(draw)
        layer, u = bits & 0xFF, (bits >> 12) * 2.0**-51 - 1.0
        x = u * edges[layer]
        if abs(x) < edges[layer + 1]:
            yield x
        elif layer == 0:
            beyond, limit = 1.0, 0.0
            while -2.0 * limit < beyond * beyond:
                beyond, limit = math.log(open_unit()) / TAIL, math.log(open_unit())
            yield beyond - TAIL if u < 0.0 else TAIL - beyond
        elif heights[layer + 1] + (heights[layer] - heights[layer + 1]) * unit() < density(x):
            yield x


def density(x):
    return math.exp(-x * x / 2)


def ziggurat():
    """Edges of the layers, outermost first, and the density there."""
    edges = [AREA / density(TAIL), TAIL]
    while len(edges) < 256:
        edges.append(math.sqrt(-2 * math.log(AREA / edges[-1] + density(edges[-1]))))
    edges.append(0.0)
    return edges, [density(edge) for edge in edges]


def whole_numbers(seed):
    """64 bits each."""
    key, state = [], seed
    for _ in range(8):
        # PCG32 spreads the seed over the key.
        state = (state * 0x5851F42D4C957F2D + 0xA17654E46FBE17F3) % 2**64
        word, turn = ((state >> 18 ^ state) >> 27) % 2**32, state >> 59
        key.append((word >> turn | word << (32 - turn)) % 2**32)
    counter = 0
    while True:
        words = chacha20(key, np.arange(counter, counter + BLOCKS, dtype=np.uint64))
        yield from words.view(np.uint64).ravel().tolist()
        counter += BLOCKS


def chacha20(key, counters):
    """16 words of 32 bits for every counter (Bernstein 2008: the counter has 64 bits, the stream is number 0)."""
    state = np.zeros((16, len(counters)), np.uint32)
    state[:4] = np.frombuffer(b"expand 32-byte k", np.uint32)[:, None]
    state[4:12] = np.uint32(key)[:, None]
    state[12], state[13] = counters & np.uint64(0xFFFFFFFF), counters >> np.uint64(32)
    mixed = state.copy()

    def add(a, b, d, turn):
        mixed[a] += mixed[b]
        mixed[d] ^= mixed[a]
        mixed[d] = mixed[d] << np.uint32(turn) | mixed[d] >> np.uint32(32 - turn)

    for _ in range(10):
        columns = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
        diagonals = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
        for a, b, c, d in columns + diagonals:
            add(a, b, d, 16)
            add(c, d, b, 12)
            add(a, b, d, 8)
            add(c, d, b, 7)
    return np.ascontiguousarray((mixed + state).T)
