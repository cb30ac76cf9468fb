"""Training: degradation, data, losses and the loop that writes OSEDiff checkpoints."""
