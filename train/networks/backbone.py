"""One UNet for generator, teacher and critic: adapters and conv_in are switched by role."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from osediff_core.errors import OSEDiffError
from osediff_core.lora import check_fit, unet_targets
from osediff_core.model import OSEDiff
from osediff_core.weights.checkpoint import Checkpoint

from .adapters import (
    SwitchedConv2d,
    adapter_tensors,
    add_adapter,
    add_frozen,
    compute_merged,
    copy_strictly,
    init_lora,
    lora_layers,
    run_in_float32,
    share_active,
    switch_conv_in,
    trained_vae_targets,
)
from .config import ModelConfig
from .guidance import guided
from .plain_encoder import PlainEncoder
from .recompute import Recompute, recompute_activations
from .summed import summed

Role = Literal["generator", "teacher", "critic"]

VAE_ADAPTER = "default_encoder"
MIDDLE = "default_others"
"""The group that holds the UNet's middle block."""
BENEATH = "beneath"
"""The adapters, of UNet and VAE, that lie frozen under the generator's."""
CONV_IN = ("conv_in.weight", "conv_in.bias")
PREFIX: dict[Role, str] = {"generator": "default_", "critic": "critic_"}


class Backbone:
    """The networks of the training: one OSEDiff model whose UNet plays three roles.

    The role is the generator's unless a context manager says otherwise. Backward passes that recompute
    activations must run inside the role of their forward pass.
    """

    def __init__(
        self,
        model: OSEDiff,
        config: ModelConfig,
        generator: torch.Generator,
        with_critic: bool = True,
        with_plain_encoder: bool = False,
        beneath: Checkpoint | None = None,
    ) -> None:
        """Freeze the model and add adapters to it in place: A drawn from `generator` (CPU), B zero.

        beneath: what the generator has under its adapters, frozen. Raises OSEDiffError where it does not fit.
        """
        self.model = model.requires_grad_(False)
        self.config = config
        self.plain_encoder = PlainEncoder(model.vae) if with_plain_encoder else None
        self._autocast: Callable[[], AbstractContextManager] = _no_autocast
        self.beneath = beneath
        self._targets = {group: names for group, names in unet_targets(model.unet).items() if names}
        targets = trained_vae_targets(model.vae, config.train_vae)
        if beneath is not None:  # from here on, layers have other names inside
            self._lay(beneath)
        roles: list[Role] = ["generator", "critic"] if with_critic else ["generator"]
        for role in roles:
            for group in self._groups(role):
                adapter, names = self._adapter(group, role), self._targets[group]
                add_adapter(model.unet, adapter, names, config.rank_unet, config.lora_alpha)
        if targets:  # a VAE of no layers has none
            add_adapter(model.vae, VAE_ADAPTER, targets, config.rank_vae, config.lora_alpha)
        under = {} if beneath is None else beneath.unet
        conv_in = {key: tensor for key, tensor in under.items() if key in CONV_IN}
        self._conv_in = switch_conv_in(model.unet) if config.train_conv_in or conv_in else None
        if self._conv_in is not None:
            copy_strictly({key: self._conv_in_tensors()[key] for key in conv_in}, conv_in)
        self._lora_layers = lora_layers(model.unet)
        self._active: list[str] = []
        share_active(self._lora_layers.values(), self._active)
        share_active(lora_layers(model.vae).values(), [BENEATH, VAE_ADAPTER])
        model.requires_grad_(False)
        init_lora(self.generator_parameters() | self._vae_tensors(), generator)
        init_lora(self.critic_parameters(), generator)
        for parameter in [*self.generator_parameters().values(), *self.critic_parameters().values()]:
            parameter.requires_grad_(True)  # and stays trainable in every role
        self._play("generator")

    # ---- roles -------------------------------------------------------------------------------------

    def as_generator(self) -> AbstractContextManager[None]:
        """Use the generator's adapters and its own conv_in."""
        return self._role_of("generator")

    def as_teacher(self) -> AbstractContextManager[None]:
        """Use the plain base."""
        return self._role_of("teacher")

    def as_critic(self) -> AbstractContextManager[None]:
        """Use the critic's adapters on the plain base."""
        return self._role_of("critic")

    def _lay(self, beneath: Checkpoint) -> None:
        """Put the adapters of a checkpoint into UNet and VAE, before any others."""
        check_start("model.beneath", beneath, self.model)
        unet, vae = self.model.unet, self.model.vae
        for network, tensors in ((unet, beneath.unet), (vae, beneath.vae)):
            whole = [key for key in tensors if ".lora_" not in key and (network is vae or key not in CONV_IN)]
            if whole:
                raise OSEDiffError(
                    f"model.beneath has {min(whole)} trained in full, expected LoRA and the UNet's conv_in: "
                    "give a checkpoint of this project, or the published one"
                )
        add_frozen(unet, BENEATH, beneath.unet, beneath.rank_unet, beneath.alpha_unet)
        add_frozen(vae, BENEATH, beneath.vae, beneath.rank_vae, beneath.alpha_vae)

    def _groups(self, role: Role) -> list[str]:
        """Name the groups of the UNet's layers that a role adapts."""
        middle = role == "critic" and self.config.critic_layers == "middle"
        return [group for group in self._targets if group == MIDDLE or not middle]

    @staticmethod
    def _adapter(group: str, role: Role) -> str:
        """Name a role's adapter: default_encoder for the generator, critic_encoder for the critic."""
        return group.replace(PREFIX["generator"], PREFIX[role])

    @contextmanager
    def _role_of(self, role: Role) -> Iterator[None]:
        before = self.role
        if before != role:
            self._play(role)
        try:
            yield
        finally:
            if before != role:
                self._play(before)

    def _play(self, role: Role) -> None:
        """Switch every adapted layer of the UNet, through the one list that all of them look at."""
        groups = self._groups(role) if role in PREFIX else []
        under = [BENEATH] if role == "generator" and self.beneath is not None else []
        self._active[:] = [*under, *(self._adapter(group, role) for group in groups)]
        if self._conv_in is not None:
            self._conv_in.trained = role == "generator"
        self.role: Role = role

    # ---- forward passes ----------------------------------------------------------------------------

    def generate(self, lq: Tensor, prompt_embeds: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Restore lq (B, 3, H, W) in [0, 1]; noise (B, C, h, w) samples the posterior, None takes its mode.

        Returns sr (B, 3, H, W) in [0, 1] and its latent z_hq (B, C, h, w).
        """
        with self.as_generator(), self._autocast():
            return self.model(lq, prompt_embeds, noise)

    def encode_plain(self, image: Tensor) -> Tensor:
        """Encode (B, 3, H, W) in [0, 1] by the base's VAE: scaled latent (B, C, h, w), with its graph."""
        assert self.plain_encoder is not None, "the backbone was made without the plain encoder"
        with self._autocast():
            return self.plain_encoder(image)

    def critic(self, z_t: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Predict the noise in z_t (B, C, h, w) at timesteps (B,) as the critic."""
        with self.as_critic(), self._autocast():
            return self._predict(z_t, timesteps, prompt_embeds)

    def critic_features(self, z_t: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Give what the critic's UNet has in its middle, (B, `bottleneck_width`, h / 2^n, w / 2^n).

        The way up is computed too, and thrown away: the UNet has no way to stop.
        """
        seen: list[Tensor] = []

        def look(_: nn.Module, __: tuple, output: Tensor) -> None:
            seen.append(output)

        hook = self.model.unet.mid_block.resnets[-1].register_forward_hook(look)
        try:
            self.critic(z_t, timesteps, prompt_embeds)
        finally:
            hook.remove()
        return seen[0]

    @property
    def bottleneck_width(self) -> int:
        """Channels of `critic_features`."""
        return self.model.unet.config.block_out_channels[-1]

    @torch.no_grad()
    def teacher(
        self, z_t: Tensor, timesteps: Tensor, prompt_embeds: Tensor, negative_embeds: Tensor, guidance: float
    ) -> Tensor:
        """Predict the noise in z_t (B, C, h, w) as the frozen base, guided away from the negative prompt."""
        if guidance == 1:
            with self.as_teacher(), self._autocast():
                return self._predict(z_t, timesteps, prompt_embeds)
        eps_negative, eps_prompt = self.teacher_pair(z_t, timesteps, prompt_embeds, negative_embeds)
        return guided(eps_negative, eps_prompt, guidance)

    @torch.no_grad()
    def teacher_pair(
        self, z_t: Tensor, timesteps: Tensor, prompt_embeds: Tensor, negative_embeds: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict the noise in z_t as the frozen base: for the negative prompt, and for the prompt."""
        both = [e.expand(len(z_t), -1, -1) for e in (negative_embeds, prompt_embeds)]
        with self.as_teacher(), self._autocast():
            eps = self._predict(z_t.repeat(2, 1, 1, 1), timesteps.repeat(2), torch.cat(both))  # (2B, C, h, w)
        eps_negative, eps_prompt = eps.chunk(2)  # (B, C, h, w) each
        return eps_negative, eps_prompt

    def _predict(self, z_t: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        embeds = prompt_embeds.expand(len(z_t), -1, -1)  # (B, L, D)
        return self.model.unet(z_t, timesteps, embeds)  # (B, C, h, w)

    # ---- what is trained ---------------------------------------------------------------------------

    def generator_parameters(self) -> dict[str, nn.Parameter]:
        """Name every tensor that the generator trains as checkpoints do: "unet.<module>.lora_A.weight"."""
        found = adapter_tensors(self.model.unet, PREFIX["generator"], "unet.")
        if self.config.train_conv_in:
            found |= {f"unet.{key}": parameter for key, parameter in self._conv_in_tensors().items()}
        return found if self.config.train_vae == "none" else found | self._vae_tensors()

    def _vae_tensors(self) -> dict[str, nn.Parameter]:
        return adapter_tensors(self.model.vae, VAE_ADAPTER, "vae.")

    def _conv_in_tensors(self) -> dict[str, nn.Parameter]:
        assert self._conv_in is not None
        own = (self._conv_in.own_weight, self._conv_in.own_bias)
        return {key: parameter for key, parameter in zip(CONV_IN, own, strict=True) if parameter is not None}

    def frozen_set(self) -> dict[str, nn.Parameter]:
        """Name the adapters that lie under the generator's, likewise; empty where there are none."""
        unet, vae = self.model.unet, self.model.vae
        return adapter_tensors(unet, BENEATH, "unet.") | adapter_tensors(vae, BENEATH, "vae.")

    def critic_parameters(self) -> dict[str, nn.Parameter]:
        """Name every tensor that the critic trains, likewise; empty without a critic."""
        return adapter_tensors(self.model.unet, PREFIX["critic"], "unet.")

    def load_generator(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors into the generator; the names must be those of `generator_parameters`."""
        copy_strictly(self.generator_parameters(), tensors)

    def load_critic(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors into the critic; the names must be those of `critic_parameters`."""
        copy_strictly(self.critic_parameters(), tensors)

    def checkpoint(self, metadata: dict[str, str]) -> Checkpoint:
        """Copy the generator's tensors into a checkpoint, float32 on the CPU, with what lies beneath them."""
        parameters = self.generator_parameters() | self._vae_tensors()  # untrained ones change nothing
        tensors = {k: p.detach().float().cpu().clone() for k, p in parameters.items()}
        own = Checkpoint(
            unet={k.removeprefix("unet."): t for k, t in tensors.items() if k.startswith("unet.")},
            vae={k.removeprefix("vae."): t for k, t in tensors.items() if k.startswith("vae.")},
            rank_unet=self.config.rank_unet,
            alpha_unet=self.config.lora_alpha,
            rank_vae=self.config.rank_vae,
            alpha_vae=self.config.lora_alpha,
            metadata=metadata,
        )
        return own if self.beneath is None else summed(self.beneath, own)

    # ---- numerical format and memory ---------------------------------------------------------------

    def use_half(self, dtype: torch.dtype) -> None:
        """Hold frozen weights in 16 bits and compute in them; keep adapters, latent and eps in float32.

        x0 = (z - sqrt(1 - a) eps) / sqrt(a) multiplies errors of z and eps by 1 / sqrt(a), 14.65 at t = 999,
        so the layers that end the encoder, begin the UNet and end it run in float32.
        """
        unet, vae = self.model.unet, self.model.vae
        ends = [vae.quant_conv or vae.encoder.conv_out, unet.conv_norm_out, unet.conv_out]
        exact = {id(p) for module in [unet.conv_in, *ends] for p in module.parameters()}
        exact |= {id(p) for p in self.frozen_set().values()}
        for parameter in [*unet.parameters(), *vae.parameters()]:
            if not parameter.requires_grad and id(parameter) not in exact:
                parameter.data = parameter.data.to(dtype)
        for module in ends:
            run_in_float32(module, torch.float32)
        run_in_float32(unet.conv_in, dtype)  # sees all of z
        device = next(unet.parameters()).device.type
        self._autocast = lambda: torch.autocast(device, dtype=dtype)

    def merge_adapters(self) -> None:
        """Compute every layer but conv_in with its adapters merged into it anew in each pass.

        To be called before `use_half`, which wraps some layers.
        """
        for layer in [*self._lora_layers.values(), *lora_layers(self.model.vae).values()]:
            if not isinstance(layer.base_layer, SwitchedConv2d):
                compute_merged(layer)

    def recompute(self, what: Recompute) -> None:
        """Compute activations again on the way back: of the VAE's decoder, of everything, or none."""
        if what != "none":
            recompute_activations(self.model.vae.decoder)
        if what == "all":
            recompute_activations(self.model.vae.encoder)
            recompute_activations(self.model.unet)

    def use_channels_last(self) -> None:
        """Lay convolution weights out as (out, kh, kw, in)."""
        for network in (self.model.unet, self.model.vae):
            for parameter in network.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.to(memory_format=torch.channels_last)


def check_start(setting: str, checkpoint: Checkpoint, model: OSEDiff) -> None:
    """Raise OSEDiffError unless what a run starts with is of the model's base, which has no adapters yet."""
    for network, tensors in ((model.unet, checkpoint.unet), (model.vae, checkpoint.vae)):
        try:
            check_fit(network, tensors)
        except OSEDiffError as error:
            raise OSEDiffError(f"{setting} cannot be used: {error}") from error


def _no_autocast() -> AbstractContextManager[None]:
    return nullcontext()
