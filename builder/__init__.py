"""From published weights to a pack for the chip that is there, without PyTorch.

It knows ONNX, numpy and the engine; nothing of training and nothing of the studio.
"""
