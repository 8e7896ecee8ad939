"""Compute the work of PyTorch operations that take more steps than they read and write elements.

Attention compares every position with every other one, an embedding bag reads a row for each index, a sort compares
every element several times. An operation that is not known here counts as a product: see :func:`_unknown`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.conversion.result_sizes import RESULTS

#: function of an operation's arguments that returns the steps beyond its elements
Work = Callable[[Any], int]

#: steps of each element that is sorted, per doubling of their number
_STEPS_PER_COMPARISON = 16
#: steps of each element of a matrix, per row, of a decomposition
_STEPS_PER_DECOMPOSITION = 32
#: steps of each tensor in a list, such as one of the tensors that ``cat`` joins
_STEPS_PER_TENSOR = 1 << 8

#: operations that take time in proportion to their elements, or whose work is measured from their results
_LINEAR_NAMES = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _aminmax _batch_norm_with_update _cdist_forward _conj_copy
    _cummax_helper _cummin_helper _fused_sdp_choice _grid_sampler_2d_cpu_fallback _has_same_storage_numel _lazy_clone
    _neg_view_copy _nested_from_padded _nested_tensor_from_mask _nested_tensor_from_mask_left_aligned
    _nested_tensor_from_tensor_list _pack_padded_sequence _pin_memory _prelu_kernel _reshape_copy _resize_output_
    _safe_softmax _thnn_fused_gru_cell _thnn_fused_lstm_cell _transform_bias_rescale_qkv _unsafe_index
    _unsafe_masked_index _weight_norm_interface adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool2d adaptive_max_pool3d addmv addr affine_grid_generator alias_copy allclose arange as_strided
    as_strided_copy as_strided_scatter avg_pool1d avg_pool2d avg_pool2d_backward avg_pool3d avg_pool3d_backward
    bernoulli binary_cross_entropy_with_logits bincount celu channel_shuffle col2im complex constant_pad_nd
    convolution convolution_backward copy copy_ count_nonzero cummax cummin cumprod cumsum detach detach_copy
    diag_embed diagonal_backward diagonal_copy diagonal_scatter dist dot elu embedding embedding_dense_backward
    empty_permuted exponential eye fill fill_ fractional_max_pool2d fractional_max_pool2d_backward
    fractional_max_pool3d fractional_max_pool3d_backward gelu geometric glu grid_sampler_2d grid_sampler_3d hardshrink
    hardsigmoid hardswish hardtanh histc im2col index index_add index_copy index_reduce index_select is_same_size
    is_set_to isinf isnan item leaky_relu lift lift_fresh lift_fresh_copy linalg_cross linalg_vector_norm linspace
    log_normal log_sigmoid_forward log_softmax logcumsumexp logspace masked_fill masked_scatter
    masked_scatter_backward max_pool2d_backward max_pool2d_with_indices max_pool2d_with_indices_backward
    max_pool3d_with_indices max_pool3d_with_indices_backward max_unpool2d max_unpool3d mish mkldnn_rnn_layer
    multi_margin_loss mv native_group_norm new_empty_strided nonzero nonzero_static norm normal one_hot pixel_shuffle
    pixel_unshuffle polar prod put randint randint_like random randperm range reflection_pad1d reflection_pad2d
    reflection_pad3d relu renorm repeat replication_pad1d replication_pad2d replication_pad3d resize resize_as rot90
    rrelu_with_noise scatter_reduce select_backward select_copy select_scatter set slice_backward slice_copy
    slice_scatter soft_margin_loss softmax softplus softshrink split_copy split_with_sizes_copy squeeze squeeze_copy
    std_mean sum t t_copy take threshold trace transpose transpose_copy tril_indices triu_indices unbind_copy
    unfold_backward unfold_copy uniform unsafe_split unsafe_split_with_sizes unsqueeze unsqueeze_copy var_mean vdot
    view_copy zero
"""
_LINEAR = frozenset(_LINEAR_NAMES.split())


