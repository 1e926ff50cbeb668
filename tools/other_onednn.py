"""Prints the other value of `TF_ENABLE_ONEDNN_OPTS` than the current one: 0 where oneDNN is on.

Without that variable TensorFlow decides by the CPU: oneDNN is on where it has AVX-512 VNNI.
"""

import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.simplefilter("ignore")

from tensorflow.python.util import _pywrap_util_port  # noqa: E402 - quiet before it loads

if __name__ == "__main__":
    print(int(not _pywrap_util_port.IsMklEnabled()))
