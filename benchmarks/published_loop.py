"""The training loop of the paper's notebooks, rewritten on the legacy Keras that they need.

A reference for speed and for accuracy, slow on purpose where the original is. Not part of the
library: it stands for how the notebooks train, so that the library can be compared with them.

What it keeps of them: the loss of each image has the L2 penalty added and is not averaged over the
batch, so gradients are sums over it; gradients are applied outside of the compiled function;
`ImageDataGenerator` distorts, image by image, between the steps; the learning rate is set at every
step; and every k-th step the variables are synchronised by the ranks that two argsorts give: biases
too, but for conv2, where biases and batch normalisation are left to Adam.

What it leaves out: the evaluation of 40,000 images every hundred steps of conv7; and where nothing
is distorted the generator, whose loop over the images would only copy them.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers
from tf_keras.preprocessing.image import ImageDataGenerator

AUGMENTATION = {
    "rotation_range": 10,
    "zoom_range": 0.1,
    "width_shift_range": 0.1,
    "height_shift_range": 0.1,
}
"""conv7's distortions; the generator fills with the nearest pixel unless told otherwise."""


def train(
    name: str,
    weights: Sequence[np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    *,
    batch_size: int,
    learning_rate: Callable[[int], float],
    sync_period: int,
    steps: int,
    seed: int,
    augmentation: bool = False,
    after_sync: Callable[[int, Any], None] = lambda step, model: None,
) -> Any:
    """Train for a number of steps.

    Args:
        name: "conv2", "conv7", "f1" or "f2".
        weights: the initial weights in the order of the model's, as `get_weights()` of the Keras 3
            model of that name gives them.
        x: training images, float32, shape (n, 28, 28, 1), or (n, 32, 32, 3) for conv2.
        y: classes, shape (n,).
        batch_size: images per step; the last batch of an epoch holds what is left.
        learning_rate: Adam's rate in an epoch, which is counted from 0.
        sync_period: steps between synchronisations.
        steps: how many to take.
        seed: for the order and distortion of the images, and for dropout.
        augmentation: whether the images are distorted as for conv7.
        after_sync: is called with the number of steps taken and the model, whose outputs are
            probabilities, after each synchronisation.

    Returns:
        The trained tf_keras model.
    """
    model = build(name, weights)
    training = run(
        model,
        x,
        y,
        batch_size=batch_size,
        learning_rate=learning_rate,
        sync_period=sync_period,
        seed=seed,
        augmentation=augmentation,
    )
    for step in islice(training, steps):
        if step % sync_period == 0:
            after_sync(step, model)
    return model


def run(
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    *,
    batch_size: int,
    learning_rate: Callable[[int], float],
    sync_period: int,
    seed: int,
    augmentation: bool,
) -> Iterator[int]:
    """Train without end; the arguments are those of `train`.

    Yields:
        The number of steps taken, after each.
    """
    tf_keras.utils.set_random_seed(seed)
    variables = model.trainable_variables
    permuted = [v for v in variables if "kernel" in v.name or model.name != "conv2"]
    sorted_initial = [tf.sort(_weight_vectors(variable)) for variable in permuted]
    optimizer = tf_keras.optimizers.Adam()
    if augmentation:
        batches = ImageDataGenerator(**AUGMENTATION).flow(x, y, batch_size=batch_size, shuffle=True)
    else:
        batches = _shuffled(x, y, batch_size, seed)
    steps_per_epoch = -(-len(x) // batch_size)

    @tf.function
    def gradients(images: Any, classes: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            loss = tf_keras.losses.sparse_categorical_crossentropy(classes, outputs)
            loss += sum(model.losses)
        return tape.gradient(loss, variables)  # of the sum of the vector `loss`

    step = 0
    while True:
        optimizer.learning_rate.assign(learning_rate(step // steps_per_epoch))
        images, classes = next(batches)
        optimizer.apply_gradients(zip(gradients(images, classes), variables, strict=True))
        step += 1
        if step % sync_period == 0:
            for variable, values in zip(permuted, sorted_initial, strict=True):
                _synchronise(variable, values)
        yield step


def _shuffled(
    x: np.ndarray, y: np.ndarray, batch_size: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches without end, in a new order in each epoch."""
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(len(x))
        for first in range(0, len(x), batch_size):
            chosen = order[first:][:batch_size]
            yield x[chosen], y[chosen]


def _weight_vectors(variable: Any) -> Any:
    """One weight vector per row: a column of a dense kernel, a filter, or a whole bias vector."""
    columns = variable.shape[-1] if len(variable.shape) > 1 else 1
    return tf.transpose(tf.reshape(variable, (-1, columns)))


def _synchronise(variable: Any, sorted_initial: Any) -> None:
    """Give each weight the initial value of its rank."""
    ranks = tf.argsort(tf.argsort(_weight_vectors(variable)))
    new = tf.gather(sorted_initial, ranks, batch_dims=1)
    variable.assign(tf.reshape(tf.transpose(new), variable.shape))


def build(name: str, weights: Sequence[np.ndarray]) -> Any:
    """A network with softmax and the given weights."""
    shape = (32, 32, 3) if name == "conv2" else (28, 28, 1)
    model = tf_keras.Sequential([layers.Input(shape), *_LAYERS[name]()], name=name)
    model.set_weights(weights)
    return model


def _conv7() -> list[Any]:
    stack: list[Any] = []
    for filters in (32, 64):
        stack += [
            layers.Conv2D(filters, 3, activation="relu"),
            layers.Conv2D(filters, 3, activation="relu"),
            layers.Conv2D(filters, 5, strides=2, padding="same", activation="relu"),
            layers.Dropout(0.4),
        ]
    stack += [layers.Conv2D(128, 4, activation="relu"), layers.Flatten(), layers.Dropout(0.4)]
    return [*stack, layers.Dense(10, activation="softmax")]


def _conv2() -> list[Any]:
    convolution = {"padding": "same", "activation": "relu", "kernel_regularizer": _l2()}
    dense = {"activation": "relu", "kernel_regularizer": _l2()}
    return [
        layers.Conv2D(64, 3, **convolution),
        layers.BatchNormalization(),
        layers.Dropout(0.3),
        layers.Conv2D(64, 3, **convolution),
        layers.BatchNormalization(),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(256, **dense),
        layers.Dropout(0.5),
        layers.BatchNormalization(),
        layers.Dense(256, **dense),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Dense(10, activation="softmax"),
    ]


def _f1() -> list[Any]:
    return [layers.Flatten(), layers.Dense(10, activation="softmax", use_bias=False)]


def _f2() -> list[Any]:
    hidden = [
        layers.Dense(units, activation="relu", use_bias=False, kernel_regularizer=_l2())
        for units in (128, 64)
    ]
    output = layers.Dense(10, activation="softmax", use_bias=False)
    return [layers.Flatten(), *hidden, output]


def _l2() -> Any:
    return tf_keras.regularizers.l2(1e-4)


_LAYERS = {"conv2": _conv2, "conv7": _conv7, "f1": _f1, "f2": _f2}
