"""
Run the benchmarks, one after the other: ``python -m benchmarks [name ...]``.

Each measures ours beside something else in the same run, prints its table, and names the machine.
Speed is measured here and asserted nowhere.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

#: In this order: short ones first.
PARTS = (
    "point_clouds", "embedding_speed", "training_speed", "prepare_scaling", "serving_load",
)  # fmt: skip


def main() -> None:
    """Run the parts that were asked for, by default all; stop with their number that failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of: {', '.join(PARTS)}")
    asked = parser.parse_args().parts
    unknown = sorted(set(asked) - set(PARTS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    failed = []
    for part in asked or PARTS:
        print(f"\n## {part}\n", flush=True)
        root = Path(__file__).resolve().parent.parent
        if subprocess.run([sys.executable, "-m", f"benchmarks.{part}"], cwd=root).returncode:
            failed.append(part)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
