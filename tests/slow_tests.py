"""Which tests `make test` leaves out: those of more than 1.5 seconds of CPU time, as measured.

    make test-ci MEASURE_CPU=1 && python -m tests.slow_tests

writes the list anew, into tests/slow_tests.txt. The first test of a file often pays for what
all share (a trained run, a compiled program); without it the next one does. So measure the rest:

    make test MEASURE_CPU=1 && python -m tests.slow_tests

Tests that did not run keep their place in the list.
"""

import resource
from collections.abc import Iterable
from pathlib import Path

LIST = Path(__file__).with_suffix(".txt")
MEASURED = LIST.parents[1] / "build/cpu_seconds"  # a file of "seconds<tab>test" for each worker
MOST_SECONDS = 1.5


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


def listed() -> set[str]:
    return set(LIST.read_text(encoding="utf-8").splitlines())


def slow(lines: Iterable[str]) -> list[str]:
    """The tests of these lines that take longer than 1.5 seconds, and the listed ones not there."""
    seconds = {
        name: float(spent) for spent, name in (line.rstrip("\n").split("\t", 1) for line in lines)
    }
    kept = listed() - seconds.keys()
    return sorted(kept | {name for name, spent in seconds.items() if spent > MOST_SECONDS})


def main() -> None:
    files = sorted(MEASURED.glob("*.tsv"))
    if not files:
        raise SystemExit("nothing is measured yet: make test-ci MEASURE_CPU=1")
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    found = slow(lines)
    LIST.write_text("\n".join(found) + "\n", encoding="utf-8")
    print(f"{len(lines)} tests were measured; {len(found)} are now listed as slow: {LIST}")


if __name__ == "__main__":
    main()
