"""Prompts of training pictures: made before (`python -m train.prompts CONFIG.toml`), or while training."""
