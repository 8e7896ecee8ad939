"""Recurrent layers of cuDNN (``cudnn.LSTM`` and similar), whose parameters are one flat vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import Field, Layout
from dpnn_bridge.conversion.lua_class import LuaClass, ParameterSite
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.run_buffers import RunBuffers
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

_RNN_TYPES: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "CUDNN_LSTM": (nn.LSTM, {}),
    "CUDNN_GRU": (nn.GRU, {}),
    "CUDNN_RNN_TANH": (nn.RNN, {"nonlinearity": "tanh"}),
    "CUDNN_RNN_RELU": (nn.RNN, {"nonlinearity": "relu"}),
}
_MODES = {"LSTM": "CUDNN_LSTM", "GRU": "CUDNN_GRU", "RNN_TANH": "CUDNN_RNN_TANH", "RNN_RELU": "CUDNN_RNN_RELU"}


@lua_class("cudnn.RNN", "cudnn.LSTM", "cudnn.BLSTM", "cudnn.GRU", "cudnn.BGRU", "cudnn.RNNReLU", "cudnn.RNNTanh")
class CudnnRNN(RunBuffers):
    """A recurrent layer of PyTorch that returns only its outputs and can keep its states between calls.

    Args:
        rnn: :class:`torch.nn.LSTM`, :class:`torch.nn.GRU` or :class:`torch.nn.RNN`.
        remember_states: start from the states of the previous call if its batch size was the same.
        skip_input: the first layer adds its input directly, without an input weight.

    Shape:
        - Input: :math:`(T, N, D)`, :math:`(N, T, D)` with ``batch_first``, or ``[packed, batch sizes]``.
        - Output: :math:`(T, N, dirs H)`; with ``batch_first`` :math:`(N, T, dirs H)`; for packed input the packed data.

    Attributes:
        hidden_input, cell_input: initial states of shape :math:`(layers dirs, N, H)`, or None for zeros.
        hidden_output, cell_output: states of the previous call; set only with ``remember_states``.

    Lua:
        ``cudnn.LSTM(inputSize, hiddenSize, numLayers, batchFirst, dropout, rememberStates)``, cudnn RNN.lua
    """

    hidden_input: Tensor | None
    cell_input: Tensor | None
    hidden_output: Tensor | None
    cell_output: Tensor | None

    run_buffers = ("hidden_input", "cell_input", "hidden_output", "cell_output")

    def __init__(self, rnn: nn.RNNBase, remember_states: bool = False, skip_input: bool = False) -> None:
        super().__init__()
        self.rnn, self.remember_states, self.skip_input = rnn, remember_states, skip_input
        for name in self.run_buffers:
            self.register_buffer(name, None)

    def forward(self, input: Any) -> Tensor:
        if isinstance(input, (list, tuple)):
            sizes = torch.as_tensor(input[1], dtype=torch.long, device="cpu")
            output, state = self.rnn(PackedSequence(input[0], sizes), self._initial(int(sizes[0])))
            output = output.data
        else:
            output, state = self.rnn(input, self._initial(input.shape[0 if self.rnn.batch_first else 1]))
        if self.remember_states:
            hidden, cell = state if isinstance(state, tuple) else (state, None)
            dtype = self.rnn.weight_hh_l0.dtype  # autocast returns states of another dtype
            self.hidden_output = hidden.detach().to(dtype)
            self.cell_output = None if cell is None else cell.detach().to(dtype)
        return output

    def _initial(self, batch: int) -> Any:
        hidden, cell = self.hidden_input, self.cell_input
        if self.remember_states:
            fits = self.hidden_output is not None and self.hidden_output.shape[1] == batch
            hidden, cell = (self.hidden_output, self.cell_output) if fits else (None, None)
        if not isinstance(self.rnn, nn.LSTM):
            return hidden
        if hidden is None:
            hidden = None if cell is None else torch.zeros_like(cell)
        if hidden is None:
            return None
        return hidden, torch.zeros_like(hidden) if cell is None else cell

    def forget_own(self) -> None:
        """Forget the states of the previous call. :func:`dpnn_bridge.memory.forget` calls this method."""
        self.hidden_output = self.cell_output = None

    def reset_states(self) -> None:
        """Forget the initial states and the states of the previous call."""
        self.hidden_input = self.cell_input = self.hidden_output = self.cell_output = None

    def flat_names(self) -> list[str]:
        """Return the names of the parameters of :attr:`rnn` in the order of cuDNN's flat vector."""
        suffixes = ("", "_reverse") if self.rnn.bidirectional else ("",)
        cells = [f"l{layer}{suffix}" for layer in range(self.rnn.num_layers) for suffix in suffixes]
        matrices = [f"weight_{kind}_{cell}" for cell in cells for kind in ("ih", "hh")]
        biases = [f"bias_{kind}_{cell}" for cell in cells for kind in ("ih", "hh")]
        return [n for n in matrices + biases if not (self.skip_input and n.startswith("weight_ih_l0"))]

    @property
    def flat_weight(self) -> Tensor:
        """A copy of all parameters in cuDNN's order, with their gradients in ``grad``."""
        parameters = [getattr(self.rnn, name) for name in self.flat_names()]
        flat = torch.cat([p.detach().flatten() for p in parameters])
        flat.grad = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        return flat

    def set_flat(self, flat: Tensor, gradient: Tensor | None = None) -> None:
        """Set the parameters, and their gradients, from flat vectors in cuDNN's order.

        Raises:
            ValueError: ``flat`` does not have one element per element of the parameters.
        """
        sizes = [getattr(self.rnn, name).numel() for name in self.flat_names()]
        if sum(sizes) != flat.numel():
            raise ValueError(f"expected a flat weight with {sum(sizes)} elements, found {flat.numel()} elements")
        grads = gradient.split(sizes) if gradient is not None else [None] * len(sizes)
        for name, values, grad in zip(self.flat_names(), flat.split(sizes), grads, strict=True):
            shape = getattr(self.rnn, name).shape
            parameter = nn.Parameter(values.view(shape).clone())
            parameter.grad = None if grad is None else grad.view(shape).clone()
            setattr(self.rnn, name, parameter)
        if self.skip_input:
            self._set_identity_input(flat)

    def _set_identity_input(self, like: Tensor) -> None:
        """Set the first layer's input weights to fixed identity matrices, one per gate."""
        for suffix in ("", "_reverse") if self.rnn.bidirectional else ("",):
            rows, columns = getattr(self.rnn, f"weight_ih_l0{suffix}").shape
            identity = torch.eye(columns, dtype=like.dtype, device=like.device).repeat(rows // columns, 1)
            setattr(self.rnn, f"weight_ih_l0{suffix}", nn.Parameter(identity, requires_grad=False))

    class Lua(LuaClass):
        optional = dict.fromkeys(("hiddenInput", "cellInput", "hiddenOutput", "cellOutput"))
        scratch = (
            "hiddenOutput",
            "cellOutput",
            "gradHiddenInput",
            "gradCellInput",
            "gradHiddenOutput",
            "gradCellOutput",
            "reserve",
            "dropoutStates",
        )
        defaults = {"batchFirst": False, "dropout": 0, "rememberStates": False, "inputMode": "CUDNN_LINEAR_INPUT"}
        constants = {
            **dict.fromkeys(scratch[:4], LuaTensor.empty),
            "reserve": LuaTensor.empty,
            "datatype": "CUDNN_DATA_FLOAT",
            "seqLength": 1,
            "miniBatch": 1,
            "sync": True,
            "inputPacked": False,
            "seed": 0x01234567,
        }
        checked_by = "formula"
        test = "test_cudnn_layer_without_input_matrix_adds_its_input"

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            rnn_type, options = _RNN_TYPES[obj["mode"]]
            rnn = rnn_type(
                obj["inputSize"],
                obj["hiddenSize"],
                obj["numLayers"],
                batch_first=cls.scalar(obj, "batchFirst"),
                dropout=cls.scalar(obj, "dropout"),
                bidirectional=obj.get("bidirectional") == "CUDNN_BIDIRECTIONAL",
                **options,
            )
            skip = cls.scalar(obj, "inputMode") == "CUDNN_SKIP_INPUT"
            return CudnnRNN(rnn, cls.scalar(obj, "rememberStates"), skip)

        @classmethod
        def fill(cls, module: CudnnRNN, obj: LuaObject, ctx: TorchContext) -> None:
            gradient = obj.get("gradWeight")
            keep = ctx.options.gradients and isinstance(gradient, LuaTensor) and gradient.size > 0
            module.set_flat(obj["weight"].torch(), gradient.torch() if keep and gradient is not None else None)
            ctx.filled(module.rnn, *module.rnn._parameters)
            for name, attribute in cls._states(module).items():
                state = obj.get(name)
                if isinstance(state, LuaTensor) and state.ndim == 3:
                    setattr(module, attribute, state.torch().clone())

        @classmethod
        def _states(cls, module: CudnnRNN) -> dict[str, str]:
            initial = {"hiddenInput": "hidden_input", "cellInput": "cell_input"}
            last = {"hiddenOutput": "hidden_output", "cellOutput": "cell_output"}
            return {**initial, **last} if module.remember_states else initial

        @classmethod
        def fields_of(cls, module: CudnnRNN) -> dict[str, Field]:
            return {"weight": _FLAT, **{k: Field(v) for k, v in cls._states(module).items()}}

        @classmethod
        def handled(cls, module: nn.Module) -> set[str]:
            own = "mode inputSize hiddenSize numLayers bidirectional numDirections"
            return {*super().handled(module), *cls.defaults, *own.split()}

        @classmethod
        def children(cls, module: nn.Module) -> list[nn.Module]:
            return []  # the layer of PyTorch has no object in Lua

        @classmethod
        def parameters(
            cls, module: nn.Module, inner: Callable[[nn.Module], Iterator[ParameterSite]]
        ) -> Iterator[ParameterSite]:
            yield module, "weight", _FLAT

        @classmethod
        def to_lua(cls, module: CudnnRNN, ctx: LuaContext) -> dict[str, Any]:
            rnn = module.rnn
            fields = {
                **super().to_lua(module, ctx),
                "mode": _MODES[rnn.mode],
                "inputSize": rnn.input_size,
                "hiddenSize": rnn.hidden_size,
                "numLayers": rnn.num_layers,
                "batchFirst": rnn.batch_first,
                "dropout": rnn.dropout,
                "bidirectional": "CUDNN_BIDIRECTIONAL" if rnn.bidirectional else "CUDNN_UNIDIRECTIONAL",
                "numDirections": 2 if rnn.bidirectional else 1,
                "inputMode": "CUDNN_SKIP_INPUT" if module.skip_input else "CUDNN_LINEAR_INPUT",
                "rememberStates": module.remember_states,
            }
            if ctx.gradients:
                fields["gradWeight"] = ctx.gradient(module, "weight", _FLAT)
            return fields


def _same(tensor: Tensor, _module: nn.Module) -> Tensor:
    return tensor


def _parts(module: CudnnRNN) -> list[str]:
    return [f"rnn.{name}" for name in module.flat_names()]


#: :attr:`CudnnRNN.flat_weight` already has the order of Lua's ``weight``
_FLAT = Field("flat_weight", Layout(_same, _same), parts=_parts)


@lua_class("cudnn.BatchBRNN", "cudnn.BatchBRNNReLU")
class BatchBRNN(nn.Sequential):
    """Batch normalization over time steps and samples, followed by a recurrent layer (DeepSpeech).

    Args:
        *modules: the modules, run in order.
        view_in: index of the ``nn.View`` that merges the time and batch dimensions, from 0.
        view_out: index of the ``nn.View`` that splits them again, from 0.

    Shape:
        - Input: :math:`(T, N, D)`.
        - Output: :math:`(T, N, H)`.

    Lua:
        ``cudnn.BatchBRNNReLU(inputDim, outputDim)``, deepspeech.torch BatchBRNN.lua and BatchBRNNReLU.lua
    """

    def __init__(self, *modules: nn.Module, view_in: int, view_out: int) -> None:
        super().__init__(*modules)
        self.view_in, self.view_out = view_in, view_out

    def forward(self, input: Tensor) -> Tensor:
        T, N = input.shape[:2]
        for i, module in enumerate(self):
            if i == self.view_in:
                input = input.reshape(T * N, -1)
            elif i == self.view_out:
                input = input.reshape(T, N, -1)
            else:
                input = module(input)
        return input

    class Lua(LuaClass):
        """The two views of the file have fixed sizes; here they use the size of each input."""

        container = True
        checked_by = "structure"
        test = "test_deepspeech_layer_follows_the_size_of_its_input"

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "view_in" in obj

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            modules: LuaTable = obj["modules"]
            ids = [id(m) for m in modules.as_list()]
            return {name: ids.index(id(obj[name])) for name in ("view_in", "view_out")}
