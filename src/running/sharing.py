"""Seeds or tasks on several devices: one program per device, by `jax.shard_map`.

Seeds do not speak with each other. The tasks of a meta-batch do once per iteration, where their
gradients are summed; everything else is then the same on every device.
"""

from collections.abc import Callable, Sequence

import jax

from src.settings.devices import Sharing
from src.settings.placing import mesh_of, spec_of


def seeds_of_device(seeds: int, sharing: Sharing) -> int:
    """How many of the seeds one device has."""
    return seeds // sharing.number if sharing.what == "seeds" else seeds


def spread(function: Callable, sharing: Sharing, of_seeds: Sequence[bool]) -> Callable:
    """`function` on all devices; of_seeds: which arguments have an axis of seeds (results do).

    The function is that of one device: of its share of the seeds, or with the whole of everything.
    """
    if sharing.number == 1:
        return function
    specs = tuple(spec_of(sharing, has_axis) for has_axis in of_seeds)
    return jax.shard_map(
        function,
        mesh=mesh_of(sharing),
        in_specs=specs,
        out_specs=spec_of(sharing, True),
        check_vma=False,
    )
