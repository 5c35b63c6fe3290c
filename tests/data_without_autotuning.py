"""Turns the autotuning of TensorFlow's data sets off in the process that runs this file.

A thread of each data set looks for better settings, and sleeps ever longer in between. Told to end
it may miss the word, and then `fit`, `evaluate` or `predict` ends only after its sleep, up to as
long as they have taken; Keras makes such a data set of every array. Tests and notebooks, which
train for a second here and there, waited so for a fifth of their time. No number depends on it.
"""

import tensorflow as tf

_iterate = tf.data.Dataset.__iter__


def _iterate_without_autotuning(dataset: tf.data.Dataset) -> object:
    options = tf.data.Options()
    options.autotune.enabled = False
    return _iterate(dataset.with_options(options))


tf.data.Dataset.__iter__ = _iterate_without_autotuning
