"""Batch normalisation and Adam as Keras defines them, in one pass where TensorFlow has that.

On TensorFlow, Keras composes both of a dozen operations, each of which reads and writes whole
feature maps or weights: most of a training step of conv2 on a CPU. The fused operations that Keras
2 used are still there and do the same in a quarter of the time.
"""

from typing import Any

import keras
from keras import layers, ops

from laperm_lib import _backend

# What TensorFlow's operation takes; in half precision it computes in float32, as Keras does.
_FUSED_DTYPES = ("float16", "bfloat16", "float32")


@keras.saving.register_keras_serializable(package="laperm_lib")
class BatchNormalization(layers.BatchNormalization):
    r"""Keras's batch normalisation, trained with TensorFlow's fused operation where that fits.

    With the mean :math:`\mu` and the variance :math:`\sigma^2` of each channel over the batch of
    N values, it is the same function::

        y = gamma (x - mu) / sqrt(sigma^2 + epsilon) + beta

    and the moving statistics take the same :math:`\mu` and :math:`\sigma^2`, up to rounding. It
    fits images with channels last, in float16, bfloat16 or float32, while the layer trains; in all
    other cases, and on the other backends, Keras's own computation is used, bit for bit.

    References:
        Ioffe and Szegedy, ICML 2015, algorithm 1.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise a batch; the arguments are those of Keras."""
        if training and self.trainable and mask is None and self._is_fusible(inputs):
            return self._fused(inputs)
        return super().call(inputs, training=training, mask=mask)

    def _is_fusible(self, inputs: Any) -> bool:
        return (
            _backend.tensorflow() is not None
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
            and not self.synchronized
            and not self.renorm
            and keras.backend.standardize_dtype(inputs.dtype) in _FUSED_DTYPES
        )

    def _fused(self, inputs: Any) -> Any:
        tf = _backend.tensorflow()
        outputs, mean, unbiased, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ops.cast(self.gamma, "float32"),
            offset=ops.cast(self.beta, "float32"),
            mean=tf.zeros((0,)),
            variance=tf.zeros((0,)),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation gives the variance over N - 1, where Keras keeps that over N.
        size = ops.cast(tf.size(inputs) / inputs.shape[-1], "float32")
        self._follow(self.moving_mean, mean)
        self._follow(self.moving_variance, unbiased * (size - 1) / size)
        return ops.cast(outputs, self.compute_dtype)

    def _follow(self, moving: Any, of_batch: Any) -> None:
        of_batch = ops.cast(of_batch, moving.dtype)
        moving.assign(moving * self.momentum + of_batch * (1.0 - self.momentum))


@keras.saving.register_keras_serializable(package="laperm_lib")
class Adam(keras.optimizers.Adam):
    r"""Keras's Adam, with TensorFlow's fused operation where that fits.

    It is the same up to rounding::

        m <- m + (1 - beta_1) (g - m),    v <- v + (1 - beta_2) (g^2 - v)
        w <- w - lr sqrt(1 - beta_2^t) / (1 - beta_1^t)  m / (sqrt(v) + epsilon)

    It fits float32 weights without `amsgrad`, and dense gradients; in all other cases, and on the
    other backends, Keras's own computation is used.

    References:
        Kingma and Ba, ICLR 2015, algorithm 1 and the end of section 2.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Take a step of one variable; the arguments are those of Keras."""
        tf = _backend.tensorflow()
        is_dense = tf is not None and isinstance(gradient, tf.Tensor)
        if not is_dense or self.amsgrad or variable.dtype != "float32":
            super().update_step(gradient, variable, learning_rate)
            return
        number = self._get_variable_index(variable)
        state = self._momentums[number], self._velocities[number]
        w, m, v = (_resource(each) for each in (variable, *state))
        beta_1, beta_2 = tf.constant(self.beta_1), tf.constant(self.beta_2)
        step = tf.cast(ops.convert_to_tensor(self.iterations) + 1, "float32")
        tf.raw_ops.ResourceApplyAdam(
            var=w,
            m=m,
            v=v,
            beta1_power=beta_1**step,
            beta2_power=beta_2**step,
            lr=tf.cast(learning_rate, "float32"),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.constant(self.epsilon),
            grad=tf.cast(gradient, "float32"),
        )


def _resource(variable: Any) -> Any:
    """What TensorFlow's operations take as a variable, of Keras's variable or its own."""
    return getattr(variable, "_value", variable).handle
