"""The compiled part of the device program: a block of training steps, as functions of JAX arrays.

A run's state is a tuple of three lists: trainable variables, other variables, and those of the
inner optimizer. That of several runs has the runs on the first axis of each array.
"""

from collections.abc import Callable
from typing import Any

import keras

from laperm_lib.augmentation import apply_transforms
from laperm_lib.optimizers.laperm import LaPerm
from laperm_lib.synchronisation.in_graph import reconnect_all


def _total_loss(model: keras.Model) -> Callable[..., Any]:
    """A run's loss with all penalties, and its other variables then, as a function of its state.

    It is the one of `fit`, so that losses mean here what they mean there.
    """

    def total_loss(trainable: Any, others: Any, x: Any, y: Any) -> Any:
        no_metrics: list[Any] = []
        loss, (_, _, others, _) = model.compute_loss_and_updates(
            trainable, others, no_metrics, x, y, None, training=True, optimizer_variables=[]
        )
        return loss, others

    return total_loss


def computation(model: keras.Model, x: Any, y: Any) -> str:
    """What a run computes in a step, but for the optimizer: loss, penalties and constraints.

    Weights and the states of random layers are arguments of it and not part of the text, so runs of
    one architecture have one text, however their layers are named, nested or written.

    Args:
        model: compiled with a loss, and built.
        x: images of one step.
        y: their targets.

    Returns:
        The program that JAX gives to the compiler, as text.
    """
    import jax

    total_loss = _total_loss(model)
    trainable, others = model.trainable_variables, model.non_trainable_variables

    def computed(trainable_values: Any, other_values: Any, x: Any, y: Any) -> Any:
        mapping = list(zip(trainable, trainable_values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            constrained = [v.constraint(v) for v in trainable if v.constraint is not None]
        return total_loss(trainable_values, other_values, x, y), constrained

    values = [[variable.value for variable in part] for part in (trainable, others)]
    return str(jax.jit(computed).lower(*values, x, y).as_text())


def _step(model: keras.Model) -> Callable[..., Any]:
    """One training step of one run, as a function of its state."""
    import jax

    optimizer = model.optimizer
    inner = optimizer.inner_optimizer if isinstance(optimizer, LaPerm) else optimizer
    total_loss = _total_loss(model)

    def step(state: Any, x: Any, y: Any) -> Any:
        trainable, others, slots = state
        (loss, others), gradients = jax.value_and_grad(total_loss, has_aux=True)(
            trainable, others, x, y
        )
        trainable, slots = inner.stateless_apply(slots, gradients, trainable)
        return (trainable, others, slots), loss

    return step


def step_on_samples(model: keras.Model, several: bool) -> Callable[..., Any]:
    """One step on some samples of an epoch, for one run or several side by side.

    Args:
        model: compiled, its optimizer built; the runs differ in their states.
        several: whether states have the runs on a first axis.

    Returns:
        A function of state, all images and targets, the epoch's order and transforms, and the
        places in that order; it gives the new state and the loss.
    """
    import jax

    step = _step(model)

    def on_samples(state: Any, x: Any, y: Any, order: Any, transforms: Any, chosen: Any) -> Any:
        samples = order[chosen]
        images = x[samples]
        if transforms is not None:
            images = apply_transforms(images, transforms[samples])
        return step(state, images, y[samples])

    return jax.vmap(on_samples, in_axes=(0, None, None, 0, 0, None)) if several else on_samples


def block_of_steps(model: keras.Model, several: bool, *, looped: bool) -> Callable[..., Any]:
    """A number of steps, then the synchronisation of those runs for which it is due.

    Args:
        model: as for `step_on_samples`.
        several: as for `step_on_samples`.
        looped: whether there may be several steps, in a compiled loop, or there is always one.

    Returns:
        A function of state, sorted initial values, all images and targets, (order, transforms) of
        the epoch, the first place in that order, the number of steps, whether a synchronisation
        ends them (for each run), and the number of samples in a step, which is static. It gives the
        new state and the sum of the losses.
    """
    import jax
    import jax.numpy as jnp

    step = step_on_samples(model, several)
    axes, places = _permuted(model)

    def synchronise(weights: Any, initial: Any) -> Any:
        return reconnect_all(axes, weights, initial)

    def block(
        state: Any, initial: Any, x: Any, y: Any, epoch: Any, first: Any, count: Any, due: Any,
        size: int,
    ) -> Any:  # fmt: skip
        order, transforms = epoch

        def one(number: Any, carried: Any) -> Any:
            state, sum_of_losses = carried
            chosen = first + number * size + jnp.arange(size)
            state, loss = step(state, x, y, order, transforms, chosen)
            return state, sum_of_losses + loss

        no_loss = jnp.zeros(due.shape)
        begun = (state, no_loss)
        done = jax.lax.fori_loop(0, count, one, begun) if looped else one(0, begun)
        (trainable, others, slots), losses = done
        if places:
            weights = [trainable[place] for place in places]

            def synchronised() -> Any:
                new = (jax.vmap(synchronise) if several else synchronise)(weights, initial)
                return [
                    jnp.where(jnp.reshape(due, due.shape + (1,) * (w.ndim - due.ndim)), n, w)
                    for n, w in zip(new, weights, strict=True)
                ]

            weights = jax.lax.cond(jnp.any(due), synchronised, lambda: weights)
            trainable = list(trainable)
            for place, value in zip(places, weights, strict=True):
                trainable[place] = value
        return (trainable, others, slots), losses

    return block


def _permuted(model: keras.Model) -> tuple[list[tuple[int, ...]], list[int]]:
    """Of each permuted variable its neuron axes, and its place among the trainable ones."""
    optimizer = model.optimizer
    if not isinstance(optimizer, LaPerm):
        return [], []
    place_of = {id(variable): n for n, variable in enumerate(model.trainable_variables)}
    return (
        [entry.neuron_axes for entry in optimizer.permuted],
        [place_of[id(entry.variable)] for entry in optimizer.permuted],
    )


def count_correct(model: keras.Model, several: bool) -> Callable[..., Any]:
    """How many images each run gets right: a function of state, images and classes."""
    import jax
    import jax.numpy as jnp

    def correct(state: Any, x: Any, y: Any) -> Any:
        trainable, others, _ = state
        outputs, _ = model.stateless_call(trainable, others, x, training=False)
        return jnp.sum(jnp.argmax(outputs, axis=-1) == y)

    return jax.vmap(correct, in_axes=(0, None, None)) if several else correct
