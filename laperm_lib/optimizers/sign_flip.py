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

    The arguments, their defaults and the errors are those of `LaPerm`; the default name is
    "sign_flip".

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
