"""From gradients to weights: averaging over processes, clipping, guarding, AdamW, the running average."""
