"""OSEDiff on one page, with the paper's symbols: `python docs/osediff_in_one_page.py IN OUT`.

The same as `osediff IN OUT` for a picture that fits into one tile: tests/unit/test_one_page.py holds them
equal. What the project adds to it is any size, any memory and any file. Wu et al. 2024, "One-Step Effective
Diffusion Network for Real-World Image Super-Resolution"; numbers in brackets are its equations.
"""

import sys

import torch
from torch import Tensor
from torch.nn.functional import pad

from osediff_core import OSEDiff
from osediff_core.pictures.images import read_image, write_image
from osediff_core.resize import resize_bicubic

T = 999  # the step where the LQ latent is taken to be, with the noise that the UNet is to find in it


@torch.no_grad()
def restore(model: OSEDiff, lq: Tensor, scale: int = 4, prompt: str = "") -> Tensor:
    """Return the restored image (1, 3, scale H, scale W) in [0, 1] of lq, (1, 3, H, W) uint8."""
    height, width = scale * lq.shape[-2], scale * lq.shape[-1]
    x_L = resize_bicubic(lq, (height, width)).float() / 255  # (1, 3, H', W')
    reference, f = x_L, model.reduction
    x_L = pad(x_L, (0, -width % f, 0, -height % f), mode="reflect")  # sides that the VAE can halve

    # E: the trained encoder; the mean of its posterior is the LQ latent
    mean, _ = model.vae.encode(2 * x_L - 1).chunk(2, dim=1)  # (1, C, h, w) each
    z_L = mean * model.scaling_factor

    # Y: the text that goes with the image, here the caller's
    words = model.tokenizer(prompt, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    c_y = model.text_encoder(words.input_ids)[0]  # (1, L, D)

    # F: one call of the trained UNet, and the latent that follows in closed form (3)
    alpha_T, beta_T = model.alphas_cumprod[T].sqrt(), (1 - model.alphas_cumprod[T]).sqrt()
    eps = model.unet(z_L, torch.tensor([T]), c_y)  # (1, C, h, w)
    z_H = (z_L - beta_T * eps) / alpha_T

    # D: the decoder of the base, left as it was (4)
    x_H = (model.vae.decode(z_H / model.scaling_factor) / 2 + 0.5).clamp(0, 1)[..., :height, :width]

    # Colours: mean and deviation of each channel are those of the enlarged input (adain, as published)
    mean, std = x_H.mean((2, 3), keepdim=True), (x_H.var((2, 3), keepdim=True) + 1e-5).sqrt()
    to_mean = reference.mean((2, 3), keepdim=True)
    to_std = (reference.var((2, 3), keepdim=True) + 1e-5).sqrt()
    return ((x_H - mean) / std * to_std + to_mean).clamp(0, 1)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("python docs/osediff_in_one_page.py PICTURE RESULT")
    source, target = sys.argv[1:]
    write_image(target, restore(OSEDiff.from_pretrained(device="cpu"), read_image(source).rgb))
