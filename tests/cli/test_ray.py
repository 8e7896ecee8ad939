"""What the page about thousands of files says of Ray, on a cluster of two nodes of which a worker dies."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_fleet import FATAL, MODEL, copies, run

from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.files.converting import is_converted

PAGE = Path(__file__).parents[2] / "docs/how-to/many-files.md"
TASKS = """
from pathlib import Path
tasks = batch.tasks_for(sorted(Path("in").glob("*.t7")), Path("out"), ".pt")
ray.init("auto")"""


@pytest.fixture
def cluster() -> Iterator[None]:
    utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield
    cluster.shutdown()


@pytest.mark.usefixtures("cluster")
def test_the_page_runs_when_a_worker_dies(tmp_path: Path) -> None:
    copies(tmp_path / "in", 6)
    (tmp_path / "fatal.py").write_text(FATAL.format(marker=str(tmp_path / "killed")))
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "import ray" in block)
    code = code.replace('\nray.init("auto")', TASKS).replace(
        "executor=", f'plugins=("{tmp_path}/fatal.py",), executor='
    )
    for status in ("converted", "skipped"):
        result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert (result.returncode, result.stdout.count(status)) == (0, 6), result.stderr
    assert (tmp_path / "killed").exists()
    assert all(is_converted(MODEL, p) for p in (tmp_path / "out").iterdir())
    assert run(verify_command, tmp_path / "done.jsonl")[:2] == (0, "6 files: 6 equal\n")
