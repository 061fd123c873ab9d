"""Which devices a run uses, and what they share out: its seeds, or the tasks of a meta-batch."""

import os
from typing import Literal, NamedTuple

import jax

from bilevel.batching import Shares
from src.settings.checked import Settings
from src.settings.errors import UserError

AXIS = "devices"  # of the mesh
EXTRAS = {"gpu": "pip install -e '.[cuda]'", "tpu": "pip install -e '.[tpu]'"}
# As jax names them.
BACKENDS = {"cpu": ("cpu",), "gpu": ("cuda,cpu", "rocm,cpu"), "tpu": ("tpu,cpu",)}


class Sharing(NamedTuple):
    """What is shared out evenly over `number` devices: the first ones of each process."""

    what: Literal["nothing", "seeds", "tasks"]
    number: int
    processes: int = 1

    def of_tasks(self) -> Shares | None:
        """What shares out tasks in a program of all devices."""
        return Shares(AXIS, self.number) if self.what == "tasks" else None


ALONE = Sharing("nothing", 1)


def start_devices(settings: Settings) -> None:
    """Choose the platform, and on a CPU the number of devices, as long as jax has not begun.

    A CPU is one device per core, or more if asked for: they cost nothing while they are not used.
    Raises UserError where there is no such platform, or where the process has begun with another.
    """
    begun = has_begun(settings)
    platform = settings.platform
    if platform == "auto" or (not begun and _begins_with(platform)):
        return
    if not begun:
        extra = "" if platform == "cpu" else f"install the extra for it ({EXTRAS[platform]}), or "
        raise UserError(f"platform={platform}: jax finds none here; {extra}choose platform=auto")
    found = jax.devices()[0].platform
    if found != platform:
        raise UserError(
            f"platform={platform}: this process computes on {found} already; start a process of "
            f"its own, or choose platform={found}"
        )


def has_begun(settings: Settings) -> bool:
    """Whether jax has its devices: then this process has computed something already.

    If not, a CPU will be as many devices as settings.devices asks for, or one per core.
    """
    devices = settings.devices if isinstance(settings.devices, int) else 1
    by_hand = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    number = jax.config.values["jax_num_cpu_devices"]
    if number < 0 and not by_hand:
        number = max(devices, cores())
    try:
        # jax refuses any other number once it has begun, and the same one never.
        for value in (number + 1, number):
            jax.config.update("jax_num_cpu_devices", value)
    except RuntimeError:
        return True
    return False


def _begins_with(platform: str) -> bool:
    """Let jax choose its devices, of this platform; False where it finds none."""
    before = jax.config.values["jax_platforms"]
    for names in BACKENDS[platform]:
        try:
            jax.config.update("jax_platforms", names)
            return jax.devices()[0].platform == platform
        except (RuntimeError, AssertionError):  # what jax raises where there is none
            continue
        finally:
            jax.config.update("jax_platforms", before)
    return False


def sharing_of(
    settings: Settings, persistent: bool, there: int, on_cpu: bool, processes: int = 1
) -> Sharing:
    """Seeds are shared out where the devices divide them, else the tasks of a meta-batch.

    there: how many devices there are, in all processes together; each has as many. devices=auto: as
    many as divide one of the two; on a CPU tasks go to one device of each process, as one task
    already uses all cores. Raises UserError where there are not so many devices, or they divide
    neither.
    """
    tasks = 1 if persistent else settings.meta_batch_size

    def largest(size: int, most: int) -> int:
        """The most devices that divide `size`, as many in each process; 0 where none do."""
        return max((n for n in range(processes, most + 1, processes) if size % n == 0), default=0)

    if settings.devices == "auto":
        of_seeds = largest(settings.seeds, there)
        of_tasks = largest(tasks, processes if on_cpu else there)
        if max(of_seeds, of_tasks) == 0:
            raise _indivisible(settings, persistent, processes)
        if of_seeds >= of_tasks:
            return _sharing("seeds", of_seeds, processes)
        return _sharing("tasks", of_tasks, processes)
    number = settings.devices
    if number < 1:
        raise UserError(f"devices={number} must be at least 1; choose devices=auto")
    if number > there:
        raise UserError(
            f"devices={number}: there are {there}; choose devices=auto, or at most devices={there}"
            + (", or start a process of its own" if on_cpu else "")
        )
    if number % processes:
        raise UserError(
            f"devices={number} counts those of all processes together, and {processes} processes "
            f"do not divide it; choose devices={number - number % processes or processes}, or "
            "devices=auto"
        )
    if settings.seeds % number == 0:
        return _sharing("seeds", number, processes)
    if tasks % number == 0:
        return _sharing("tasks", number, processes)
    fitting = max(largest(settings.seeds, number), largest(tasks, number))
    if fitting == 0:
        raise _indivisible(settings, persistent, processes)
    raise UserError(
        f"devices={number} divides neither {_work(settings, persistent)}; choose "
        f"devices={fitting}, or seeds={number}"
    )


def _sharing(what: Literal["seeds", "tasks"], number: int, processes: int) -> Sharing:
    return ALONE if number == 1 else Sharing(what, number, processes)


def _work(settings: Settings, persistent: bool) -> str:
    """What there is to share out."""
    return f"seeds={settings.seeds} nor " + (
        "the one task of this problem"
        if persistent
        else f"meta_batch_size={settings.meta_batch_size}"
    )


def _indivisible(settings: Settings, persistent: bool, processes: int) -> UserError:
    return UserError(
        f"num_processes={processes} divides neither {_work(settings, persistent)}, so there is no "
        f"equal share for each process; choose seeds={processes}, or other processes"
    )


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
