"""Peak arithmetic of devices, for the model FLOPs utilization (MFU) of training."""

import tensorflow as tf

# Dense tensor throughput in TFLOP/s from the manufacturers' data sheets: (half precision, float32).
# On Ampere and later GPUs float32 matrix products run as TF32, which is TensorFlow's default there.
_PEAKS = {
    "H100": (989.0, 495.0),
    "A100": (312.0, 156.0),
    "L4": (121.0, 60.0),
    "A10": (125.0, 62.5),
    "V100": (125.0, 15.7),
    "T4": (65.0, 8.1),
    "P100": (21.2, 10.6),
}


def peak_flops(strategy: tf.distribute.Strategy, precision: str) -> float | None:
    """Peak floating-point operations per second of all replicas; None if unknown.

    Args:
      strategy: each replica is one GPU.
      precision: `float32`, `bfloat16` or `float16`.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return None
    name = str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", ""))
    peak = device_peak(name, precision)
    return peak * strategy.num_replicas_in_sync if peak else None


def device_peak(name: str, precision: str) -> float | None:
    """Peak operations per second of one device by its name, e.g. `NVIDIA A100-SXM4-40GB`."""
    words = name.replace("-", " ").split()
    for model, (half, single) in _PEAKS.items():
        if model in words:
            return 1e12 * (single if precision == "float32" else half)
    return None
