"""The shape of Stable Diffusion 2.1-base, as configurations of diffusers' and transformers' classes.

What its model card and paper state: UNet of widths 320 to 1280 attending to text of width 1024, the KL
autoencoder of the Stable Diffusion family, OpenCLIP's ViT-H text encoder without its last layer, and a
schedule of 1000 steps that predicts noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

UNET: Mapping[str, Any] = MappingProxyType(
    {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        "layers_per_block": 2,
        "attention_head_dim": (5, 10, 20, 20),  # the number of heads, in spite of its name
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    }
)
VAE: Mapping[str, Any] = MappingProxyType(
    {
        "sample_size": 512,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "scaling_factor": 0.18215,
    }
)
TEXT_ENCODER: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 49408,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "projection_dim": 512,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "max_position_embeddings": 77,
        "hidden_act": "gelu",
    }
)
SCHEDULER: Mapping[str, Any] = MappingProxyType(
    {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "clip_sample": False,
        "steps_offset": 1,
    }
)
