"""The analyst's notebooks: finding, filling in and running them, and the figures that they show.

The notebooks are the `.ipynb` files of the repository's `notebooks/`, or of `files/` beside this
module in an installed package. They hold text and short calls; every figure comes from a run's
artifacts or from `trainers.evaluation`.
"""

import os
import warnings

# At its default level, TensorFlow logs the end of every file that it reads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Google's client library warns every process that it will soon drop Python 3.10.
warnings.filterwarnings("ignore", category=FutureWarning, module="google.api_core")
