"""MediaPipe's ImageClassifier on files of Sightline: prints what it shows as JSON.

    python ask_mediapipe.py IMAGES.npy FILE.tflite ...

IMAGES.npy has uint8 (M, H, W, 3) images of the networks' size.
"""

# pyright: reportMissingImports=false
import json
import sys

import mediapipe as mp
import numpy as np
from mediapipe.tasks.python import vision
from mediapipe.tasks.python.core.base_options import BaseOptions

images, *files = sys.argv[1:]
shown = {}
for file in files:
    options = vision.ImageClassifierOptions(BaseOptions(model_asset_path=file), max_results=3)
    with vision.ImageClassifier.create_from_options(options) as classifier:
        rows = []
        for image in np.load(images):
            found = classifier.classify(mp.Image(mp.ImageFormat.SRGB, data=image))
            categories = found.classifications[0].categories
            rows.append([[one.category_name, one.index, one.score] for one in categories])
        shown[file] = rows
print(json.dumps(shown))
