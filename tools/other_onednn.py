"""Prints the value of `TF_ENABLE_ONEDNN_OPTS` that differs from the default: 0 where oneDNN is on.

Without that variable, oneDNN is on for CPUs with AVX-512 VNNI.
"""

import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.simplefilter("ignore")

from tensorflow.python.util import _pywrap_util_port  # noqa: E402 - quiet before it loads

if __name__ == "__main__":
    print(int(not _pywrap_util_port.IsMklEnabled()))
