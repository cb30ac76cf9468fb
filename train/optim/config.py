"""The section `optim` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class OptimConfig:
    """AdamW, the same for the generator and the critic."""

    learning_rate: float = 5e-5
    """Learning rate of the generator and the critic."""
    output_lr_scale: float = 1.0
    """Factor on the learning rate of the generator's conv_out, whose errors 1/sqrt(alpha_bar) enlarges."""
    beta1: float = 0.9
    """Decay of AdamW's first moment."""
    beta2: float = 0.999
    """Decay of AdamW's second moment."""
    weight_decay: float = 1e-2
    """AdamW's decoupled weight decay."""
    epsilon: float = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: float = 1.0
    """Gradient norm that generator and critic are clipped to, each on its own."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from zero."""
    decay_steps: int = 0
    """Steps in which the learning rate falls to zero along half a cosine; 0: constant, as published."""
    ema_decay: float = 0.0
    """Decay per step of the running average of the generator that is exported, 0.999 say; 0: no average."""
    max_skipped: int = 10
    """Harmful steps among the last 100 that are skipped before the run gives up: infinite, or exploding."""
    skip_above: float = 100.0
    """A gradient norm this many times its running average is an explosion; 0: never."""
