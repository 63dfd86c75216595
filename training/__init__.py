"""Training in PyTorch: networks, data, recipes, distillation, and the export to a pack."""
