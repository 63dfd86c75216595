"""The Neodragon engine: a prompt and two seeds in, the frames of a clip out."""

import os

# ONNX Runtime's official builds report to Microsoft unless told before they are loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
