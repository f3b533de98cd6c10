"""Time what importing this package adds to importing Intake, as cold processes.

    python benchmarks/importing.py

CPU is user + system of a whole process; the programs run in turn, 15 rounds after one
that does not count; each figure is a median, each ratio the median within a round.
"""

import os
import statistics
import sys

ROUNDS = 15
PROGRAMS = (
    "pass",
    "import intake",
    "import intake_idc",
    "import intake, intake_idc",
)


def cpu(code: str) -> float:
    """Run a program in a process of its own; give its seconds of CPU."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], dict(os.environ))
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"{code!r} ended with {status}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run the rounds and print the table."""
    for code in PROGRAMS:
        cpu(code)
    rounds = [[cpu(code) for code in PROGRAMS] for _ in range(ROUNDS)]
    print("| program | CPU s | / `import intake` |")
    print("|---|---:|---:|")
    for at, code in enumerate(PROGRAMS):
        median = statistics.median(found[at] for found in rounds)
        ratio = statistics.median(found[at] / found[1] for found in rounds)
        print(f"| `{code}` | {median:.3f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
