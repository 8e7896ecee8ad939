"""List the fields in which Torch7's modules store temporary tensors and tables, overwritten in every call."""

from __future__ import annotations

_NAMES = """
    __gradInput __gradOutput __input __maxIdx __norm __output __reward __scale __stdev __zeroMask _Pom _Pomdiv
    _Pon _Pondiv _actions _baseExponents _bias _binary _buffer1 _buffer2 _bwdGradInput _bwdOutput _byte _ccounts
    _clusterDistances _coef _coeff _count _crop _cscAdder _diagCov _div _embeddings _expMinusX _expMinusY _expand
    _expand2 _expand3 _expand4 _expandedSamples _expandedWeight _expert _expert2 _expertView _expertView2 _eye
    _firstStep _fwdGradInput _fwdOutput _gaterView _gradAction _gradBias _gradBuffer _gradInput _gradMask
    _gradOutput _gradOutputs _gradWeight _gradWeight2 _grad_x _hidden _idx _indices _initInput _inpsz _input
    _input1 _input2 _inputNorm _intermediateShape _lastStep _lnPom _lnPon _logCoeff _logOutput _logScale
    _logSumExpMinusXY _mask _maskIndexBuffer _maskIndexBufferCPU _maskIndices _maskbyte _maskindices _maxIdx
    _maxVal _mergeGradInput _mergeInput _metaidx _minIndx _minScore _nodeUpdateCuda _nodeUpdateHost _noiseidx
    _noiseprob _norm _normsum _ones _outShape _output _output_grad _outputs _pad _paramUpdateCuda _paramUpdateHost
    _pm _repeat _repeat2 _repeat3 _return_grad_c0 _return_grad_h0 _reward _sampleidx _scale _shuffleIn _shuffleOut
    _single _sorted _stdev _stdev2 _sum _sumExpMinusXY _target _temp _tempAlphas _tempAlphasExpanded
    _tempAlphasSamples _tempExpanded _tempGradAlphas _tempGradAlphasExpanded _tempGradAlphasSamples _tempLambda
    _tempLambdaExpanded _tempNoise _tempNoiseExpanded _tempNoiseSamples _tempWeight _tempWeightExp _tgradOutput
    _uniform _value _weight _weightNorm _y _zeroMask
"""

#: private fields of nn, dpnn, rnn and nnx that are temporary buffers in every class that has them. Other fields with an
#: underscore are state (``_pulls``, ``_remember``) and are kept, unless a mapping lists them in ``scratch``.
BUFFERS = frozenset(_NAMES.split())
