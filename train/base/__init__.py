"""Pretraining of a small base (VAE, diffusion prior) in the diffusers folder layout.

OSEDiff starts from a pretrained text-to-image model. This package makes one small enough to train
on a CPU and to travel with the project: `python -m train.base CONFIG.toml`.
"""
