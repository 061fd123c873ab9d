"""Which devices a run uses, and what they share out: its seeds, or the tasks of a meta-batch."""

import os
from contextlib import suppress
from typing import Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bilevel.batching import Shares
from bilevel.types import Tree
from src.settings.checked import Settings
from src.settings.errors import UserError

AXIS = "devices"  # of the mesh
REMEDY = {
    "gpu": "install the extra for it (pip install -e '.[cuda]'), or choose platform=cpu",
    "tpu": "install the extra for it (pip install -e '.[tpu]'), or choose platform=cpu",
    "cpu": "choose platform=auto",
}


class Sharing(NamedTuple):
    """What is shared out evenly over the first `number` devices."""

    what: Literal["nothing", "seeds", "tasks"]
    number: int

    def of_tasks(self) -> Shares | None:
        """What shares out tasks in a program of all devices."""
        return Shares(AXIS, self.number) if self.what == "tasks" else None


ALONE = Sharing("nothing", 1)


def start_devices(settings: Settings) -> None:
    """Choose the platform, and on a CPU the number of devices, as long as jax has not begun.

    A CPU is one device per core, or more if asked for: they cost nothing while they are not used.
    Raises UserError where there is no such platform, or where the process has begun with another.
    """
    before = jax.config.values["jax_platforms"]
    asked = settings.devices if isinstance(settings.devices, int) else 1
    flags = os.environ.get("XLA_FLAGS", "")
    by_hand = "xla_force_host_platform_device_count" in flags
    if not by_hand and jax.config.values["jax_num_cpu_devices"] < 0:
        with suppress(RuntimeError):  # it has begun
            jax.config.update("jax_num_cpu_devices", max(asked, _cores()))
    if settings.platform == "auto":
        return
    jax.config.update("jax_platforms", settings.platform)  # without effect once it has begun
    try:
        found = jax.devices()[0].platform
    except (RuntimeError, AssertionError) as error:  # what jax raises where there is none
        reason = (str(error).splitlines() or ["jax finds no such device"])[0]
        raise UserError(
            f"platform={settings.platform}: there is none here ({reason}); "
            f"{REMEDY[settings.platform]}"
        ) from error
    finally:
        jax.config.update("jax_platforms", before)
    if found != settings.platform:
        raise UserError(
            f"platform={settings.platform}: this process computes on {found} already; start a "
            f"process of its own, or choose platform={found}"
        )


def sharing_of(settings: Settings, persistent: bool, there: int, on_cpu: bool) -> Sharing:
    """Seeds are shared out where the devices divide them, else the tasks of a meta-batch.

    there: how many devices there are. devices=auto: as many as divide one of the two; on a CPU seeds alone, as one task already uses
    all cores. Raises UserError where there are not so many devices, or they divide neither.
    """
    tasks = 1 if persistent else settings.meta_batch_size
    if settings.devices == "auto":
        of_tasks = 1 if on_cpu else tasks
        seeds, tasks = (_largest_divisor(size, there) for size in (settings.seeds, of_tasks))
        return _sharing("seeds", seeds) if seeds >= tasks else _sharing("tasks", tasks)
    number = settings.devices
    if number < 1:
        raise UserError(f"devices={number} must be at least 1; choose devices=auto")
    if number > there:
        raise UserError(
            f"devices={number}: there are {there}; choose devices=auto, or at most devices={there}"
            + (", or start a process of its own" if on_cpu else "")
        )
    if settings.seeds % number == 0:
        return _sharing("seeds", number)
    if tasks % number == 0:
        return _sharing("tasks", number)
    fitting = max(_largest_divisor(size, number) for size in (settings.seeds, tasks))
    raise UserError(
        f"devices={number} divides neither seeds={settings.seeds} nor "
        + ("the one task of this problem" if persistent else f"meta_batch_size={tasks}")
        + f"; choose devices={fitting}, or seeds={number}"
    )


def mesh_of(sharing: Sharing) -> Mesh:
    """The devices, as one axis."""
    devices = np.array(jax.devices()[: sharing.number])
    return Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))


def spec_of(sharing: Sharing, of_seeds: bool) -> PartitionSpec:
    """How arrays lie on the mesh: those with an axis of seeds, and all others."""
    return PartitionSpec(AXIS) if of_seeds and sharing.what == "seeds" else PartitionSpec()


def placed(tree: Tree, sharing: Sharing, of_seeds: bool) -> Tree:
    """The arrays bound to the devices that use them."""
    if sharing.number == 1:
        return jax.device_put(tree, jax.devices()[0])
    return jax.device_put(tree, NamedSharding(mesh_of(sharing), spec_of(sharing, of_seeds)))


def _sharing(what: Literal["seeds", "tasks"], number: int) -> Sharing:
    return ALONE if number == 1 else Sharing(what, number)


def _largest_divisor(size: int, most: int) -> int:
    return max(number for number in range(1, most + 1) if size % number == 0)


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
