"""The processes of a run as the keys name them: where process 0 is, how many, which one this is."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from src.settings.errors import UserError

PROCESS_KEYS = ("coordinator", "num_processes", "process_id", "connect_seconds")
SLURM = "slurm"
# What srun tells each of its tasks: the job, its machines, how many tasks, and which one.
SLURM_NAMES = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")


class Hosts(NamedTuple):
    """host, port: of process 0. number: of processes. rank: of this one."""

    host: str
    port: int
    number: int
    rank: int

    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def is_here_alone(self) -> bool:
        """Whether all processes are on this machine."""
        return self.host in ("localhost", "127.0.0.1", "::1")


def check_hosts(
    coordinator: str | None, num_processes: int, process_id: int, connect_seconds: float
) -> None:
    """Raises UserError where the keys do not go together."""
    if num_processes < 1:
        raise UserError(f"num_processes={num_processes} must be at least 1")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"process_id={process_id} is outside 0..{num_processes - 1}, the processes of "
            f"num_processes={num_processes}; give each process a number of its own, from 0"
        )
    if not 0 < connect_seconds <= 86400:
        raise UserError(
            f"connect_seconds={connect_seconds:g} is outside 0..86400; choose connect_seconds=60"
        )
    if coordinator is None and num_processes > 1:
        raise UserError(
            f"num_processes={num_processes} needs coordinator=HOST:PORT: the machine of process 0, "
            "and a free port on it, the same in all processes"
        )
    if coordinator == SLURM and num_processes > 1:
        raise UserError(
            f"coordinator=slurm takes the number of processes from Slurm: leave out num_processes="
            f"{num_processes} and process_id, and choose srun --ntasks={num_processes}"
        )
    if coordinator not in (None, SLURM):
        _host_and_port(coordinator)
        if num_processes == 1:
            raise UserError(
                f"coordinator={coordinator} is for several processes, but num_processes=1; choose "
                "num_processes=2 or more, or coordinator=null"
            )


def refuse_sweep(coordinator: str | None) -> None:
    """Raises UserError where the jobs of a sweep are to be run by several processes each.

    A launcher starts jobs on its own, and processes can join one run only.
    """
    if coordinator is not None:
        raise UserError(
            f"coordinator={coordinator} is for one run, not for a sweep (-m), whatever its "
            "launcher: leave out coordinator, num_processes and process_id, or start the runs one "
            "by one without -m"
        )


def hosts_of(
    coordinator: str | None,
    num_processes: int,
    process_id: int,
    environment: Mapping[str, str] = os.environ,
) -> Hosts | None:
    """None for one process. Raises UserError where Slurm is asked, but has not started this."""
    if coordinator == SLURM:
        hosts = _by_slurm(environment)
        return hosts if hosts.number > 1 else None
    if coordinator is None:
        return None
    return Hosts(*_host_and_port(coordinator), num_processes, process_id)


def _host_and_port(coordinator: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\s\[\]]+)):([0-9]{1,5})", coordinator)
    if found is None or not 1 <= int(found[3]) <= 65535:
        raise UserError(
            f"coordinator={coordinator} is no HOST:PORT: write the machine of process 0 and a free "
            "port on it (1 to 65535), such as coordinator=node1:29500, or coordinator=slurm"
        )
    return found[1] or found[2], int(found[3])


def _by_slurm(environment: Mapping[str, str]) -> Hosts:
    """Process 0 is on the first machine of the step; the port follows from the job."""
    missing = [name for name in SLURM_NAMES if name not in environment]
    if missing:
        raise UserError(
            f"coordinator=slurm, but Slurm has not started this process ({missing[0]} is not set): "
            "start it with srun, or choose coordinator=HOST:PORT"
        )
    job, nodes, number, rank = (environment[name] for name in SLURM_NAMES)
    # node7, or node7,node9, or node[07-09,12]: the first is what stands before a comma or a dash.
    first = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    assert first is not None
    host = first[1] + (first[2] or "")
    return Hosts(host, 61440 + int(job) % 4096, int(number), int(rank))
