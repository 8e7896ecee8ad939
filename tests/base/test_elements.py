"""numpy's array interface of Lua tensors."""

import numpy as np
import pytest

from dpnn_bridge.objects import LuaTensor


def test_copy_false_never_copies() -> None:
    tensor = LuaTensor.from_numpy(np.arange(3.0))
    assert np.shares_memory(tensor.__array__(copy=False), tensor.numpy())
    assert np.shares_memory(tensor.__array__(np.float64, copy=False), tensor.numpy())
    assert not np.shares_memory(tensor.__array__(copy=True), tensor.numpy())
    assert np.asarray(tensor, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="cannot convert float64 to float32 without a copy"):
        tensor.__array__("float32", copy=False)
