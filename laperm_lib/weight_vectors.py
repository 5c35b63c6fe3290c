"""Which axes of a layer's variables run over neurons, and which form one neuron's weight vector.

A weight vector is "all connections entering one neuron": a column of a dense kernel, one filter
of a convolution, a whole bias. This module is the one place that knows them, for every Keras layer
with weights; `register` adds your own layers.

References:
    Qiu and Suda, NeurIPS 2020, section 2.
"""

import gc
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import keras
import numpy as np
from keras import layers
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell  # the one cell without a public name

from laperm_lib._arguments import check_patterns
from laperm_lib.errors import UnknownLayerError
from laperm_lib.permutation import to_matrix

_log = logging.getLogger(__name__)

_Object = TypeVar("_Object")

Kind = Literal["kernel", "bias", "normalization"]
KINDS: tuple[Kind, ...] = ("kernel", "bias", "normalization")


def check_kinds(kinds: Kind | Iterable[Kind]) -> tuple[Kind, ...]:
    """Kinds as a tuple, also a single one; a ValueError for what is none of `KINDS`."""
    found = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in found:
        if kind not in KINDS:
            raise ValueError(f"Unknown kind {kind!r}; there are {', '.join(KINDS)}.")
    return found


@dataclass(frozen=True)
class Axes:
    """How one variable splits into weight vectors.

    Args:
        neurons: the axes that run over neurons (negative from the end). The other axes, in C
            order, form a weight vector; `()` makes the whole variable one vector.
        kind: "kernel" (connections), "bias" (one number per neuron) or "normalization" (scale and
            offset of a normalisation layer). Default "kernel".

    Examples:
        >>> Axes(neurons=(-1,))  # a convolution kernel (height, width, in, out)
        Axes(neurons=(-1,), kind='kernel')
    """

    neurons: tuple[int, ...]
    kind: Kind = "kernel"

    def __post_init__(self) -> None:
        is_tuple = isinstance(self.neurons, tuple)
        if not is_tuple or any(type(axis) is not int for axis in self.neurons):
            raise ValueError(f"The axes of neurons are a tuple of ints, got {self.neurons!r}.")
        check_kinds((self.kind,))


Rule = Mapping[str, Axes] | Callable[[Any], Mapping[str, Axes]]
"""Axes by variable name (the last part of its path), or a function of the layer that gives them."""

_COLUMNS = Axes((-1,))
_BIAS = Axes((), "bias")
_NORMALIZATION = {name: Axes((), "normalization") for name in ("gamma", "beta", "scale")}
_DENSE = dict.fromkeys(("kernel", "lora_kernel_a", "lora_kernel_b"), _COLUMNS) | {"bias": _BIAS}
_EMBEDDING = dict.fromkeys(  # a dense kernel (vocabulary, units) after a one-hot input
    ("embeddings", "reverse_embeddings", "lora_embeddings_a", "lora_embeddings_b"), _COLUMNS
)
_DEPTHWISE = {"kernel": Axes((-2, -1)), "bias": _BIAS}
_SEPARABLE = {"depthwise_kernel": Axes((-2, -1)), "pointwise_kernel": _COLUMNS, "bias": _BIAS}
_TRANSPOSED = {"kernel": Axes((-2,)), "bias": _BIAS}
_RECURRENT = {"kernel": _COLUMNS, "recurrent_kernel": _COLUMNS, "bias": _BIAS}


def _einsum_dense(layer: layers.EinsumDense) -> Mapping[str, Axes]:
    """Axes of the kernel whose label is in the output run over neurons; the others are summed."""
    inputs, output = layer.equation.split("->")
    labels = inputs.split(",")[1].strip()
    return {**_DENSE, "kernel": Axes(tuple(i for i, x in enumerate(labels) if x in output))}


def _gru_cell(layer: layers.GRUCell) -> Mapping[str, Axes]:
    """With `reset_after` the bias is two vectors, one for the input and one for the state."""
    return {**_RECURRENT, "bias": Axes((0,) if layer.reset_after else (), "bias")}


