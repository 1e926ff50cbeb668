"""`none` and `ptq`: the trained model as it is, and quantised after training.

`dynamic` keeps int8 kernels and float activations, without data; `int8` sets the activations'
ranges from calibration images, and corrects the biases by them (`bias_correction`). Both happen in
the converter's process (`trainers.compression.convert`).
"""

from trainers.compression import FLOAT, FineTune, Method
from trainers.config import CompressConfig
from trainers.keras import keras
from trainers.registry import compressors


def _as_it_is(model: keras.Model, fine_tune: FineTune, settings: CompressConfig) -> keras.Model:
    del fine_tune, settings
    return model


compressors.register("none")(Method("none", start=FLOAT, dtypes=("fp32",), run=_as_it_is))
compressors.register("ptq")(Method("ptq", start=FLOAT, dtypes=("dynamic", "int8"), run=_as_it_is))