@functools.cache
def work_of(func: Any, is_known: bool) -> Work | None:
    """Return a function of an operation's arguments that returns its steps beyond the elements it reads and writes.

    Args:
        func: the operation.
        is_known: whether the elements are known to be its only work, as of a pointwise operation.
    """
    name = func.overloadpacket.__name__
    if name in _WORK:
        return _WORK[name]
    base = name.rstrip("_")
    if base in _WORK:
        return _WORK[base]
    if is_known or name in _LINEAR or base in _LINEAR or torch.Tag.pointwise in func.tags:
        return None
    for prefix, work in _FAMILIES.items():
        if name.startswith(prefix):
            return work
    return _unknown


def elements(value: Tensor) -> int:
    """Return the number of elements of a tensor; a sparse tensor may store more values than its shape has."""
    if value.layout is torch.strided:
        return value.numel()
    stored = value._values() if value.layout is torch.sparse_coo else getattr(value, "values", lambda: value)()
    return max(value.numel(), stored.numel())


def padded(value: Any) -> Any:
    """Return an argument in which a tensor on the meta device, padded like a batch, replaces a nested tensor."""
    if isinstance(value, Tensor) and value.is_nested:
        sizes = value._nested_tensor_size()
        return torch.empty((len(sizes), *sizes.amax(0).tolist()), dtype=value.dtype, device="meta")
    return type(value)(map(padded, value)) if type(value) in (list, tuple) else value


def broadcast(tensors: Sequence[Tensor]) -> int:
    """Return the number of elements of the shape to which tensors are broadcast."""
    if not tensors:
        return 1
    first = tensors[0].shape
    if all(t.shape == first or not t.dim() for t in tensors):
        return tensors[0].numel()
    shapes = [t.shape for t in tensors]
    depth = max(map(len, shapes))
    return math.prod(max(s[-i] if i <= len(s) else 1 for s in shapes) for i in range(1, depth + 1))


def indexed(args: Any) -> int:
    """Estimate the number of elements in ``value[indices]``: elements of the broadcast indices times other dimensions.

    A dimension whose index is None counts as the largest dimension of ``value``.
    """
    value, indices = args[:2]
    given = [i for i in indices if i is not None]
    axes = sum(i.dim() if i.dtype == torch.bool else 1 for i in given)
    free = sum(i is None for i in indices)
    rest = math.prod([*value.shape[axes + free :], *([max(value.shape)] * free)])
    return broadcast([i for i in given if i.dtype != torch.bool] or given) * rest


def products(a: Tensor, b: Tensor) -> int:
    """Return the number of multiplications in a product of two matrices, or of two batches of matrices."""
    return max(elements(a) * b.shape[-1], 0 if b.layout is torch.strided else elements(b) * a.shape[-2])


def _tensors(args: Any) -> list[Tensor]:
    lists = [a if isinstance(a, (list, tuple)) else [a] for a in args]
    return [value for values in lists for value in values if isinstance(value, Tensor)]


def _unknown(args: Any) -> int:
    """Return the work of an operation that is not known: each element with each other one of the largest dimension."""
    tensors = _tensors(args)
    return sum(map(elements, tensors)) * max([1, *(n for t in tensors for n in t.shape)])


def _per_element(steps: int) -> Work:
    return lambda args: steps * sum(t.numel() for t in _tensors(args))


def _sorted(args: Any) -> int:
    count = sum(t.numel() for t in _tensors(args))
    return _STEPS_PER_COMPARISON * count * count.bit_length()


def _selected(args: Any) -> int:
    """Return the work of ``kthvalue``, which for some orders of the elements compares all of them with all others."""
    value, dim = args[0], args[2] if len(args) > 2 else -1
    return value.numel() * (value.shape[dim] if value.dim() else 1)


def _found(args: Any) -> int:
    """Return the work of ``isin``: few elements are compared with all others, many are sorted."""
    counts = [t.numel() for t in _tensors(args)]
    few = min(counts[-1], int(10 * (counts[0] + 1) ** 0.145) + 1)
    return counts[0] * few + _sorted(args)


def _embedded(args: Any) -> int:
    """Return the work of an embedding: each index reads or adds a row."""
    tensors = _tensors(args)
    indices = max((t.numel() for t in tensors if not t.is_floating_point()), default=0)
    return indices * (tensors[0].shape[-1] + 64)


def _attention(query: Tensor, key: Tensor, width: int) -> int:
    """Return the work of an attention, where every query is compared with every key, with ``width`` steps."""
    return query.numel() // max(1, query.shape[-1]) * key.shape[-2] * width


