"""`none` and `ptq`: the trained model as it is, and quantized after training.

`dynamic` keeps int8 kernels and float activations, without data; `int8` sets the ranges of
activations from calibration images. Both happen in the converter's process
(`trainers.compression.convert`).
"""

from trainers.compression import Method
from trainers.registry import compressors

compressors.register("none")(
    Method("none", dtypes=("fp32",), changes_weights=False, title="as trained")
)
compressors.register("ptq")(
    Method(
        "ptq",
        dtypes=("dynamic", "int8"),
        changes_weights=False,
        needs_calibration=True,
        title="quantized after training",
    )
)
