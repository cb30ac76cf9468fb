"""Training pictures that may be used freely: `python -m train.pictures OUT_DIR`."""
