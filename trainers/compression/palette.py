"""`palette16` and `palette8`: quantized after training, with few distinct values per kernel.

Only the download shrinks; see `trainers.compression.rewrites.palette`.
"""

from trainers.compression import Method
from trainers.registry import compressors

for _values in (8, 16):
    _name = f"palette{_values}"
    compressors.register(_name)(
        Method(
            _name,
            changes_weights=False,
            needs_calibration=True,
            rewrites=(_name,),
            title=f"quantized after training, {_values} values per kernel",
        )
    )
