"""What the machine can do, and what it was doing."""

import os
import platform
import time
from typing import Any

import numpy as np


def matrix_product_rate(size: int = 2048, repeats: int = 5) -> float:
    """GFLOP/s of one large float32 product in XLA, the best of some: the roof of each row."""
    import jax

    draw = np.random.default_rng(0)
    a, b = (jax.numpy.asarray(draw.normal(size=(size, size)), "float32") for _ in range(2))
    multiply = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(multiply(a, b))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(multiply(a, b))
        seconds.append(time.perf_counter() - began)
    return 2e-9 * size**3 / min(seconds)


def machine() -> dict[str, Any]:
    """Processor, cores, load, device, and versions."""
    import jax

    from src.running.provenance import versions
    from src.settings.devices import cores

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": cores(),
        "load": list(os.getloadavg()),
        "device": str(jax.devices()[0].device_kind),
        "gflop_per_second": matrix_product_rate(),
        **versions(),
    }
