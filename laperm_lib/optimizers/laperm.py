r"""LaPerm: train by reconnecting, with an inner optimizer that proposes the order.

Algorithm 1 of the paper. An inner optimizer (Adam in the paper) updates the weights freely for k
steps, the sync period. Then every weight vector takes its initial values back, arranged in the rank
order that the inner optimizer has produced:

.. math:: w[\operatorname{argsort}(w)] \leftarrow \operatorname{sort}(w_0).

The moments of the inner optimizer are left as they are. After every synchronisation the network is
a permutation of its initial weights, bit for bit.

A synchronisation throws away how far the inner optimizer has moved the weights that keep their
rank: with few distinct values, nearly everything. With latent weights v nothing is thrown away. The
inner optimizer trains these with the gradients at their permuted image w, which the model holds (a
straight-through estimator, as in networks with binary weights):

.. math:: v \leftarrow v + \Delta(\nabla L(w)), \qquad
    w[\operatorname{argsort}(v)] \leftarrow \operatorname{sort}(w_0).

References:
    Qiu and Suda, "Train-by-Reconnect: Decoupling Locations of Weights from Their Values",
    NeurIPS 2020, section 4, algorithm 1.
    Helwegen et al., "Latent Weights Do Not Exist: Rethinking Binarized Neural Network
    Optimization", NeurIPS 2019, arXiv 1906.02107, on latent weights.
"""

import keras

from laperm_lib.optimizers.projecting import ProjectingOptimizer
from laperm_lib.synchronisation.projections import Permutations


@keras.saving.register_keras_serializable(package="laperm_lib")
class LaPerm(ProjectingOptimizer):
    """Trains a network by permuting its initial weights.

    The initial weights are those at the first training step (or at `capture`). The learning rate,
    the step count, clipping, weight decay and averaging are the inner optimizer's. When `fit` ends,
    the model is synchronised. Constraints of layers act in each step of the inner optimizer; what a
    synchronisation puts back are the initial values. Under `keras.distribution.DataParallel` (JAX)
    and under `tf.distribute.MirroredStrategy`, each device synchronises its own copy of the
    weights, and the copies stay equal. Weights that a synchronisation cannot change are logged as a
    warning when training starts.

    Validation, `EarlyStopping` and best checkpoints see the network between synchronisations,
    unless `laperm_lib.callbacks.SynchroniseAtEpochEnd` comes first in the list of callbacks.

    Args:
        inner_optimizer: a `keras.optimizers.Optimizer`, or its name.
        sync_period: the number of steps k between synchronisations, a positive int; or a schedule,
            a function of the step (an integer tensor) that gives the period then in force, such as
            `keras.optimizers.schedules.PiecewiseConstantDecay([1000], [20, 100])`. Best are the
            steps in which a weight moves by some ten gaps between neighbouring initial values: 5
            at ten times Adam's usual rate, falling to 0, which trains best, and 20 to 50 at 0.001.
            Default 10.
        skip_bias: leave biases to the inner optimizer. Default True.
        skip_batch_norm: leave scale and offset of batch normalisation, and of the other
            normalisation layers, to the inner optimizer. Default True.
        exclude: regular expressions; a variable in whose `path`, such as "sequential/dense/kernel",
            one of them is found is left to the inner optimizer, as `exclude_from_weight_decay` does
            in Keras. Default: none.
        latent_weights: train latent weights; the model holds their permuted image after every step,
            which is renewed every `sync_period` steps. Meant for a period of 1, and for weights of
            few distinct values. Keeps one more copy of the weights. Default False.
        name: name of the optimizer. Default "laperm".

    Raises:
        ValueError: for a `sync_period` that is not a positive int or such a schedule, a pattern
            that is no regular expression, or an inner optimizer that cannot be wrapped.
        ValueError: when training starts, if every variable is skipped or excluded.
        UnknownLayerError: when training starts, for a layer whose weight vectors are not known.
        NonFiniteWeightError: when training starts, or by `capture`, if a weight is NaN or infinite.
        NonFiniteWeightError: when a vector to be sorted holds a NaN or an infinity; no weight is
            synchronised then. TensorFlow wraps it in its InvalidArgumentError. It is raised only
            when `fit` ends, which `keras.callbacks.TerminateOnNaN` brings forward, with JAX, in
            TensorFlow's graphs with a GPU or `jit_compile=True`, and with torch off the CPU.

    Examples:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> start = np.sort(keras.ops.convert_to_numpy(model.layers[0].kernel), axis=0)
        >>> model.compile(LaPerm("adam"), loss="mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
        >>> end = np.sort(keras.ops.convert_to_numpy(model.layers[0].kernel), axis=0)
        >>> bool((start == end).all())
        True

    References:
        Qiu and Suda, NeurIPS 2020, algorithm 1.
    """

    projection = Permutations()
    default_name = "laperm"

    def is_permutation(self) -> bool:
        """Whether every permuted weight vector now holds its initial values, bit for bit.

        True after each synchronisation; False as a rule between two, unless weights are latent.

        Raises:
            ValueError: before the initial values are captured.
        """
        return self.is_projected()
