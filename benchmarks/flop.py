"""Floating-point operations of one iteration, by formulas: 2 a b c for a product (a, b) x (b, c).

Only matrix products and convolutions are counted, and only those that the mathematics needs, so
the share of the machine's matrix-product rate is a lower bound of how busy it was.

The gradient of a network in all weights costs three times its forward pass, less the product for
the gradient in the inputs, which nobody asks for (`gradient`). An unrolled lower step is a
gradient; to go back through it takes, for each product, one more for each operand
(`second_order`).
"""

from collections.abc import Sequence
from itertools import pairwise


def product(a: int, b: int, c: int) -> float:
    """GFLOP of (a, b) x (b, c)."""
    return 2e-9 * a * b * c


def conv4(images: int, filters: int = 64, size: int = 28, channels: int = 1) -> Sequence[float]:
    """GFLOP of each block of conv4 with stride 2 on square images, forward."""
    layers = []
    for _ in range(4):
        size = -(-size // 2)
        layers.append(product(images * size * size, 9 * channels, filters))
        channels = filters
    return layers


def dense(rows: int, sizes: Sequence[int]) -> Sequence[float]:
    """GFLOP of each layer of a fully connected network, forward."""
    return [product(rows, a, b) for a, b in pairwise(sizes)]


def gradient(layers: Sequence[float]) -> float:
    """Forward, weights, and inputs of all layers but the first."""
    return 3 * sum(layers) - layers[0]


def second_order(layers: Sequence[float]) -> float:
    """Back through one gradient: each of its products has two operands with a cotangent, but those
    with the inputs of the network, which are data, have one."""
    return 2 * gradient(layers) - 2 * layers[0]


def rhg_few_shot(tasks: int, ways: int, lower_steps: int, of_both: bool) -> float:
    """The features of 1 + 15 images per class and their gradient; then lower steps of the head on
    the support set (of_both: on the query set as well), unrolled."""
    support, query = ways, 15 * ways
    features = sum(gradient(conv4(part)) for part in (support, query))
    head = [product(support + query * of_both, 256, ways)]
    # The features are no data here: they have a cotangent too.
    step = 2 * head[0] + 4 * head[0]
    return tasks * (features + lower_steps * step + 3 * product(query, 256, ways))


def maml_few_shot(tasks: int, ways: int, lower_steps: int) -> float:
    """Lower steps of the whole network on the support set, unrolled, and the gradient of F."""
    support = [*conv4(ways), product(ways, 256, ways)]
    query = [*conv4(15 * ways), product(15 * ways, 256, ways)]
    return tasks * (lower_steps * (gradient(support) + second_order(support)) + gradient(query))


def cleaning(sizes: Sequence[int], lower_steps: int, of_both: bool, rows: int = 5000) -> float:
    """Lower steps on all training rows (of_both: on the validation rows too), unrolled, and F."""
    layers = dense(rows, sizes)
    step = gradient(layers) + second_order(layers)
    return lower_steps * step * (1 + of_both) + gradient(layers)
