"""OSEDiff: the network that turns a low-quality image into a restored one in a single diffusion step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from . import diffusion
from .base.load import DEMO_BASE, DEMO_WEIGHTS, load_base, locate, resolve_device, resolve_dtype
from .base.marker import read_marker
from .base.network import Change
from .base.precision import processor_dtype
from .base.text import LoadText, embed
from .device.compiled import compile_parts
from .device.layout import lay_out
from .device.offload import check_offload
from .errors import OSEDiffError
from .inputs import check_prompts
from .lora import check_fit, folded
from .network.unet import UNet
from .network.vae import VAE
from .prompt_cache import PromptCache, State, same, state_of
from .weights.checkpoint import Checkpoint, read_checkpoint

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer


Part = tuple[nn.Module | None, ...]
"""Modules of the model that work together, and are on the device together."""
Layer = Callable[[Tensor], Tensor]
LOG_VARIANCE = (-30.0, 20.0)  # where the posterior's is clamped to: Stable Diffusion's published code


class OSEDiff(nn.Module):
    """UNet, VAE and text encoder of a base, used as the paper's one-step generator.

    Shapes: images (B, 3, H, W) in [0, 1]; latents (B, C, h, w) with h = H / reduction, scaled by the VAE's
    scaling factor; prompt embeddings (B, L, D). C and reduction come from the VAE's config: 4 and 8 for
    Stable Diffusion. Where the base brings the empty prompt's embedding, the text encoder waits, and
    `parameters()` is without it, until words or `state_dict()` ask for it.
    """

    def __init__(
        self,
        unet: UNet,
        vae: VAE,
        text_encoder: CLIPTextModel | None,
        tokenizer: CLIPTokenizer | None,
        alphas_cumprod: Tensor,
        timestep: int = 999,
    ) -> None:
        """Put the parts together. alphas_cumprod: (T,); timestep: where the step starts, the paper's T.

        Text encoder and tokenizer are None where `load_text` is set afterwards.
        """
        super().__init__()
        if not 0 <= timestep < len(alphas_cumprod):
            raise OSEDiffError(f"the timestep must be below {len(alphas_cumprod)}, got {timestep}")
        self.unet, self.vae = unet, vae
        self._modules["text_encoder"], self._tokenizer = text_encoder, tokenizer
        self.load_text: LoadText | None = None  # what gives both when they are needed
        self._empty_prompt: Tensor | None = None  # what they make of it, (1, L, D), where the base brings it
        self._loaded: State = []  # the text encoder, as it was when it was needed
        # No buffer: it stays float32 whatever the networks are rounded to.
        self.alphas_cumprod = alphas_cumprod.detach().cpu().float()  # (T,)
        self.timestep = timestep
        self.offload_to: torch.device | None = None  # where parts go while they are needed; None: they stay
        self.compiled = False  # by `torch.compile`: then a half of the VAE that runs whole is one step
        self.embeddings = PromptCache()
        self.made_of: tuple[str, str] | None = None  # base and weights, in words
        self.reduction = 2 ** (len(vae.config.block_out_channels) - 1)
        self.latent_channels, self.scaling_factor = vae.config.latent_channels, vae.config.scaling_factor

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | None = None,
        weights: str | Path | None = None,
        *,
        strength: float = 1.0,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        vocabulary: str | Path | None = None,
        decoder: str | Path | None = None,
        offload: str = "none",
        compile: bool = False,
    ) -> OSEDiff:
        """Load a base and an OSEDiff checkpoint on it, folded in float32 and rounded once to `dtype`.

        base: a folder in the diffusers layout, a single file, or the id of a model in the hub's cache.
        Neither: the bundled demo. `base` alone: a merged model, or the plain base, which was never trained to
        restore. strength: of the trained weights, 0 is the base and 1 the checkpoint. dtype: "auto" is
        float16 on cuda; on a processor that multiplies it, bfloat16 for a merged model that was measured to
        come near float32 with it (`processor_dtype`); else float32. vocabulary: a folder with CLIP's
        vocabulary, for a single file, which has none. decoder: a file with another decoder for the base's
        latents, such as the lighter one that is published for Stable Diffusion 2.1. offload: "parts" keeps
        all in the host's memory, and `restore` and its steps move each part to the device only while they
        need it. compile: UNet and VAE go through `torch.compile`, anew for every size of a tile and number of
        pictures at once, and as they are where that fails. Raises OSEDiffError for what cannot be loaded.
        """
        check_offload(offload)
        base, weights = _sources(base, weights)
        if not math.isfinite(strength):
            raise OSEDiffError(
                f"the strength must be a finite number, got {strength}: 1 is the trained model"
            )
        device = resolve_device(device)
        merged = check_merged(base, weights, strength)
        if dtype == "auto" and device.type == "cpu" and merged is not None and decoder is None:
            dtype = processor_dtype(merged)
        dtype = resolve_dtype(dtype, device)
        checkpoint = None if weights is None else read_checkpoint(weights)

        def edit(name: str, network: nn.Module) -> Change | None:
            return None if checkpoint is None else folding(name, network, checkpoint, strength)

        home = torch.device("cpu") if offload == "parts" else device
        parts = load_base(base, dtype, home, edit, vocabulary=vocabulary, decoder=decoder)
        text = parts.load_text() if parts.empty_prompt is None else (None, None)
        model = cls(parts.unet, parts.vae, *text, parts.alphas_cumprod)
        model.load_text, model._empty_prompt = parts.load_text, parts.empty_prompt
        model.offload_to = None if home == device else device
        lay_out(model.vae, device)
        put_in = "" if decoder is None else f", its decoder {decoder}"
        model.made_of = f"{base}{put_in}", "none" if weights is None else str(weights)
        if compile:
            compile_parts([model.unet, model.vae.encoder, model.vae.decoder])
            model.compiled = True
        return model.eval().requires_grad_(False)

    def __repr__(self) -> str:
        """Say in five lines what it is; the parts can be printed each."""
        base, weights = self.made_of or ("parts that were put together", "as they are")
        there: dict[str, nn.Module | None] = {"UNet": self.unet, "VAE": self.vae}
        there |= {"text encoder": self._modules["text_encoder"]}  # which may wait until words need it
        parts = {name: part for name, part in there.items() if part is not None}
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        lines = (
            f"base: {base}",
            f"weights: {weights}",
            "parameters: " + ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in counts.items()),
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}, latents of "
            f"{self.latent_channels} channels at 1/{self.reduction} of the size",
        )
        return "\n  ".join((type(self).__name__, *lines))

    @property
    def text_encoder(self) -> CLIPTextModel:
        """CLIP's text model, loaded now where the base brings the empty prompt's embedding."""
        return self._text()[0]

    @property
    def tokenizer(self) -> CLIPTokenizer:
        """What turns words into tokens for it, loaded with it."""
        return self._text()[1]

    @property
    def empty_prompt(self) -> Tensor | None:
        """What the text encoder makes of the empty prompt, (1, L, D) float32, where the base brings it.

        None where the text encoder is another than the base's, or was converted or written to.
        """
        encoder = self._modules["text_encoder"]
        own = encoder is None or same(self._loaded, state_of(encoder))
        return self._empty_prompt if own else None

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Return the weights as every module does, with those of a text encoder that waits."""
        self._text()
        return super().state_dict(*args, **kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:  # noqa: ANN401
        """Load weights as every module does; those of a text encoder that waits would be passed over."""
        if any(key.startswith("text_encoder.") for key in state_dict):
            self._text()
        return super().load_state_dict(state_dict, strict, assign)

    def _text(self) -> tuple[CLIPTextModel, CLIPTokenizer]:
        if self.load_text is not None and None in (self._modules["text_encoder"], self._tokenizer):
            with torch.inference_mode(False):  # weights that are made in it could never be trained
                encoder, tokenizer = self.load_text()
            self._tokenizer = self._tokenizer or tokenizer
            if self._modules["text_encoder"] is None:  # and no other was put in its place
                encoder = nn.Module.to(encoder, next(self.unet.parameters()).device)
                self._modules["text_encoder"], self._loaded = encoder, state_of(encoder)
        return cast("CLIPTextModel", self._modules["text_encoder"]), cast("CLIPTokenizer", self._tokenizer)

    @property
    def encoder_part(self) -> Part:
        """What encodes images."""
        return self.vae.encoder, self.vae.quant_conv

    @property
    def decoder_part(self) -> Part:
        """What decodes latents."""
        return self.vae.post_quant_conv, self.vae.decoder

    def encoder_layers(self) -> list[Layer]:
        """Return the steps from the image in [-1, 1] to the posterior's moments, for the whole at once."""
        return [self.vae.encode] if self.compiled else [layer for _, layer in self.vae.encoder_stages()]

    def decoder_layers(self) -> list[Layer]:
        """Return the steps from the unscaled latent to the image in [-1, 1], for the whole at once."""
        return [self.vae.decode] if self.compiled else [layer for _, layer in self.vae.decoder_stages()]

    @property
    def device(self) -> torch.device:
        """Where the UNet is, or goes when it is needed."""
        return self.offload_to or next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in."""
        return self.unet.dtype

    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """Return the text encoder's last hidden states after its final norm, (B, L, D).

        Prompts are padded as the base's tokenizer pads them ("!" for Stable Diffusion 2.1), and cut off at
        its length, 77 tokens.
        """
        return embed(check_prompts(prompts), self.tokenizer, self.text_encoder)

    def encode(self, lq: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the scaled latent of an image in [0, 1], (B, C, h, w) in the VAE's dtype.

        The posterior's mode, so that one input has one output; with `noise` (B, C, h, w) mean + std * noise,
        as the published code draws it. Raises OSEDiffError if a side is no multiple of the reduction.
        """
        if any(side % self.reduction for side in lq.shape[-2:]):
            raise OSEDiffError(
                f"image sides must be multiples of {self.reduction}, got {tuple(lq.shape[-2:])}: pad it"
            )
        x = (lq.float() * 2 - 1).to(self.vae.dtype)  # (B, 3, H, W) in [-1, 1]
        return self.scaled(self.vae.encode(x), noise)

    def scaled(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the scaled latent, (B, C, h, w), of moments (B, 2 C, h, w); noise as above."""
        mean, log_variance = moments.chunk(2, dim=1)  # (B, C, h, w) each
        if noise is not None:
            std = torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE))  # (B, C, h, w)
            mean = mean + std * noise.to(std)
        return mean * self.scaling_factor  # (B, C, h, w)

    def predict_noise(self, z: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Return the UNet's noise in `z` at the one timestep, (B, C, h, w); one prompt serves all of `z`."""
        if prompt_embeds.shape[0] not in (1, z.shape[0]):
            raise OSEDiffError(
                f"got {prompt_embeds.shape[0]} prompts for {z.shape[0]} images: give one or as many"
            )
        embeds = prompt_embeds.to(z.device, self.unet.dtype).expand(z.shape[0], -1, -1)  # (B, L, D)
        t = torch.full((z.shape[0],), self.timestep, device=z.device)  # (B,)
        return self.unet(z.to(self.unet.dtype), t, embeds)  # (B, C, h, w)

    def predict_x0(self, z: Tensor, eps: Tensor) -> Tensor:
        """Return the restored latent z_hq that `z` and its noise imply, (B, C, h, w) float32."""
        return diffusion.predict_x0(z, eps, self.alphas_cumprod[self.timestep])

    def decode(self, z: Tensor) -> Tensor:
        """Return the image of a scaled latent, (B, 3, H, W) float32, clamped to [0, 1]."""
        return self.decode_unclamped(z).clamp(0, 1)  # (B, 3, H, W)

    def decode_unclamped(self, z: Tensor) -> Tensor:
        """Return the decoder's image as it is, (B, 3, H, W) float32: clamping would hide an infinity."""
        image = self.vae.decode((z / self.scaling_factor).to(self.vae.dtype))  # (B, 3, H, W)
        return image.float() / 2 + 0.5  # (B, 3, H, W)

    def forward(
        self, lq: Tensor, prompt_embeds: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the restored image and its latent: sr (B, 3, H, W) in [0, 1], z_hq (B, C, h, w)."""
        z_lq = self.encode(lq, noise)  # (B, C, h, w)
        eps = self.predict_noise(z_lq, prompt_embeds)  # (B, C, h, w)
        z_hq = self.predict_x0(z_lq, eps)  # (B, C, h, w)
        return self.decode(z_hq), z_hq


def _sources(base: str | Path | None, weights: str | Path | None) -> tuple[str | Path, Path | None]:
    """Return the base and the checkpoint to load; neither given means the bundled demo."""
    if base is not None:
        return base, None if weights is None else Path(weights)
    if weights is not None:
        trained_on = read_checkpoint(weights).metadata.get("base", "Stable Diffusion 2.1-base")
        raise OSEDiffError(f"{weights} needs the base that it was trained on ({trained_on}): give it as base")
    if not DEMO_BASE.is_dir() or not DEMO_WEIGHTS.is_file():
        raise OSEDiffError(
            "this installation has no bundled demo model: give a base and weights, or install again"
        )
    return DEMO_BASE, DEMO_WEIGHTS


def check_merged(base: str | Path, weights: Path | None, strength: float) -> dict[str, str] | None:
    """Return what a merged base says of itself, None for another, and refuse to fold anything into one."""
    merged = read_marker(locate(base))
    if merged is not None and (weights is not None or strength != 1):
        raise OSEDiffError(
            f"{base} has the checkpoint {merged.get('weights')} merged into it, for good and at strength "
            f"{merged.get('strength')}: leave out weights and strength, or use the base that it was made from"
        )
    return merged


def folding(name: str, network: nn.Module, checkpoint: Checkpoint, strength: float) -> Change:
    """Return what folds the checkpoint's LoRA for "unet" or "vae" into a tensor of that network."""
    tensors = checkpoint.unet if name == "unet" else checkpoint.vae
    scale = checkpoint.scale_unet if name == "unet" else checkpoint.scale_vae
    check_fit(network, tensors)
    return lambda key, weight: folded(key, weight, tensors, scale, strength)