_BY_RULE: list[tuple[Rule, list[type]]] = [
    (_DENSE, [layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D]),
    (_einsum_dense, [layers.EinsumDense]),
    (_TRANSPOSED, [layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose]),
    (_DEPTHWISE, [layers.DepthwiseConv1D, layers.DepthwiseConv2D]),
    (_SEPARABLE, [layers.SeparableConv1D, layers.SeparableConv2D]),
    (_EMBEDDING, [layers.Embedding]),
    (_RECURRENT, [layers.SimpleRNNCell, layers.LSTMCell, ConvLSTMCell]),
    (_gru_cell, [layers.GRUCell]),
    # Additive attention scores with one neuron, whose weight vector this is.
    ({"scale": Axes(())}, [layers.AdditiveAttention]),
    ({"scale": _BIAS, "concat_score_weight": _BIAS}, [layers.Attention]),
    ({"alpha": _BIAS}, [layers.PReLU]),
    ({"real_kernel": _COLUMNS, "imag_kernel": _COLUMNS}, [layers.STFTSpectrogram]),
    (_NORMALIZATION, [layers.BatchNormalization, layers.LayerNormalization]),
    (_NORMALIZATION, [layers.GroupNormalization, layers.RMSNormalization]),
]
_RULES = {layer_class: rule for rule, classes in _BY_RULE for layer_class in classes}


def register(layer_class: type[keras.Layer], rule: Rule) -> None:
    """Say how the variables of your own layer split into weight vectors.

    A rule holds for subclasses too, unless they have their own. Registering a class again
    replaces its rule.

    Args:
        layer_class: a subclass of `keras.Layer`; a ValueError for anything else.
        rule: `Axes` by variable name, or a function that takes the layer and returns them.

    Examples:
        >>> class Scale(keras.Layer):
        ...     def build(self, shape):
        ...         self.factor = self.add_weight(shape=(shape[-1],), name="factor")
        >>> register(Scale, {"factor": Axes((), "bias")})
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.Layer)):
        raise ValueError(f"Expected a subclass of keras.Layer, got {layer_class!r}.")
    if isinstance(rule, Mapping):
        if not all(isinstance(axes, Axes) for axes in rule.values()):
            raise ValueError(f"A rule maps variable names to Axes, got {dict(rule)!r}.")
    elif not callable(rule):
        raise ValueError(f"A rule is a mapping or a function of the layer, got {rule!r}.")
    _RULES[layer_class] = rule


@dataclass(frozen=True)
class WeightVectors:
    """The weight vectors of one `keras.Variable`, the layer that owns it, and its `Axes`."""

    variable: Any
    layer: keras.Layer
    neuron_axes: tuple[int, ...]
    kind: Kind

    @property
    def path(self) -> str:
        """Layer and variable, such as "dense/kernel"."""
        return f"{self.layer.name}/{self.variable.name}"

    def matrix(self) -> np.ndarray:
        """The present values, shape (neurons, d), one weight vector per row."""
        return to_matrix(keras.ops.convert_to_numpy(self.variable), self.neuron_axes)


def of(
    model_or_layer: keras.Layer,
    kinds: Iterable[Kind] = ("kernel",),
    skip: Callable[[Any], bool] = lambda variable: False,
) -> list[WeightVectors]:
    """The weight vectors of a model or layer, in the order of its layers.

    Args:
        model_or_layer: a built model or layer; nested layers are included.
        kinds: which kinds of variables to return. Default: kernels.
        skip: says of a variable whether to leave it out, its layer unknown. Default: none.

    Returns:
        One `WeightVectors` per trainable variable of those kinds; a shared variable appears once.

    Raises:
        ValueError: if it is not a layer, or not built, or there is no such kind.
        UnknownLayerError: if a layer with trainable variables is not registered.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
        >>> [(v.path, v.matrix().shape) for v in of(model, kinds=("kernel", "bias"))]
        [('d/kernel', (3, 4)), ('d/bias', (1, 3))]
    """
    owners = _owners_in(model_or_layer)
    wanted = check_kinds(kinds)
    variables = [v for v in model_or_layer.trainable_variables if not skip(v)]
    found = [_describe(variable, owners) for variable in variables]
    return [vectors for vectors in found if vectors.kind in wanted]


def kernels(
    model_or_layer: keras.Layer, exclude: str | Iterable[str] = (), *, frozen: bool = False
) -> dict[int, WeightVectors]:
    """The kernels that are known, by their number, for what works on kernels alone.

    Variables of unknown layers, which are mostly scales and offsets, are left out; matrices among
    them are logged. `exclude` leaves the numbers of the other kernels as they are.
    """
    owners = _owners_in(model_or_layer)
    variables = model_or_layer.trainable_variables
    if frozen:
        variables = [v for v in model_or_layer.weights if id(v) in owners]
    patterns = check_patterns("exclude", exclude)
    for pattern in patterns:
        if not any(re.search(pattern, variable.path) for variable in variables):
            _log.warning("exclude=%r is in no path of '%s'.", pattern, model_or_layer.name)
    found, unknown = [], None
    for variable in variables:
        is_excluded = any(re.search(pattern, variable.path) for pattern in patterns)
        try:
            vectors = _describe(variable, owners)
        except UnknownLayerError as error:
            if not is_excluded:
                unknown = error
                if len(variable.shape) > 1:
                    _log.warning("Left out: %s", error)
        else:
            if vectors.kind == "kernel":
                found.append((vectors, is_excluded))
    selected = {n: vectors for n, (vectors, is_excluded) in enumerate(found) if not is_excluded}
    if not selected:
        raise unknown or ValueError(f"'{model_or_layer.name}' has no kernel.")
    return selected


def of_variables(variables: Iterable[Any], layers: Iterable[keras.Layer]) -> list[WeightVectors]:
    """The weight vectors of variables, whose layers are among the given ones."""
    owners = _owners(layers)
    return [_describe(variable, owners) for variable in variables]


def alive(kind: type[_Object]) -> list[_Object]:
    """All objects of a class in this process: a Keras variable, say, does not know its layer.

    That takes about 0.1 s. `gc.freeze()` hides objects from it.
    """
    objects = gc.get_objects()
    # By type(): an object that stands for another, a weak proxy say, may raise when asked. A
    # million objects are of few types.
    kinds = {each for each in set(map(type, objects)) if issubclass(each, kind)}
    return [each for each in objects if type(each) in kinds]


def matrices(model_or_layer: keras.Layer, kinds: Iterable[Kind] = ("kernel",)) -> list[np.ndarray]:
    """The present values of each of `of`, shape (neurons, d)."""
    return [vectors.matrix() for vectors in of(model_or_layer, kinds)]


def _owners_in(model_or_layer: keras.Layer) -> dict[int, keras.Layer]:
    """The owners of a model's variables; a ValueError for what has none yet."""
    if not isinstance(model_or_layer, keras.Layer):
        raise ValueError(f"Expected a Keras model or layer, got {model_or_layer!r}.")
    if not model_or_layer.built:
        raise ValueError(f"'{model_or_layer.name}' is not built, so it has no weights yet.")
    return _owners(model_or_layer._flatten_layers())


