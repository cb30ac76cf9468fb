"""A training step of OSEDiff on one page: `python docs/osediff_training_step_in_one_page.py` takes five.

Algorithm 1 of Wu et al. 2024 with its symbols; numbers in brackets are equations. It is the step that
`python -m train` takes at its default settings, but for LPIPS, which has to be downloaded:
tests/unit/test_training_page.py holds losses, gradients and weights equal.
"""

import sys

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.optim import AdamW, Optimizer

from osediff_core import OSEDiff
from osediff_core.base.load import DEMO_BASE
from train.config import PUBLISHED_NEGATIVE_PROMPT, LossConfig, ModelConfig
from train.degradation import DegradationConfig, degrade
from train.networks import Backbone
from train.objectives.draws import Draws, draw
from train.objectives.perceptual import gradient_loss
from train.pictures.dead_leaves import dead_leaves

T, LAMBDA_1, LAMBDA_2, GUIDANCE = 999, 2.0, 1.0, 7.5


def data_and_regularization(
    net: Backbone, x_L: Tensor, x_H: Tensor, c_y: Tensor, c_neg: Tensor, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Return L_data + lambda_2 L_reg (8) and the latent z_H, (B, C, h, w); pictures are in [-1, 1]."""
    model, alphas_bar = net.model, net.model.alphas_cumprod

    with net.as_generator():  # theta: LoRA on the encoder E and the UNet F, and the UNet's first convolution
        mean, log_variance = model.vae.encode(x_L).chunk(2, dim=1)  # (B, C, h, w) each
        z_L = (mean + (log_variance / 2).exp() * draws.posterior) * model.scaling_factor
        eps = model.unet(z_L, torch.full((len(z_L),), T), c_y)
        z_H = (z_L - (1 - alphas_bar[T]).sqrt() * eps) / alphas_bar[T].sqrt()  # (3)
        x = model.vae.decode(z_H / model.scaling_factor).clamp(-1, 1)  # (4)
    L_data = mse_loss(x, x_H) + LAMBDA_1 * gradient_loss(x, x_H).mean()  # (5), this in place of LPIPS

    with torch.no_grad():  # VSD (7): two regularizers look at one noised latent
        t, alpha_bar = draws.vsd_timesteps, alphas_bar[draws.vsd_timesteps].view(-1, 1, 1, 1)
        alpha, beta = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        z_t = alpha * z_H + beta * draws.vsd_noise
        with net.as_critic():  # phi': follows the generator
            eps_follower = model.unet(z_t, t, c_y)
        with net.as_teacher():  # phi: the base as it is, guided away from the negative prompt
            eps_neg, eps_y = model.unet(z_t, t, c_neg), model.unet(z_t, t, c_y)
        eps_base = eps_neg + GUIDANCE * (eps_y - eps_neg)
        distance = (z_H - (z_t - beta * eps_base) / alpha).abs().mean((1, 2, 3), keepdim=True)
        omega = beta / alpha / distance  # as published; the paper leaves it open
        wanted = z_H - omega * (eps_base - eps_follower)
    L_reg = mse_loss(z_H, wanted)  # its gradient in z_H is (7) times 2 / (number of elements)
    return L_data + LAMBDA_2 * L_reg, z_H.detach()


def diffusion(net: Backbone, z_H: Tensor, c_y: Tensor, draws: Draws) -> Tensor:
    """Return L_diff (9), which keeps phi' the regularizer of the generator's latents z_H, (B, C, h, w)."""
    alpha_bar = net.model.alphas_cumprod[draws.critic_timesteps].view(-1, 1, 1, 1)
    z_t = alpha_bar.sqrt() * z_H + (1 - alpha_bar).sqrt() * draws.critic_noise
    with net.as_critic():
        return mse_loss(net.model.unet(z_t, draws.critic_timesteps, c_y), draws.critic_noise)


def update(optimizer: Optimizer, loss: Tensor) -> None:
    """Take a step along the gradient, shortened to a norm of 1."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def main(steps: int) -> None:
    """Take steps on synthetic pictures with the base of the bundled demo; writes both losses of each."""
    dice = torch.Generator().manual_seed(0)
    model = OSEDiff.from_pretrained(DEMO_BASE, device="cpu", dtype="float32")
    c_y, c_neg = (model.encode_prompt([words]).detach() for words in ("", PUBLISHED_NEGATIVE_PROMPT))
    net = Backbone(model, ModelConfig(), dice)
    theta, phi = (
        AdamW(parameters.values(), lr=5e-5, weight_decay=1e-2)
        for parameters in (net.generator_parameters(), net.critic_parameters())
    )
    side = 64 // model.reduction
    for number in range(steps):
        x_H = dead_leaves(64, dice)[None]  # (1, 3, 64, 64)
        x_L = degrade(x_H[0], DegradationConfig(), dice)[None]
        draws = draw(0, [number], (model.latent_channels, side, side), LossConfig(), model.device)
        L, z_H = data_and_regularization(net, 2 * x_L - 1, 2 * x_H - 1, c_y, c_neg, draws)
        update(theta, L)
        L_diff = diffusion(net, z_H, c_y, draws)
        update(phi, L_diff)
        sys.stdout.write(f"step {number + 1}: generator {L.item():.4f}, phi' {L_diff.item():.4f}\n")


if __name__ == "__main__":
    main(steps=5)
