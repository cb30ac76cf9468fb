"""Small VAEs of different builds, the whole result to compare with, and a count of the memory alive."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from osediff_core.network.config import VAEConfig
from osediff_core.network.vae import VAE

BUILDS = {
    "like SD": {"block_out_channels": (8, 16, 16, 16), "layers_per_block": 2, "latent_channels": 4},
    "like the demo": {
        "block_out_channels": (8, 16, 32),
        "layers_per_block": 1,
        "latent_channels": 8,
        "mid_block_add_attention": False,
    },
    "no quant convs": {
        "block_out_channels": (16, 8),
        "layers_per_block": 3,
        "latent_channels": 4,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "one level": {"block_out_channels": (8,), "layers_per_block": 1, "latent_channels": 4},
}


def make_vae(build="like SD", seed=0, **changes):
    """A VAE with random weights; every norm's weight and bias is random too, so that nothing is left out."""
    config = {"norm_num_groups": 4, **BUILDS[build], **changes} if build in BUILDS else changes
    levels = len(config["block_out_channels"])
    kinds = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    torch.manual_seed(seed)
    vae = VAE(VAEConfig(**{name: kind * levels for name, kind in kinds.items()}, **config))
    for module in vae.modules():
        if isinstance(module, torch.nn.GroupNorm):
            torch.nn.init.normal_(module.weight, 1, 0.2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return vae.eval().requires_grad_(False)


def whole(vae, x, z):
    """What the VAE itself makes of images (B, 3, H, W) in [-1, 1] and of latents."""
    with torch.no_grad():
        return vae.encode(x), vae.decode(z)


def uneven(*shape, seed=0):
    """Random numbers in [-1, 1] whose mean and spread change over the picture, as those of photographs do."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.rand(*shape, generator=g) * 2 - 1
    down, across = torch.linspace(0, 1, shape[-2])[:, None], torch.linspace(-1, 1, shape[-1])
    return noise * down * 0.5 + across * 0.5


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors made inside and still alive: `now`, and `peak`. Weights are not."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._seen = {}

    def _see(self, tensor, made):
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._seen:
            self._seen[key] = storage.nbytes() if made else 0
            self.now += self._seen[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key):
        self.now -= self._seen.pop(key)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf, made=False)  # or it was seen when it was made
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf, made=True)
        return out
