"""Before jax begins: the processes of a run meet at the coordinator's address and compare notes.

Where a process does not come, jax ends the others with a trace of C++; here it is one line. Process
0 listens. Each other process says who it is and how it is configured, and is told why the run is
refused, or "" where it may begin: one line of JSON each way.
"""

import json
import socket
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from src.running.differences import differences
from src.settings.errors import UserError
from src.settings.hosts import Hosts

LONGEST_LINE = 2**24
PATIENCE = 5.0  # seconds for a line from someone who has connected


def meet(hosts: Hosts, notes: Mapping[str, Any], seconds: float) -> None:
    """Return once all processes are there, and agree in `notes` ({what: value}).

    Raises UserError, in all that have come, where one does not come in time, or does not agree.
    """
    ours = json.loads(json.dumps({"process": hosts.rank, "number": hosts.number, **notes}))
    refusal = (_receive if hosts.rank == 0 else _report)(hosts, ours, seconds)
    if refusal:
        raise UserError(refusal)


def _receive(hosts: Hosts, ours: Mapping[str, Any], seconds: float) -> str:
    """In process 0: hear all others, and tell each what becomes of the run."""
    refusal, guests, deadline = "", {}, time.monotonic() + seconds
    with ExitStack() as stack:
        server = stack.enter_context(_listening(hosts))
        while not refusal and len(guests) < hosts.number - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                guest = stack.enter_context(server.accept()[0])
            except TimeoutError:
                missing = [i for i in range(1, hosts.number) if i not in guests]
                refusal = (
                    f"process {', '.join(map(str, missing))} of num_processes={hosts.number} has "
                    f"not come to coordinator={hosts.address()} in time: start all processes, each "
                    "with its process_id, or choose a larger connect_seconds"
                )
                continue
            theirs = _read(guest, PATIENCE)
            if theirs is None:  # not one of us
                continue
            refusal = _refusal(ours, theirs, guests)
            guests[theirs["process"]] = guest
        for guest in guests.values():
            with suppress(OSError):  # it has left; jax will say so
                _write(guest, {"refusal": refusal})
    return refusal


def _report(hosts: Hosts, ours: Mapping[str, Any], seconds: float) -> str:
    """In any other process: say who this is to process 0, and hear what becomes of the run."""
    address, deadline = f"coordinator={hosts.address()}", time.monotonic() + seconds
    while True:
        left = max(deadline - time.monotonic(), 0.1)
        try:
            guest = socket.create_connection((hosts.host, hosts.port), timeout=left)
            break
        except OSError as error:
            if time.monotonic() >= deadline:
                return (
                    f"{address}: nobody answers there in time ({error.strerror or error}): start "
                    "process 0 on that machine, correct the address, or choose a larger "
                    "connect_seconds"
                )
            time.sleep(min(0.2, left))
    with guest:
        with suppress(OSError):
            _write(guest, ours)
        # Process 0 may have begun later than this one, and waits as long for the last to come.
        told = _read(guest, seconds + 60)
    if told is None or "refusal" not in told:
        return (
            f"{address}: what answers there is not process 0 of this run, or it has ended; see "
            "what it says, and start all processes again"
        )
    return str(told["refusal"])


def _refusal(ours: Mapping[str, Any], theirs: Mapping[str, Any], came: Collection[int]) -> str:
    """Why this process cannot take part; "" where it can."""
    number = theirs["process"]
    if theirs["number"] != ours["number"]:
        return (
            f"num_processes={theirs['number']} in process {number}, {ours['number']} in process 0: "
            "give all processes the same number"
        )
    if number == 0 or number in came:
        return f"process_id={number} was given twice: give each process a number of its own, from 0"
    for what, value in ours.items():
        if what not in ("process", "number") and theirs.get(what) != value:
            how = differences(value, theirs.get(what), "{key} is {first} there, {second} here")
            return (
                f"process {number} was started with another {what} than process 0 ({how}): all "
                "processes need the same, but for process_id"
            )
    return ""


def _listening(hosts: Hosts) -> socket.socket:
    try:
        if hosts.is_here_alone():
            return socket.create_server((hosts.host, hosts.port), family=_family(hosts.host))
        if socket.has_dualstack_ipv6():
            everywhere = ("::", hosts.port)
            return socket.create_server(everywhere, family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", hosts.port))
    except OSError as error:
        raise UserError(
            f"coordinator={hosts.address()}: process 0 cannot listen there ({error.strerror}): "
            "choose another port, the same in all processes, and give process_id=0 to one alone"
        ) from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _write(to: socket.socket, message: Mapping[str, Any]) -> None:
    to.sendall(json.dumps(message).encode() + b"\n")


def _read(whom: socket.socket, seconds: float) -> dict[str, Any] | None:
    """A line of JSON; None where there comes none, or something else."""
    whom.settimeout(seconds)
    try:
        with whom.makefile("rb") as file:
            message = json.loads(file.readline(LONGEST_LINE))
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None