def _owners(candidates: Iterable[Any]) -> dict[int, keras.Layer]:
    """The layer that created each variable, by the variable's id."""
    owners: dict[int, keras.Layer] = {}
    nearest: dict[int, int] = {}
    for layer in candidates:
        for variable in getattr(layer, "_trainable_variables", ()):
            # A layer that borrows a variable (tied weights) tracks it too, under another path; one
            # that borrows it from a layer inside it has a part of that layer's path.
            is_inside = variable.path.startswith(f"{layer.path}/")
            common = len(layer.path) if is_inside else -1
            if common > nearest.get(id(variable), -2):
                owners[id(variable)], nearest[id(variable)] = layer, common
    return owners


def _describe(variable: Any, owners: Mapping[int, keras.Layer]) -> WeightVectors:
    """Look up the rule of the variable's layer."""
    layer = owners.get(id(variable))
    if layer is None:
        name = repr(variable.path) if hasattr(variable, "path") else f"of {type(variable).__name__}"
        raise UnknownLayerError(
            f"No live Keras layer owns the variable {name}, so its weight vectors are not known. "
            "Pass variables of Keras, as model.trainable_variables; make them with add_weight in "
            "a layer, or exclude them. If gc.freeze() has hidden the layer, call the optimizer's "
            "capture(model) first."
        )
    for ancestor in type(layer).__mro__:
        if ancestor in _RULES:
            rule = _RULES[ancestor]
            axes = (rule(layer) if callable(rule) else rule).get(variable.name)
            if axes is not None:
                return WeightVectors(variable, layer, axes.neurons, axes.kind)
    raise UnknownLayerError(
        f"The weight vectors of '{variable.path}' (layer class {type(layer).__name__}, shape "
        f"{tuple(variable.shape)}) are not known. Say which axes run over neurons, as in "
        f"laperm_lib.weight_vectors.register({type(layer).__name__}, "
        f"{{'{variable.name}': laperm_lib.weight_vectors.{_example(variable)}}}), or exclude the "
        "variable from permuting. Then compile the model again."
    )


def _example(variable: Any) -> str:
    """Axes that a variable of this shape may have."""
    example = "Axes(neurons=(-1,))" if len(variable.shape) > 1 else "Axes((), 'bias')"
    if re.fullmatch(r"variable(_\d+)?", variable.name):
        return f"{example}, once add_weight has given it a name of its own"
    return example
