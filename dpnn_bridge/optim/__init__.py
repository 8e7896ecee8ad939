"""Continue training with optimizers in the state of Torch7's ``optim`` package, and export their state.

>>> from dpnn_bridge import optim
>>> checkpoint = dpnn_bridge.read_t7("checkpoint.t7")                                # doctest: +SKIP
>>> optimizer = optim.from_lua("sgd", checkpoint["optimState"], model)               # doctest: +SKIP
>>> checkpoint["optimState"] = optim.to_lua(optimizer, model)                        # doctest: +SKIP

The next step of the optimizer equals Torch7's next step. If PyTorch's formula is the same, the optimizer is PyTorch's.
Otherwise it is a class of this package whose hyperparameters and state have PyTorch's names, so that schedulers,
``state_dict`` and ``torch.optim.Adam(...).load_state_dict(ours.state_dict())`` work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpnn_bridge.base.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dpnn_bridge.optim.exact import ASGD, NAG, SGD, Adam
    from dpnn_bridge.optim.full_batch import CG, LBFGS, Rprop
    from dpnn_bridge.optim.methods import from_lua, to_lua
    from dpnn_bridge.optim.momentum import MomentumSGD

__all__ = ["ASGD", "CG", "LBFGS", "NAG", "SGD", "Adam", "MomentumSGD", "Rprop", "from_lua", "to_lua"]

_MODULES = {
    **dict.fromkeys(("ASGD", "Adam", "NAG", "SGD"), "optim.exact"),
    **dict.fromkeys(("CG", "LBFGS", "Rprop"), "optim.full_batch"),
    **dict.fromkeys(("from_lua", "to_lua"), "optim.methods"),
    "MomentumSGD": "optim.momentum",
}

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