def _attended(args: Any) -> int:
    query, key, value = args[:3]
    return _attention(query, key, query.shape[-1] + value.shape[-1] + 4)


def _attended_backward(args: Any) -> int:
    return 3 * _attended(args[1:])


def _of_heads(args: Any) -> int:
    query, key, value, width, heads, *weights = args[:9]
    projected = sum(t.numel() for t in (query, key, value, query)) * width
    return _attention(query, key, 2 * width + 16 * heads) + projected + sum(w.numel() for w in weights)


def _of_encoder(args: Any) -> int:
    value, width, heads = args[:3]
    weights = sum(t.numel() for t in args[3:18] if isinstance(t, Tensor))
    return _attention(value, value, 2 * width + 16 * heads) + value.numel() // max(1, width) * weights


def _filled(args: Any) -> int:
    value, dim, index = args[:3]
    return value.numel() // max(1, value.shape[dim] if value.dim() else 1) * index.numel()


def _distances(first: Tensor, second: Tensor, p: float, factor: int = 1) -> int:
    batch = math.prod(torch.broadcast_shapes(first.shape[:-2], second.shape[:-2]))
    power = 4 if p in (0, 1, 2, math.inf) else 64
    return batch * first.shape[-2] * second.shape[-2] * (first.shape[-1] + 1) * power * factor


def _decomposed(args: Any) -> int:
    return sum(_STEPS_PER_DECOMPOSITION * t.numel() * max(t.shape[-2:], default=1) for t in _tensors(args))


def _transformed(args: Any) -> int:
    return _STEPS_PER_DECOMPOSITION * args[0].numel() * args[0].numel().bit_length()


def _drawn(args: Any) -> int:
    categories = args[0].shape[-1] if args[0].dim() else 1
    rows = args[0].numel() // max(1, categories)
    return 32 * args[0].numel() + rows * int(args[1]) * _STEPS_PER_COMPARISON * categories.bit_length()


