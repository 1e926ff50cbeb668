"""The one door to Keras: `tf_keras` (Keras 2), which TFMOT, TFMA and multi-worker training need.

Every other file says `from trainers.keras import keras`. The variable below also turns
`tf.keras` inside third-party code into `tf_keras`, so it has to be set before TensorFlow loads.
"""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tf_keras as keras
from tensorflow.python.autograph.core import config as autograph

from trainers import conv_gradient

# TensorFlow 2.16 tells AutoGraph to leave `keras` alone and has forgotten `tf_keras`, as later
# versions have not: rewriting the optimizers' sources takes a process's first step 35 s of CPU.
# `trainers` branches on tensors by `tf.cond` and the like alone, so it needs no rewriting either.
autograph.CONVERSION_RULES = (
    *(autograph.DoNotConvert(package) for package in ("tf_keras", "trainers")),
    *autograph.CONVERSION_RULES,
)

conv_gradient.install()

__all__ = ["keras"]
