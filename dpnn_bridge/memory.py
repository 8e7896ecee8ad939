"""What recurrent modules remember between calls, as :mod:`dpnn_bridge.modules.rnn.memory` describes it."""

from dpnn_bridge.modules.rnn.memory import (
    MODES,
    Memory,
    Remembering,
    detach,
    forget,
    get_hidden_state,
    max_bptt_step,
    remember,
    set_hidden_state,
)

__all__ = [
    "MODES",
    "Memory",
    "Remembering",
    "detach",
    "forget",
    "get_hidden_state",
    "max_bptt_step",
    "remember",
    "set_hidden_state",
]
