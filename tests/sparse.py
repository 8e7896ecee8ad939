"""Large models in sparse files, for tests and benchmarks."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import numpy as np

from dpnn_bridge.loaders import write_t7
from dpnn_bridge.loaders.sink import BinarySink
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor


def sparse_model(path: Path, layers: int, size: int = 2048) -> None:
    """An ``nn.Sequential`` of ``nn.Linear`` layers; all but the first elements of a weight are a hole in the file."""

    def linear(seed: int) -> LuaObject:
        storage = LuaStorage("torch.FloatStorage", size * size, lambda: first(seed))
        bias = np.random.default_rng(seed).normal(size=size).astype(np.float32)
        fields = {
            "weight": LuaTensor("torch.FloatTensor", (size, size), (size, 1), 0, storage),
            "bias": LuaTensor.from_numpy(bias),
            "_type": "torch.FloatTensor",
        }
        return LuaObject("nn.Linear", LuaTable(fields))

    def first(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=1000).astype(np.float32)

    whole = BinarySink.storage

    def sparse(sink: BinarySink, storage: LuaStorage) -> None:
        if storage.size != size * size:
            whole(sink, storage)
            return
        sink.long(storage.size)
        sink.flush()
        data = storage.copy()
        sink._file.write(data.data)
        sink._file.seek(storage.size * data.itemsize - data.nbytes, os.SEEK_CUR)

    modules = LuaTable.from_list([linear(i) for i in range(layers)])
    with mock.patch.object(BinarySink, "storage", sparse):
        write_t7(path, LuaObject("nn.Sequential", LuaTable({"modules": modules})), verify=False)
