r"""SignFlip: train the signs of initial weights; magnitudes stay.

An inner optimizer updates the weights freely for k steps. Then each weight takes its initial
magnitude back, with the sign that the inner optimizer has produced:

.. math:: w_i \leftarrow \operatorname{sign}(w_i) \, |w_{0,i}|.

That is the nearest vector with these magnitudes.

References:
    Ivan and Florian, "Training highly effective connectivities within neural networks with randomly
    initialized, fixed weights", arXiv 2006.16627.
"""

import keras

from laperm_lib.optimizers.projecting import ProjectingOptimizer
from laperm_lib.synchronisation.projections import Signs


@keras.saving.register_keras_serializable(package="laperm_lib")
class SignFlip(ProjectingOptimizer):
    """Trains a network by flipping the signs of its initial weights.

    Everything else is as for `LaPerm`: which weights are trained so, when they are projected, how
    they are saved. A weight that starts as 0 stays 0.

    Args:
        inner_optimizer: as for `LaPerm`, and so are all others.
        sync_period: the number of steps k between projections, or a schedule of it. Default 10.
        skip_bias: leave biases to the inner optimizer. Default True.
        skip_batch_norm: leave normalisation to the inner optimizer. Default True.
        exclude: regular expressions of paths left to the inner optimizer. Default: none.
        latent_weights: train latent weights; the model holds their projection. Default False.
        name: name of the optimizer. Default "sign_flip".

    Raises:
        ValueError, UnknownLayerError, NonFiniteWeightError: as `LaPerm`.

    Examples:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> start = keras.ops.convert_to_numpy(model.layers[0].kernel).copy()
        >>> model.compile(SignFlip("adam"), loss="mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
        >>> end = keras.ops.convert_to_numpy(model.layers[0].kernel)
        >>> bool((abs(start) == abs(end)).all())
        True
    """

    projection = Signs()
    default_name = "sign_flip"
