"""The conversation model of neuralconvo."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject


@lua_class("neuralconvo.Seq2Seq")
class Seq2Seq(nn.Module):
    """An encoder and a decoder that starts from the last state of the encoder.

    Args:
        encoder, decoder: networks on sequences of tokens.
        encoder_lstm: recurrent layer of the encoder whose last state is used.
        decoder_lstm: recurrent layer of the decoder that starts from this state.

    Shape:
        - Input: ``[source, target]``, tokens :math:`(S, N)` and :math:`(T, N)`, 0 for padding.
        - Output: log probabilities :math:`(T, N, V)`, the output of the decoder.

    Lua:
        ``neuralconvo.Seq2Seq(vocabSize, hiddenSize)``, neuralconvo seq2seq.lua
    """

    encoder_lstm: Any
    decoder_lstm: Any

    fx_leaf = True

    def __init__(self, encoder: nn.Module, decoder: nn.Module, encoder_lstm: Any, decoder_lstm: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        # not registered as submodules: they are modules of the encoder and of the decoder
        self.__dict__.update(encoder_lstm=encoder_lstm, decoder_lstm=decoder_lstm)

    def forward(self, input: list[Tensor]) -> Tensor:
        source, target = input
        self.encoder(source)
        output, cell = self.encoder_lstm.get_hidden_state()
        self.decoder_lstm.user_prev_output, self.decoder_lstm.user_prev_cell = output, cell
        return self.decoder(target)

    class Lua(LuaClass):
        computed_fields = ("encoderLSTM", "decoderLSTM")
        members = ("encoder", "decoder")

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            inner = {"encoder_lstm": "encoderLSTM", "decoder_lstm": "decoderLSTM"}
            arguments = super().arguments(obj, ctx)
            return {**arguments, **{k: ctx.to_torch(obj[name], name) for k, name in inner.items()}}

        @classmethod
        def to_lua(cls, module: Seq2Seq, ctx: LuaContext) -> dict[str, Any]:
            inner = {"encoderLSTM": module.encoder_lstm, "decoderLSTM": module.decoder_lstm}
            return {**super().to_lua(module, ctx), **{k: ctx.to_lua(m) for k, m in inner.items()}}
