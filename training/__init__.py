"""Training in PyTorch: the networks, what they see, how they learn, and their export to a pack."""
