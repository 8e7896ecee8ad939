"""Define the mappings of all ``optim`` methods, and convert their configuration and state in both directions."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.conversion.parametrized import computed_weights
from dpnn_bridge.conversion.registry import mapping_of, parameters
from dpnn_bridge.conversion.stock import computes_weight
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.optim.exact import ASGD, NAG, SGD, Adam
from dpnn_bridge.optim.full_batch import CG, LBFGS, Rprop
from dpnn_bridge.optim.lua_method import LBFGSMethod, Method, RpropMethod
from dpnn_bridge.training.flat_vector import Package, flat_fields, hidden_elements, package_of

Target = nn.Module | Iterable[nn.Parameter]

RATE_DECAY = {"learningRateDecay": ("lr_decay", 0.0)}
WEIGHT_DECAY = {"weightDecay": ("weight_decay", 0.0)}
BETAS = {"beta1": ("betas.0", 0.9), "beta2": ("betas.1", 0.999)}
STEPS = {"evalCounter": "step"}
#: minimum similarity, by :mod:`difflib`, of a misspelled name to the right one
_SIMILAR = 0.8

METHODS: dict[str, Method] = {
    "sgd": Method(
        SGD,
        (torch.optim.SGD,),
        settings={
            "learningRate": ("lr", 1e-3),
            "momentum": ("momentum", 0.0),
            "dampening": ("dampening", None),
            "nesterov": ("nesterov", False),
            **WEIGHT_DECAY,
            **RATE_DECAY,
        },
        constant_kwargs=SGD.fixed_options,
        buffers={"dfdx": "momentum_buffer"},
        factors={"learningRates": "learning_rates", "weightDecays": "weight_decays"},
        numbers=STEPS,
        without_buffers=True,
    ),
    "adam": Method(
        Adam,
        (torch.optim.Adam,),
        settings={"learningRate": ("lr", 1e-3), **BETAS, "epsilon": ("eps", 1e-8), **WEIGHT_DECAY, **RATE_DECAY},
        constant_kwargs=Adam.fixed_options,
        buffers={"m": "exp_avg", "v": "exp_avg_sq"},
        numbers={"t": "step"},
    ),
    "adagrad": Method(
        torch.optim.Adagrad,
        settings={"learningRate": ("lr", 1e-3), **WEIGHT_DECAY, **RATE_DECAY},
        constant_kwargs={"eps": 1e-10, "maximize": False},
        buffers={"paramVariance": "sum"},
        numbers=STEPS,
        scratch={"paramStd": None},
    ),
    "adadelta": Method(
        torch.optim.Adadelta,
        settings={"rho": ("rho", 0.9), "eps": ("eps", 1e-6), **WEIGHT_DECAY},
        constant_kwargs={"lr": 1.0, "maximize": False},
        buffers={"paramVariance": "square_avg", "accDelta": "acc_delta"},
        numbers=STEPS,
        scratch={"paramStd": None, "delta": None},
    ),
    "rmsprop": Method(
        torch.optim.RMSprop,
        settings={"learningRate": ("lr", 1e-2), "alpha": ("alpha", 0.99), "epsilon": ("eps", 1e-8), **WEIGHT_DECAY},
        constant_kwargs={"momentum": 0, "centered": False, "maximize": False},
        buffers={"m": "square_avg"},
        fill={"initialMean": "square_avg"},
        scratch={"tmp": None},
    ),
    "adamax": Method(
        torch.optim.Adamax,
        settings={"learningRate": ("lr", 2e-3), **BETAS, "epsilon": ("eps", 1e-38), **WEIGHT_DECAY},
        constant_kwargs={"maximize": False},
        buffers={"m": "exp_avg", "u": "exp_inf"},
        numbers={"t": "step"},
    ),
    "nag": Method(
        NAG,
        settings={"learningRate": ("lr", 1e-3), "momentum": ("momentum", 0.9), **WEIGHT_DECAY, **RATE_DECAY},
        buffers={"dfdx": "momentum_buffer"},
        factors={"learningRates": "learning_rates"},
        numbers=STEPS,
    ),
    "asgd": Method(
        ASGD,
        (torch.optim.ASGD,),
        settings={
            "eta0": ("lr", 1e-4),
            "lambda": ("lambd", 1e-4),
            "alpha": ("alpha", 0.75),
            "t0": ("t0", 1e6),
        },
        constant_kwargs=ASGD.fixed_options,
        buffers={"ax": "ax"},
        numbers={"t": "step", "eta_t": "eta", "mu_t": "mu"},
        unstepped={"ax": lambda p, group: p},
    ),
    "rprop": RpropMethod(
        Rprop,
        (torch.optim.Rprop,),
        settings={
            "stepsize": ("lr", 0.1),
            "etaminus": ("etas.0", 0.5),
            "etaplus": ("etas.1", 1.2),
            "stepsizemin": ("step_sizes.0", 1e-6),
            "stepsizemax": ("step_sizes.1", 50.0),
            "niter": ("niter", 1),
        },
        constant_kwargs={"maximize": False},
        buffers={"delta": "prev", "stepsize": "step_size"},
        unstepped={"step_size": lambda p, group: torch.full_like(p, group["lr"])},
        scratch={"sign": None, **dict.fromkeys(("psign", "nsign", "zsign", "dminmax"), "torch.ByteTensor")},
    ),
    "lbfgs": LBFGSMethod(
        LBFGS,
        (torch.optim.LBFGS,),
        settings={
            "learningRate": ("lr", 1.0),
            "maxIter": ("max_iter", 20),
            "maxEval": ("max_eval", None),
            "tolFun": ("tolerance_grad", 1e-5),
            "tolX": ("tolerance_change", 1e-9),
            "nCorrection": ("history_size", 100),
        },
        constant_kwargs=LBFGS.fixed_options,
    ),
    "cg": Method(
        CG,
        settings={
            "maxIter": ("max_iter", 20),
            "maxEval": ("max_eval", None),
            "rho": ("rho", 0.01),
            "sig": ("sig", 0.5),
            "int": ("int", 0.1),
            "ext": ("ext", 3.0),
            "ratio": ("ratio", 100),
        },
    ),
}


@checks_arguments
@wrap_errors(ConversionError, "creating an optimizer from a Lua table")
def from_lua(
    method: str, config: Mapping[str, Any], target: Target, state: Mapping[str, Any] | None = None
) -> Optimizer:
    """Create an optimizer that continues the training of a Torch7 script.

    Args:
        method: name in ``optim``, such as ``"sgd"``; the error for an unknown name lists all names.
        config: the Lua table with the hyperparameters, such as ``learningRate``.
        target: the module whose flat parameters Torch7 trained, or its parameters in Torch7's order. All parameters
            become one group.
        state: the Lua table with the state, such as ``dfdx``; default: ``config``, which contains both in most scripts.
            Elements that only dpnn's ``getParameters()`` has, see :func:`dpnn_bridge.training.flatten`, are ignored.

    Returns:
        An optimizer over all parameters whose next step equals Torch7's. As in Torch7, unknown fields have no effect. A
        ``UserWarning`` names a field that may be a misspelled hyperparameter.

    Raises:
        ConversionError: the method is unknown, a setting is not a number or is refused by the optimizer, or the state
            does not fit the parameters.

    Examples:
        >>> model = dpnn_bridge.load("checkpoint.t7", key="model")                                # doctest: +SKIP
        >>> optim_state = dpnn_bridge.read_t7("checkpoint.t7")["optimState"]                      # doctest: +SKIP
        >>> optimizer = optim.from_lua("sgd", optim_state, model)                                 # doctest: +SKIP
        >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)                            # doctest: +SKIP
    """
    spec = METHODS.get(method.removeprefix("optim."))
    if spec is None:
        raise ConversionError(f"no optimizer for the method {method!r}; supported: {', '.join(METHODS)}")
    for name, setting in misspelled(spec, config).items():
        default = spec.settings[setting][1]
        text = f"{method} has no setting {name!r} and uses {setting}={default}; did you mean {setting!r}?"
        warnings.warn(text, stacklevel=4)
    fields = flat_fields(target)
    optimizer = spec.create([f.parameter for f in fields], config)
    of_dpnn = flat_fields(target, "dpnn") if isinstance(target, nn.Module) else []
    spec.load(optimizer, fields, config, config if state is None else state, of_dpnn)
    return optimizer


def misspelled(spec: Method, config: Mapping[str, Any]) -> dict[str, str]:
    """Return each unknown field -> the hyperparameter with a similar name that the table lacks."""
    known = {name for method in METHODS.values() for name in method.names()}
    missing: dict[str, str] = {}
    for name, (argument, _) in spec.settings.items():
        if config.get(name) is None:
            missing |= {_normalized(name): name, _normalized(argument): name}
    unknown = [name for name in config if isinstance(name, str) and name not in known]
    similar = {name: get_close_matches(_normalized(name), missing, 1, _SIMILAR) for name in unknown}
    return {name: missing[matches[0]] for name, matches in similar.items() if matches}


def _normalized(name: str) -> str:
    """Return a name without underscores and in lower case, for comparison."""
    return name.replace("_", "").lower()


@checks_arguments
@wrap_errors(ConversionError, "writing an optimizer as a Lua table")
def to_lua(optimizer: Optimizer, target: Target | None = None, *, package: Package | None = None) -> LuaTable:
    """Return the Lua table, of both configuration and state, with which a Torch7 script can continue the training.

    Args:
        optimizer: an optimizer of :mod:`dpnn_bridge.optim`, or one of PyTorch with the same state.
        target: the module that Torch7 trains, which determines the order and memory layout of its flat parameters;
            default: the parameters of the optimizer, in their order.
        package: package whose ``getParameters()`` the script calls, see :func:`dpnn_bridge.training.flatten`; default:
            that of the flat vector in the target's file, or ``"nn"``.

    Raises:
        ConversionError: Torch7 has no such method, does not support a hyperparameter, or the optimizer has
            parameters that ``target`` does not have.
    """
    spec = _method_of(type(optimizer))
    if spec is None:
        raise ConversionError(f"Torch7's optim has no {type(optimizer).__name__}; supported: {', '.join(METHODS)}")
    params = [p for group in optimizer.param_groups for p in group["params"]]
    target = params if target is None else target
    package = package or package_of(target)
    hidden = hidden_elements(target) if package == "dpnn" else 0
    fields = flat_fields(target, package)
    _check_same(params, [f.parameter for f in fields], target)
    written = spec.save(optimizer, fields, hidden)
    if any(isinstance(value, (LuaTensor, LuaTable)) for value in written.values()):
        _check_exported(target)
    return written


def _check_same(optimizer: Sequence[Tensor], trained: Sequence[Tensor], target: Target) -> None:
    """Compare the parameters of an optimizer with those that Torch7 trains, which are all of a model.

    Args:
        optimizer: parameters of the optimizer.
        trained: parameters of the target.
        target: the target. A ``UserWarning`` names its first parameter that the optimizer does not have.

    Raises:
        ConversionError: the optimizer has a parameter that the target does not have.
    """
    known = {id(p) for p in trained}
    foreign = [p for p in optimizer if id(p) not in known]
    if foreign:
        raise ConversionError(
            f"{len(foreign)} of the optimizer's {len(optimizer)} parameters, the first of shape "
            f"{tuple(foreign[0].shape)}, are not those of the target; pass the model that the optimizer trains"
        )
    known = {id(p) for p in optimizer}
    named = target.named_parameters() if isinstance(target, nn.Module) else enumerate(trained)
    missing = [name for name, p in named if id(p) not in known]
    if missing:
        warnings.warn(
            f"Torch7 trains all parameters of the model, also the {len(missing)} that the optimizer does not have, "
            f"such as parameter {missing[0]}; let the script restore them after each step to keep them as they are",
            stacklevel=5,
        )


def _check_exported(target: Target) -> None:
    """Raise a ConversionError if the export has other parameters than the model, whose vectors would not fit it."""
    if not isinstance(target, nn.Module):
        return
    if any(isinstance(module, nn.LSTM) for module, _, _ in parameters(target)):
        what = "an nn.LSTM has two biases, and its layer in Torch7 their sum and one matrix of both weights"
        raise ConversionError(f"the state of the optimizer does not fit: {what}; start a new state in Torch7")
    for name, module in target.named_modules():
        if not computes_weight(module, mapping_of(module).fields_of(module).values()):
            continue
        for tensor, kind, remove in computed_weights(module):
            if hasattr(module, f"{tensor}_mask"):  # pruning: the export has one element for each of the parameter
                continue
            what = f"{kind} computes {name and f'{name}.'}{tensor}, and the model in Torch7 has the result"
            raise ConversionError(f"the state of the optimizer does not fit: {what}; call {remove} first")


def _method_of(optimizer: type[Optimizer]) -> Method | None:
    """Return the method of an optimizer class or of its nearest base class that has one; None if there is none."""
    methods = {cls: method for method in METHODS.values() for cls in (method.optimizer, *method.stock)}
    return next((methods[cls] for cls in optimizer.__mro__ if cls in methods), None)
