r"""SignedLaPerm: permute the initial magnitudes, and train their signs.

An inner optimizer updates the weights freely for k steps. Then the initial magnitudes are put back
in the rank order of the weights' magnitudes, each with the sign of its weight:

.. math:: w_i \leftarrow \operatorname{sign}(w_i) \, a_{(r_i)},

where :math:`a_{(1)} \le a_{(2)} \le \dots` are the magnitudes :math:`|w_{0}|` in order, and
:math:`r_i` is the rank of :math:`|w_i|`. That is the nearest vector of these magnitudes, whatever
their places and signs. It is `LaPerm` and `SignFlip` in one.
"""

import keras

from laperm_lib.optimizers.projecting import ProjectingOptimizer
from laperm_lib.synchronisation.projections import SignedPermutations


@keras.saving.register_keras_serializable(package="laperm_lib")
class SignedLaPerm(ProjectingOptimizer):
    """Trains a network by permuting its initial weights and flipping their signs.

    Everything else is as for `LaPerm`: which weights are trained so, when they are projected, how
    they are saved.

    The arguments, their defaults and the errors are those of `LaPerm`; the default name is
    "signed_laperm".

    Examples:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> start = keras.ops.convert_to_numpy(model.layers[0].kernel).copy()
        >>> model.compile(SignedLaPerm("adam"), loss="mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
        >>> end = keras.ops.convert_to_numpy(model.layers[0].kernel)
        >>> bool((np.sort(abs(start), axis=0) == np.sort(abs(end), axis=0)).all())
        True
    """

    projection = SignedPermutations()
    default_name = "signed_laperm"