def _smoothed(small: Sequence[int], large: Sequence[int], channels: int) -> int:
    """Return the work of an antialiased interpolation, first of each row, then of each column."""
    (h, w), (height, width) = small, large
    rows, columns = (4 * max(1, a // max(1, b)) + 2 for a, b in ((w, width), (h, height)))
    return channels * width * (h * rows + height * columns)


def _smoothed_forward(args: Any) -> int:
    return _smoothed(args[0].shape[-2:], args[1], math.prod(args[0].shape[:-2]))


def _smoothed_backward(args: Any) -> int:
    return _smoothed(args[2][-2:], args[1], math.prod(args[2][:-2]))


def _stretched(args: Any) -> int:
    """Return the work of an interpolation, which computes the weights of each element of the larger image."""
    return 32 * math.prod([*args[0].shape[:2], *args[1]])


def _pooled_backward(args: Any) -> int:
    return args[0].numel() * math.prod(args[2])


def _adapted_backward(dims: int, args: Any) -> int:
    """Return the work of an adaptive pooling's gradient, whose windows overlap by an element, or repeat elements."""
    gradient, value = args[:2]
    windows = math.prod(map(sum, zip(gradient.shape[-dims:], value.shape[-dims:], strict=True)))
    return 8 * math.prod(value.shape[:-dims]) * windows


def _labelled(args: Any) -> int:
    """Return the work of a CTC loss: each time with each label and the blanks between them, or a gradient of it."""
    scores, _, _, lengths = args[:4]
    return 64 * math.prod(scores.shape[:-1]) * (2 * max(map(int, lengths), default=0) + 1)


def _sampled(args: Any) -> int:
    value, grid = [a for a in args if isinstance(a, Tensor)][-2:]
    return 64 * math.prod([*value.shape[:2], *grid.shape[1:-1]])


def _convolved(args: Any) -> int:
    return 8 * (_in_blocks(args[0]) + _in_blocks(RESULTS["convolution"](*args)))


def _convolved_backward(args: Any) -> int:
    """Return the work of a convolution's gradient, which oneDNN may compute for each place between two strides."""
    gradient, value, _, _, stride = args[:5]
    return 8 * (_in_blocks(gradient) + _in_blocks(value)) * max(1, *stride)


def _in_blocks(image: Tensor) -> int:
    """Return the number of elements of an image whose channels oneDNN pads to blocks of 16."""
    channels = max(1, image.shape[1])
    return image.numel() // channels * -(-channels // 16) * 16


def _joined(args: Any) -> int:
    return _STEPS_PER_TENSOR * sum(len(a) for a in args if isinstance(a, (list, tuple)))


#: operation, without the final underscore of a change in place -> work
_WORK: dict[str, Work] = {
    **dict.fromkeys(("index_put", "_index_put_impl", "_unsafe_index_put"), lambda args: 8 * indexed(args)),
    **dict.fromkeys(("_unsafe_masked_index_put_accumulate",), lambda args: 8 * indexed((args[0], args[2]))),
    **dict.fromkeys(
        ("sort", "topk", "mode", "_unique", "_unique2", "unique_dim", "searchsorted", "bucketize"), _sorted
    ),
    **dict.fromkeys(("unique_consecutive", "unique_dim_consecutive", "histogram"), _per_element(64)),
    **dict.fromkeys(("cat", "stack", "_chunk_cat", "_stack", "block_diag"), _joined),
    **dict.fromkeys(("median", "nanmedian"), _per_element(64)),
    "kthvalue": _selected,
    "isin": _found,
    "index_fill": _filled,
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only", "_embedding_bag_backward"), _embedded),
    **dict.fromkeys(("_embedding_bag_dense_backward", "embedding_renorm"), _embedded),
    "_embedding_bag_per_sample_weights_backward": _embedded,
    "_scaled_dot_product_flash_attention_for_cpu": _attended,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attended_backward,
    "_native_multi_head_attention": _of_heads,
    "_transformer_encoder_layer_fwd": _of_encoder,
    "addmm_": lambda args: products(*args[1:3]),
    "baddbmm_": lambda args: products(*args[1:3]),
    **dict.fromkeys(("addbmm", "_addmm_activation"), lambda args: products(*args[1:3])),
    "_int_mm": lambda args: products(*args[:2]),
    "convolution": _convolved,
    "convolution_backward": _convolved_backward,
    "conv_tbc": lambda args: args[0].numel() * args[1].shape[0] * args[1].shape[-1],
    "mkldnn_rnn_layer_backward": lambda args: 3 * math.prod(args[0].shape[:2]) * sum(w.numel() for w in args[1:5]),
    "_cdist_forward": lambda args: _distances(*args[:3]),
    "_cdist_backward": lambda args: _distances(*args[1:4]),
    "_pdist_forward": lambda args: _distances(args[0], args[0], args[1] if len(args) > 1 else 2),
    "_pdist_backward": lambda args: _distances(args[1], args[1], args[2]),
    **dict.fromkeys(("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"), _smoothed_forward),
    **dict.fromkeys(("_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward"), _smoothed_backward),
    **dict.fromkeys(("avg_pool2d_backward", "avg_pool3d_backward"), _pooled_backward),
    **{f"_adaptive_avg_pool{n}d_backward": functools.partial(_adapted_backward, n) for n in (2, 3)},
    "_ctc_loss": _labelled,
    "_ctc_loss_backward": lambda args: _labelled(args[1:]),
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_2d_backward"), _sampled),
    **dict.fromkeys(("grid_sampler_3d", "grid_sampler_3d_backward"), _sampled),
    "multinomial": _drawn,
    **dict.fromkeys(("bernoulli", "normal", "geometric", "exponential"), _per_element(16)),
    **dict.fromkeys(("cauchy", "log_normal", "masked_select", "native_dropout"), _per_element(16)),
    **dict.fromkeys(("poisson", "binomial", "_standard_gamma"), _per_element(128)),
}
#: beginning of an operation's name -> work
_FAMILIES: dict[str, Work] = {
    **dict.fromkeys(("linalg_", "_linalg_", "cholesky", "_cholesky", "lu_", "triangular_solve"), _decomposed),
    **dict.fromkeys(("geqrf", "ormqr", "_compute_linear_combination"), _decomposed),
    **dict.fromkeys(("upsample_", "_upsample_nearest"), _stretched),
    "_fft_": _transformed,
    **dict.fromkeys(("_foreach_", "_fused_ada", "_fused_sgd"), _joined),
}
