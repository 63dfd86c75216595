"""Training from scratch, one module for each network, and what they share."""
