"""A run: processes, batches, steps, states, and the loop over them."""
