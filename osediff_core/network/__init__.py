"""The networks of Stable Diffusion 1 and 2, UNet and VAE, with the parameter names of diffusers folders.

Layers come from an argument, `ops`: torch.nn, or whatever offers Linear, Conv2d, GroupNorm and LayerNorm with
the same arguments, as ComfyUI's operations do. Such layers may have their weights elsewhere, in another
number format, until they run: whoever runs a network says where, and asks no weight for it.
"""
