"""Every default that a block declares is what its class does without the field."""

from __future__ import annotations

import pytest
from block_examples import BLOCKS, Block, block_id, example
from lua_equal import differences

from dpnn_bridge import to_lua, to_torch
from dpnn_bridge.conversion import registry

DEFAULTS = [(block, name) for block in BLOCKS for name in block.defaults]
#: fields without which the file is an older one, whose other fields mean something else
MARKS_OLD = {
    ("nn.VolumetricFullConvolution", "adjW"),  # before it the weight had outputs first
    ("nn.ReinforceCategorical", "epsilon"),  # 0 until 2016
}


@pytest.mark.parametrize(("block", "name"), DEFAULTS, ids=lambda v: v if isinstance(v, str) else block_id(v))
def test_a_field_that_a_file_lacks_has_its_default(block: Block, name: str) -> None:
    """Without the field the object converts to what it is with the default."""
    obj = example(block)
    without = obj.changed({name: None})
    if registry.find(without) is not block or (block.names[0], name) in MARKS_OLD:
        pytest.skip("the field tells this variant of the class from another")
    given = obj.changed({name: block.defaults[name]})
    assert differences(to_lua(to_torch(without)), to_lua(to_torch(given))) == []
