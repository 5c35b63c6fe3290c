r"""LaPerm for PyTorch: train by reconnecting, with an optimizer of `torch.optim` inside.

The same algorithm as `laperm_lib.LaPerm`, without Keras: the inner optimizer takes k steps, then
every weight vector takes its initial values back in the rank order that it has produced,

.. math:: w[\operatorname{argsort}(w)] \leftarrow \operatorname{sort}(w_0).

Weight vectors are numbered as Keras does, so ties go to the same places.

References:
    Qiu and Suda, NeurIPS 2020, section 4, algorithm 1.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from laperm_lib import permutation
from laperm_lib._arguments import check_bool, check_integer, check_patterns
from laperm_lib.errors import NonFiniteWeightError, UnknownLayerError

# Compiling takes seconds once on a machine, which networks of fewer weights would not win back.
_WORTH_COMPILING = 100_000
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_NORMALIZATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


class _Vectors(NamedTuple):
    """A parameter as a matrix: reshaped, its axes in this order, the first of them of neurons."""

    name: str
    parameter: nn.Parameter
    shape: tuple[int, ...]
    order: tuple[int, ...]
    neurons: int

    def matrix(self) -> torch.Tensor:
        """A copy, shape (neurons, d)."""
        moved = self.parameter.detach().reshape(self.shape).permute(self.order)
        return moved.reshape(math.prod(moved.shape[: self.neurons]), -1)

    def assign(self, matrix: torch.Tensor) -> None:
        moved = matrix.reshape([self.shape[axis] for axis in self.order])
        back = [self.order.index(axis) for axis in range(len(self.order))]
        self.parameter.copy_(moved.permute(back).reshape(self.parameter.shape))


class LaPerm(torch.optim.Optimizer):
    """Trains a module by permuting its initial weights.

    Schedulers of the learning rate, parameter groups and `torch.amp.GradScaler` work on it as on
    the inner optimizer, whose groups and state it shares. The initial weights are those at the
    first step, or at `capture`. PyTorch has no end of training: call `synchronise` before the
    module is evaluated or saved.

    Args:
        inner: a `torch.optim.Optimizer` of the module's parameters.
        module: the module that is trained.
        sync_period: the steps k between synchronisations, a positive int, or a function of the step
            that gives the period then in force. `laperm_lib.LaPerm` says which is best. Default 10.
        skip_bias: leave biases to the inner optimizer. Default True.
        skip_batch_norm: leave normalisation layers to the inner optimizer. Default True.
        exclude: regular expressions; a parameter in whose name, such as "encoder.0.weight", one of
            them is found is left to the inner optimizer. Default: none.

    Raises:
        ValueError: for a wrong argument, or if no parameter is left to be permuted.
        UnknownLayerError: for a parameter of a module whose weight vectors are not known.
        NonFiniteWeightError: in a step, if a weight that starts or is to be sorted is NaN or
            infinite; nothing is synchronised then.

    Examples:
        >>> import torch
        >>> module = torch.nn.Linear(4, 3)
        >>> start = module.weight.detach().clone()
        >>> optimizer = LaPerm(torch.optim.Adam(module.parameters()), module, sync_period=2)
        >>> for _ in range(4):
        ...     optimizer.zero_grad()
        ...     module(torch.randn(8, 4)).square().sum().backward()
        ...     optimizer.step()
        >>> bool((module.weight.sort(dim=1).values == start.sort(dim=1).values).all())
        True

    References:
        Qiu and Suda, NeurIPS 2020, algorithm 1.
    """

    def __init__(
        self,
        inner: torch.optim.Optimizer,
        module: nn.Module,
        sync_period: int | Callable[[int], float] = 10,
        *,
        skip_bias: bool = True,
        skip_batch_norm: bool = True,
        exclude: str | Iterable[str] = (),
    ) -> None:
        if not isinstance(inner, torch.optim.Optimizer) or isinstance(inner, LaPerm):
            raise ValueError(f"inner is an optimizer of torch.optim, got {inner!r}.")
        if not isinstance(module, nn.Module):
            raise ValueError(f"module is a torch.nn.Module, got {module!r}.")
        if not callable(sync_period):
            sync_period = check_integer("sync_period", sync_period, at_least=1)
        self.inner, self.module, self.sync_period = inner, module, sync_period
        self._skip_bias = check_bool("skip_bias", skip_bias)
        self._skip_batch_norm = check_bool("skip_batch_norm", skip_batch_norm)
        self._exclude = check_patterns("exclude", exclude)
        self.steps = self.last_sync = 0
        self._initial: dict[str, torch.Tensor] = {}
        self._permuted: list[_Vectors] = []
        super().__init__(inner.param_groups, inner.defaults)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of the inner optimizer, and synchronise if the sync period is over."""
        self._capture_missing()
        loss = self.inner.step(closure)
        self.steps += 1
        period = self.sync_period
        if self.steps - self.last_sync >= (period(self.steps) if callable(period) else period):
            self.synchronise()
            self.last_sync = self.steps
        return loss

    def capture(self) -> None:
        """Take the module's present weights as its initial ones."""
        self._initial = {}
        self._capture_missing()
        self.last_sync = self.steps

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def synchronise(self) -> None:
        """Synchronise now; the sync period runs on undisturbed.

        Raises:
            ValueError: if nothing has been captured yet.
            NonFiniteWeightError: if a weight is NaN or infinite; no weight is changed then.
        """
        self._require_captured()
        matrices = [_finite(each) for each in self._permuted]
        initial = [self._initial[each.name] for each in self._permuted]
        with torch.no_grad():
            for each, new in zip(self._permuted, _reconnected(matrices, initial), strict=True):
                each.assign(new)

    def is_permutation(self) -> bool:
        """Whether every permuted weight vector now holds its initial values, bit for bit.

        Raises:
            ValueError: if nothing has been captured yet.
        """
        self._require_captured()
        return all(
            torch.equal(*(_bits(each).sort().values for each in both))
            for both in ((v.matrix(), self._initial[v.name]) for v in self._permuted)
        )

    @property
    def permuted_parameters(self) -> list[str]:
        """The names of the parameters that are permuted."""
        return [each.name for each in self._permuted]

    # -- what the inner optimizer has too ---------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer, captured at the next step where it is permuted."""
        if hasattr(self, "param_groups") and self.param_groups is self.inner.param_groups:
            self.inner.add_param_group(param_group)
            self._share()
        else:  # while it is made
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state, and the initial values and counts as "laperm"."""
        own = {"steps": self.steps, "last_sync": self.last_sync, "initial": dict(self._initial)}
        return {**self.inner.state_dict(), "laperm": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo `state_dict`.

        Raises:
            ValueError: if the state is not LaPerm's, or that of another module; nothing is loaded.
        """
        inner = dict(state_dict)
        own = inner.pop("laperm", None)
        if own is None:
            raise ValueError("This state was not saved by laperm_lib.torch.LaPerm.")
        shapes = {each.name: each.matrix().shape for each in self._permuted}
        saved = {name: values.shape for name, values in own["initial"].items()}
        for name, shape in saved.items():
            if shapes.get(name) != shape:
                raise ValueError(
                    f"The state has initial values of '{name}', shape {tuple(shape)}, that do not "
                    "fit: it is that of another module."
                )
        self.inner.load_state_dict(inner)
        self.steps, self.last_sync = own["steps"], own["last_sync"]
        self._initial = {
            each.name: own["initial"][each.name].to(each.parameter)
            for each in self._permuted
            if each.name in own["initial"]
        }
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has; not what a scheduler has put around `step`."""
        return {name: value for name, value in vars(self).items() if name != "step"}

    # -- internals --------------------------------------------------------------------------------

    def _share(self) -> None:
        """Have the groups and the state of the inner optimizer, which may have got new ones."""
        self.param_groups, self.state = self.inner.param_groups, self.inner.state
        trained = {id(p) for group in self.param_groups for p in group["params"]}
        self._permuted = [each for each in self._selected() if id(each.parameter) in trained]
        if not self._permuted:
            raise ValueError("Nothing is left to permute: every parameter is skipped or excluded.")

    def _selected(self) -> Iterator[_Vectors]:
        seen: set[int] = set()
        for path, module in self.module.named_modules():
            for name, parameter in module.named_parameters(path, recurse=False):
                excluded = any(re.search(pattern, name) for pattern in self._exclude)
                if excluded or id(parameter) in seen or not parameter.requires_grad:
                    continue
                seen.add(id(parameter))
                vectors = self._vectors(module, name, parameter)
                if vectors is not None:
                    yield vectors

    def _vectors(self, module: nn.Module, name: str, parameter: nn.Parameter) -> _Vectors | None:
        """A parameter as Keras would arrange its weight vectors; None if it is skipped."""
        shape, axes = tuple(parameter.shape), tuple(range(parameter.ndim))
        whole = _Vectors(name, parameter, (1, *shape), (0, *(axis + 1 for axis in axes)), 1)
        if isinstance(module, _NORMALIZATIONS):
            return None if self._skip_batch_norm else whole
        own = name.rsplit(".", 1)[-1]
        if "bias" in own or isinstance(module, nn.PReLU):
            return None if self._skip_bias else whole
        if isinstance(module, nn.modules.conv._ConvTransposeNd):  # (inputs, outputs, height, width)
            grouped = (module.groups, shape[0] // module.groups, *shape[1:])
            order = (0, 2, *(axis + 1 for axis in axes[2:]), 1)
            return _Vectors(name, parameter, grouped, order, 2)
        if isinstance(module, nn.modules.conv._ConvNd):  # (outputs, inputs, height, width)
            return _Vectors(name, parameter, shape, (0, *axes[2:], 1), 1)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):  # (vocabulary, units)
            return _Vectors(name, parameter, shape, (1, 0), 1)
        known = (nn.Linear, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
        if isinstance(module, known):
            return _Vectors(name, parameter, shape, axes, 1)
        raise UnknownLayerError(
            f"The weight vectors of '{name}' ({type(module).__name__}, shape {shape}) are not "
            f"known: exclude={re.escape(name)!r} leaves it to the inner optimizer."
        )

    def _capture_missing(self) -> None:
        for each in self._permuted:
            if each.name not in self._initial:
                matrix = _finite(each)
                values = torch.gather(matrix, 1, _order(matrix))
                self._initial[each.name] = values.contiguous()

    def _require_captured(self) -> None:
        if any(each.name not in self._initial for each in self._permuted):
            raise ValueError("No initial values yet: take a step, or call capture().")


def _finite(vectors: _Vectors) -> torch.Tensor:
    matrix = vectors.matrix()
    if not bool(torch.isfinite(matrix).all()):
        raise NonFiniteWeightError(
            f"'{vectors.name}' holds a NaN or an infinity; no weight was synchronised. Lower the "
            "learning rate or clip the gradients."
        )
    return matrix


def _reconnected(
    matrices: list[torch.Tensor], initial: list[torch.Tensor]
) -> Iterator[torch.Tensor]:
    """`permutation.reconnect` of each: compiled on a CPU, by sorting on the device elsewhere."""
    is_worth_it = sum(matrix.numel() for matrix in matrices) >= _WORTH_COMPILING
    for matrix, values in zip(matrices, initial, strict=True):
        if matrix.device.type != "cpu" or matrix.dtype != torch.float32:
            yield _by_sorting(matrix, values)
        elif is_worth_it:
            from laperm_lib.synchronisation.compiled import reconnect_columns

            columns = np.ascontiguousarray(matrix.numpy().T)
            yield torch.from_numpy(reconnect_columns([columns], [values.numpy()])[0].T)
        else:
            yield torch.from_numpy(permutation.reconnect(matrix.numpy(), values.numpy()))


def _by_sorting(matrix: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    """`permutation.reconnect` on any device, for any floats."""
    new = torch.empty_like(initial).scatter_(1, _order(matrix), initial)
    # Zeros of both signs tie: they are given out by index, as the next synchronisation would.
    new[_keys(new) == 0] = initial[_keys(initial) == 0]
    return new


def _order(matrix: torch.Tensor) -> torch.Tensor:
    return torch.argsort(_keys(matrix), dim=1, stable=True)


def _bits(floats: torch.Tensor) -> torch.Tensor:
    return floats.contiguous().view(_INTEGERS[floats.element_size()])


def _keys(floats: torch.Tensor) -> torch.Tensor:
    """Integers in the order of finite floats; -0 and +0 are both 0."""
    bits, length = _bits(floats), 8 * floats.element_size()
    keys = bits ^ ((bits >> (length - 1)) & (2 ** (length - 1) - 1))
    return torch.where(keys == -1, torch.zeros_like(keys), keys)
