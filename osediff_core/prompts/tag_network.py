"""RAM's tagging network: a Swin transformer, and a head in which every tag asks the image about itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..base.network import import_transformers
from ..errors import OSEDiffError

SWIN, HEAD = "visual_encoder", "tagging_head.encoder.layer"  # in RAM's names

# Inside the Swin transformer: transformers' names, as patterns because its versions differ, and RAM's.
_SWIN_NAMES = {
    r"embeddings\.patch_embeddings\.projection": "patch_embed.proj",
    r"embeddings\.norm": "patch_embed.norm",
    r"layernorm": "norm",
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"attention\.(self\.(query|key|value)|[qkv]_proj)": "attn.qkv",
    r"attention\.(self|relative_position_bias)": "attn",
    r"attention\.(output\.dense|o_proj)": "attn.proj",
    r"intermediate\.dense|mlp\.fc1": "mlp.fc1",
    r"output\.dense|mlp\.fc2": "mlp.fc2",
    r"downsample\.reduction": "downsample.reduction",
    r"downsample\.norm": "downsample.norm",
}
# Inside a layer of the head: ours and RAM's.
_HEAD_NAMES = {
    "query": "crossattention.self.query",
    "key": "crossattention.self.key",
    "value": "crossattention.self.value",
    "attended": "crossattention.output.dense",
    "norm1": "crossattention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "norm2": "output.LayerNorm",
}


@dataclass(frozen=True)
class TagConfig:
    """The sizes of a tagger; all but the last two are read off the tensors.

    embed, depths, heads, window: of the Swin transformer, whose patches are 4 pixels. width: of a tag's
    vector and of the projected image. hidden, ffn, layers: of the tagging head. tags: how many it knows.
    image_size: side in pixels of what it looks at. label_heads: attention heads of the tagging head.
    """

    embed: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    width: int
    hidden: int
    ffn: int
    layers: int
    tags: int
    image_size: int = 384
    label_heads: int = 4

    @property
    def vision_width(self) -> int:
        """Channels of the Swin transformer's last stage: they double from stage to stage."""
        return self.embed * 2 ** (len(self.depths) - 1)


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


@cache  # building the network takes a fraction of a second
def expected_shapes(config: TagConfig) -> Mapping[str, tuple[int, ...]]:
    """Return the names and shapes of all that a tagger of these sizes is made of, in RAM's naming.

    Raises OSEDiffError if transformers is missing, or the sizes do not go together.
    """
    # No shape depends on the size of the images: here it is one that fits the windows.
    side = 4 * config.window * 2 ** (len(config.depths) - 1)
    parameters = _parameters(empty_network(replace(config, image_size=side)))
    shapes = {name: tuple(torch.cat([*parts.values()]).shape) for name, parts in parameters.items()}
    return MappingProxyType(shapes)


def build_network(config: TagConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> TagNetwork:
    """Make the network of tensors in RAM's naming, rounded to `dtype`; frozen, in evaluation mode.

    The weights are copies, since a file that is mapped may go. The tensors must be those that
    `expected_shapes` names. Raises OSEDiffError if transformers is missing, or the sizes do not go together.
    """
    network = empty_network(config)
    state = network.state_dict()  # some versions of transformers have tables there, which no file brings
    for name, parts in _parameters(network).items():
        rows = tensors[name].split([len(part) for part in parts.values()])
        state |= {ours: tensor.to(dtype, copy=True) for ours, tensor in zip(parts, rows, strict=True)}
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


class _WithoutWeights(TorchFunctionMode):
    """Make on the meta device what is to be filled later; what is computed keeps its values.

    `torch.device("meta")` would take the Swin transformer's tables of positions too, and on it older versions
    of transformers fail, which read how many layers to drop from a tensor.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Call a function of torch, and `torch.empty` with the meta device where none is given."""
        given = dict(kwargs or {})
        if func is torch.empty and given.get("device") is None:
            given["device"] = "meta"
        return func(*args, **given)


def empty_network(config: TagConfig) -> TagNetwork:
    """Return the network of these sizes, whose weights take no memory."""
    _check_sizes(config)
    library = import_transformers("SwinConfig", "SwinModel")
    sizes = library.SwinConfig(
        image_size=config.image_size,
        embed_dim=config.embed,
        depths=list(config.depths),
        num_heads=list(config.heads),
        window_size=config.window,
    )
    with torch.device("cpu"), _WithoutWeights():
        return TagNetwork(config, library.SwinModel(sizes, add_pooling_layer=False))


def _check_sizes(config: TagConfig) -> None:
    """Raise OSEDiffError where heads do not share a width evenly, or windows do not tile the image."""
    last = config.image_size / 4 / 2 ** (len(config.depths) - 1)
    widths = [config.hidden, *(config.embed * 2**i for i in range(len(config.heads)))]
    heads = [config.label_heads, *config.heads]
    even = (n > 0 and width > 0 and width % n == 0 for width, n in zip(widths, heads, strict=True))
    if config.window < 1 or last != config.window or not all(even):
        raise OSEDiffError(
            f"a Swin transformer of width {config.embed} with {list(config.heads)} heads and windows of "
            f"{config.window}, and a head of width {config.hidden} with {config.label_heads}, cannot be "
            f"built for images of {config.image_size} px: the file is damaged or of another kind"
        )


def _parameters(network: TagNetwork) -> dict[str, dict[str, nn.Parameter]]:
    """Return by RAM's names the parameters that one tensor of RAM's fills, one below the other.

    They are by the network's own names, and mostly one; query, key and value where RAM has the three in one.
    """
    found: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in sorted(network.named_parameters(), key=lambda item: _place_in_fused(item[0])):
        found.setdefault(_ram_name(name), {})[name] = parameter
    return found


def _place_in_fused(name: str) -> int:
    """Return a number that puts query ("query.weight", "q_proj.bias") before key, and key before value."""
    return "qkv".find(name.split(".")[-2:][0][0])


def _ram_name(name: str) -> str:
    """Return RAM's name of a parameter; OSEDiffError where transformers calls it something new."""
    if name.startswith("layers."):
        _, layer, what, kind = name.split(".")
        return f"{HEAD}.{layer}.{_HEAD_NAMES[what]}.{kind}"
    if not name.startswith("swin."):
        return name
    stem, _, kind = name.removeprefix("swin.").removeprefix("encoder.").rpartition(".")
    place = "".join(re.findall(r"(?:layers|blocks)\.\d+\.", stem))
    for pattern, ram in _SWIN_NAMES.items():
        if re.fullmatch(pattern, stem.removeprefix(place)):
            return f"{SWIN}.{place}{ram}.{kind}"
    raise OSEDiffError(f"this version of transformers has {name}, which is not known here: install another")
