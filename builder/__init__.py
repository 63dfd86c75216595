"""From published weights to a pack for this chip, without PyTorch.

It knows ONNX, numpy and the engine; nothing of training and nothing of the studio.
"""

import engine as engine  # before ONNX Runtime, whose telemetry it turns off
