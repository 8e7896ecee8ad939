"""Control the state that recurrent modules keep between calls, see :mod:`dpnn_bridge.modules.rnn.memory`."""

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.modules.rnn import memory, step_models, stock
from dpnn_bridge.modules.rnn.memory import MODES, Memory, Remembering

__all__ = [
    "MODES",
    "Memory",
    "Remembering",
    "detach",
    "forget",
    "get_hidden_state",
    "max_bptt_step",
    "remember",
    "run_sequence",
    "set_hidden_state",
    "to_stock",
]

# arguments are checked here, because modules call the original functions in code that torch.compile traces
detach = checks_arguments(memory.detach)
forget = checks_arguments(memory.forget)
get_hidden_state = checks_arguments(memory.get_hidden_state)
max_bptt_step = checks_arguments(memory.max_bptt_step)
remember = checks_arguments(memory.remember)
run_sequence = checks_arguments(step_models.run_sequence)
set_hidden_state = checks_arguments(memory.set_hidden_state)
to_stock = checks_arguments(stock.to_stock)
