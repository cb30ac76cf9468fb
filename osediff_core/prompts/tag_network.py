"""RAM's tagging network: a Swin transformer, and a head in which every tag asks the image about itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OSEDiffError
from .ram import HEAD, SWIN, TagConfig

# Inside a layer of the head: RAM's names and ours.
_HEAD_NAMES = {
    "crossattention.self.": "",
    "crossattention.output.dense": "attended",
    "crossattention.output.LayerNorm": "norm1",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "norm2",
}
# Inside the Swin transformer: RAM's names, and those of checkpoints that transformers reads.
_SWIN_NAMES = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "patch_embed.norm": "embeddings.norm",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


class TagLayer(nn.Module):
    """One layer of the head: tags attend to the image, never to each other; norms come last, as in BERT."""

    def __init__(self, config: TagConfig) -> None:
        super().__init__()
        self.heads, hidden = config.label_heads, config.hidden
        self.query = nn.Linear(hidden, hidden)
        self.key, self.value = nn.Linear(config.width, hidden), nn.Linear(config.width, hidden)
        self.attended = nn.Linear(hidden, hidden)
        self.widen, self.narrow = nn.Linear(hidden, config.ffn), nn.Linear(config.ffn, hidden)
        self.norm1, self.norm2 = nn.LayerNorm(hidden, eps=1e-12), nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, tags: Tensor, image: Tensor) -> Tensor:
        """Return the tags' new states, (B, N, D), from the old ones and image tokens (B, T, width)."""
        q, k, v = (self._split(x) for x in (self.query(tags), self.key(image), self.value(image)))
        attended = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, D / heads)
        tags = self.norm1(self.attended(attended.transpose(1, 2).flatten(2)) + tags)  # (B, N, D)
        return self.norm2(self.narrow(F.gelu(self.widen(tags))) + tags)  # (B, N, D)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N or T, D / heads)


class TagNetwork(nn.Module):
    """From a normalised image to one logit for each tag."""

    def __init__(self, config: TagConfig, swin: nn.Module) -> None:
        super().__init__()
        self.swin = swin
        self.image_proj = nn.Linear(config.vision_width, config.width)
        self.label_embed = nn.Parameter(torch.empty(config.tags, config.width))
        self.wordvec_proj = nn.Linear(config.width, config.hidden)
        self.layers = nn.ModuleList(TagLayer(config) for _ in range(config.layers))
        self.fc = nn.Linear(config.hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, N) of images (B, 3, S, S) with ImageNet's mean and deviation taken out."""
        tokens = self.swin(pixel_values=x).last_hidden_state  # (B, T, C)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)  # (B, 1 + T, C)
        image = self.image_proj(tokens)  # (B, 1 + T, width)
        tags = F.relu(self.wordvec_proj(self.label_embed)).expand(len(x), -1, -1)  # (B, N, D)
        for layer in self.layers:
            tags = layer(tags, image)
        return self.fc(tags).squeeze(-1)  # (B, N)


def build_network(config: TagConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> TagNetwork:
    """Make the network of tensors in RAM's naming, rounded to `dtype`; frozen, in evaluation mode.

    The weights are copies, since a file that is mapped may go. The tensors must be those of
    `expected_shapes(config)`. Raises OSEDiffError if transformers is missing, or
    the sizes do not go together.
    """
    _check_sizes(config)
    ours = {_head_name(k): v.to(dtype, copy=True) for k, v in tensors.items() if not k.startswith(f"{SWIN}.")}
    swin = _build_swin(config, {k: v.to(dtype, copy=True) for k, v in _swin_tensors(tensors).items()})
    with torch.device("meta"):
        network = TagNetwork(config, nn.Identity())
    network.load_state_dict(ours, assign=True)
    network.swin = swin.to(dtype)
    return network.eval().requires_grad_(False)


def _check_sizes(config: TagConfig) -> None:
    last = config.image_size / 4 / 2 ** (len(config.depths) - 1)
    widths = [config.hidden, *(config.embed * 2**i for i in range(len(config.heads)))]
    heads = [config.label_heads, *config.heads]
    uneven = [n < 1 or width % n for width, n in zip(widths, heads, strict=True)]
    if last != config.window or any(uneven):
        raise OSEDiffError(
            f"a tagger for images of {config.image_size} px with windows of {config.window} and "
            f"{len(config.depths)} stages cannot be built: the file is damaged or of another kind"
        )


def _build_swin(config: TagConfig, tensors: dict[str, Tensor]) -> nn.Module:
    """Let transformers build its Swin transformer of the tensors, which it checks and names as it likes."""
    try:
        from transformers import SwinConfig, SwinModel
    except (ImportError, RuntimeError) as error:
        raise OSEDiffError(
            f"transformers cannot be imported ({error}): install the requirements to use a tagger"
        ) from error
    sizes = SwinConfig(
        image_size=config.image_size,
        embed_dim=config.embed,
        depths=list(config.depths),
        num_heads=list(config.heads),
        window_size=config.window,
    )
    with _silence():
        swin, info = SwinModel.from_pretrained(
            None, config=sizes, state_dict=tensors, add_pooling_layer=False, output_loading_info=True
        )
    lost = [key for key in info["missing_keys"] if "relative_position_index" not in key]  # a table, not read
    strange = [*lost, *info["unexpected_keys"]]
    if strange:
        raise OSEDiffError(
            f"this version of transformers does not know a Swin transformer's {strange[0]}: install another"
        )
    return swin


def _swin_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the Swin transformer's tensors by the names that transformers reads."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if not key.startswith(f"{SWIN}."):
            continue
        name = _swin_name(key.removeprefix(f"{SWIN}."))
        if "attn.qkv" in name:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            found |= {name.replace("attn.qkv", f"attention.self.{part}"): t for part, t in parts}
        else:
            found[name] = tensor
    return found


def _swin_name(name: str) -> str:
    if name.startswith("norm."):
        return f"layer{name}"
    name = f"encoder.{name}" if name.startswith("layers.") else name
    if ".downsample." in name:
        return name
    for theirs, transformers in _SWIN_NAMES.items():
        name = name.replace(theirs, transformers)
    return name


def _head_name(name: str) -> str:
    if not name.startswith(f"{HEAD}."):
        return name
    name = name.replace(HEAD, "layers")
    for theirs, ours in _HEAD_NAMES.items():
        name = name.replace(f".{theirs}", f".{ours}")
    return name


@contextmanager
def _silence() -> Iterator[None]:
    """Keep transformers' progress bar and remarks off the screen, and leave its settings as they were."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
