r"""Switch: train which initial weights are on; the others are 0.

An inner optimizer updates the weights freely for k steps. Then each weight takes its initial value
back, or 0, whichever is nearer:

.. math:: w_i \leftarrow w_{0,i} \, [\, w_i / w_{0,i} \ge 1/2 \,].

Weights that are 0 are trained as all others, so one that is switched off can come back.

References:
    Ivan and Florian, "Training highly effective connectivities within neural networks with randomly
    initialized, fixed weights", arXiv 2006.16627.
    Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?", CVPR 2020, arXiv
    1911.13299, who find such masks by scores.
"""

import keras

from laperm_lib.optimizers.projecting import ProjectingOptimizer
from laperm_lib.synchronisation.projections import Masks


@keras.saving.register_keras_serializable(package="laperm_lib")
class Switch(ProjectingOptimizer):
    """Trains a network by switching its initial weights on and off.

    Everything else is as for `LaPerm`: which weights are trained so, when they are projected, how
    they are saved. A weight that starts as 0 stays 0.

    The arguments, their defaults and the errors are those of `LaPerm`; the default name is
    "switch".

    Examples:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> start = keras.ops.convert_to_numpy(model.layers[0].kernel).copy()
        >>> model.compile(Switch("adam"), loss="mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
        >>> end = keras.ops.convert_to_numpy(model.layers[0].kernel)
        >>> bool(((end == start) | (end == 0)).all())
        True
    """

    projection = Masks()
    default_name = "switch"
