"""Measure the conversion of a checkpoint larger than memory to .safetensors shards, under a memory limit.

    python benchmarks/bench_large.py [gigabytes] [limit in megabytes]

The checkpoint is a sparse file with mostly zero weights. The shards are not sparse. The kernel limits all private
memory of the program (``RLIMIT_DATA``), including Python and PyTorch. Needs as much disk space as the checkpoint.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from sparse import sparse_model  # pyright: ignore[reportMissingImports]

PROGRAM = """
import re, resource, sys
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
from dpnn_bridge import files
files.convert(sys.argv[1], sys.argv[2], max_shard_size="2GB")
with open("/proc/self/status") as status:
    print(re.search(r"VmHWM:\\s*(\\d+)", status.read())[1])
"""


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 6
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "large.t7"), Path(folder, "out", "model.safetensors")
        sparse_model(source, round(gigabytes * 1e9 / 2**26), 4096)
        start = time.perf_counter()
        command = [sys.executable, "-c", PROGRAM, str(source), str(target), str(megabytes * 1_000_000)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_ARENA_MAX": "2"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        seconds = time.perf_counter() - start
        shards = sorted(target.parent.glob("*.safetensors"))
        print(f"{source.stat().st_size / 1e9:.2f} GB in {len(shards)} shards, limit {megabytes} MB")
        print(f"peak memory {int(re.sub(r'[^0-9]', '', done.stdout)) / 1e3:.0f} MB, {seconds:.0f} s")


if __name__ == "__main__":
    main()
