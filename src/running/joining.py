"""Joining the other processes of a run, and what they must have in common."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import jax
import numpy as np

from bilevel.types import Tree
from src.running.meeting import meet
from src.running.processes import ONE, Processes
from src.running.provenance import versions
from src.settings.checked import Settings
from src.settings.devices import start_devices
from src.settings.errors import UserError
from src.settings.hosts import hosts_of
from src.settings.placing import on_host

SILENCE_SECONDS = 60  # after which jax takes a process for dead, and ends the others


def joined(config: Mapping[str, Any], settings: Settings) -> Processes:
    """Join the other processes, where the keys name such; jax must not have begun.

    Raises UserError where they do not come, or were started with other keys or packages.
    """
    hosts = hosts_of(settings.coordinator, settings.num_processes, settings.process_id)
    if hosts is None:
        return ONE
    kept = {key: value for key, value in config.items() if key != "process_id"}
    notes = {"configuration": kept, "set of packages": versions()["packages"]}
    meet(hosts, notes, settings.connect_seconds)
    # Its handler would take SIGTERM, of which stopping.py makes a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            hosts.address(),
            hosts.number,
            hosts.rank,
            initialization_timeout=SILENCE_SECONDS,
            heartbeat_timeout_seconds=SILENCE_SECONDS,
            shutdown_timeout_seconds=SILENCE_SECONDS,
            # Where all are on this machine, nobody else needs to reach it.
            coordinator_bind_address=hosts.address() if hosts.is_here_alone() else None,
        )
    except RuntimeError as error:
        raise UserError(
            f"coordinator={hosts.address()}: jax cannot join the other processes ({error}); a run "
            "of several processes needs processes in which nothing else has run"
        ) from error
    start_devices(settings)
    return Processes(hosts.number, hosts.rank)


def refuse_other_data(processes: Processes, data: Tree) -> None:
    """Raises UserError, in all, where a process has read other data than process 0."""
    if processes.number == 1:
        return
    digest = blake2b(digest_size=16)
    for leaf in jax.tree.leaves(on_host(data)):
        digest.update(f"{leaf.dtype} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    digests = processes.said(digest.hexdigest())
    others = [str(rank) for rank, other in enumerate(digests) if other != digests[0]]
    if others:
        raise UserError(
            f"process {', '.join(others)} has read other data than process 0: copy the files of "
            "the data (data.root) of process 0 to its machine"
        )
