"""The stages of the VAE run piece by piece: what each reads, keeps and makes.

Whatever needs the whole image, the statistics of GroupNorm and the attention, is taken over the whole image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from ..network.layers import Downsample, ResnetBlock, Upsample
from ..network.vae import Layer, NormConv, SelfAttention
from .attention import attend
from .geometry import Reach, normalize
from .strips import Activation, Operand, Patch, Sweeper


def run_in_pieces(layer: Layer, sweeper: Sweeper, x: Activation) -> Activation:
    """Return what a layer makes of the activation of the whole image, which is dropped."""
    if isinstance(layer, ResnetBlock):
        return _residual(layer, sweeper, x)
    if isinstance(layer, SelfAttention):
        return attend(layer, sweeper, x)
    conv, reach, norm = _convolution(layer)
    ready = _ready(x, norm)

    def compute(patch: Patch) -> tuple[Tensor, ...]:
        return (_convolve(conv, ready(patch.data), patch),)

    widest = max(conv.in_channels, conv.out_channels)
    return sweeper.sweep([Operand(x, reach)], widest, compute)[0]


def _residual(block: ResnetBlock, sweeper: Sweeper, x: Activation) -> Activation:
    """Run a residual block in two sweeps, one to each convolution: each needs statistics of the whole."""
    first, second = _reach(block.conv1), _reach(block.conv2)
    widest = max(block.conv1.in_channels, block.conv2.out_channels)
    ready, shortcut = _ready(x, block.norm1), block.conv_shortcut

    def branch(patch: Patch) -> tuple[Tensor, ...]:
        h = _convolve(block.conv1, ready(patch.data), patch)
        return (h,) if shortcut is None else (h, shortcut(patch.core(first)))

    h, *rest = sweeper.sweep([Operand(x, first, last=shortcut is not None)], widest, branch)
    residual = rest[0] if rest else x
    ready_again = _ready(h, block.norm2)

    def add(patch: Patch, beside: Patch) -> tuple[Tensor, ...]:
        return (_convolve(block.conv2, ready_again(patch.data), patch).add_(beside.data),)

    return sweeper.sweep([Operand(h, second), Operand(residual)], widest, add)[0]


class _Convolution(NamedTuple):
    """A layer that is one convolution: how far it sees, and the norm and SiLU before it, if any."""

    conv: nn.Conv2d
    reach: Reach
    norm: nn.GroupNorm | None = None


def _convolution(layer: nn.Conv2d | Downsample | Upsample | NormConv) -> _Convolution:
    if isinstance(layer, NormConv):
        return _Convolution(layer.conv, _reach(layer.conv), layer.norm)
    if isinstance(layer, Downsample):
        return _Convolution(layer.conv, _reach(layer.conv)._replace(after=1))
    if isinstance(layer, Upsample):
        return _Convolution(layer.conv, _reach(layer.conv)._replace(enlarge=2))
    return _Convolution(layer, _reach(layer))


def _reach(conv: nn.Conv2d) -> Reach:
    """Return how far a square convolution sees."""
    padding = int(conv.padding[0])
    return Reach(conv.kernel_size[0], conv.stride[0], padding, padding)


def _ready(x: Activation, norm: nn.GroupNorm | None) -> Callable[[Tensor], Tensor]:
    """Return what normalizes a patch by the statistics of all of `x` and applies SiLU."""
    if norm is None:
        return lambda data: data
    assert x.moments is not None
    scale, shift = x.moments.affine(norm)
    return lambda data: F.silu(normalize(data, scale, shift))


def _convolve(conv: nn.Conv2d, data: Tensor, patch: Patch) -> Tensor:
    """Return the convolution of a patch's data, with zeros only where the image ends.

    Through the layer itself, with another padding than its own while it runs, so that layers which bring
    their weights when they are called do so here too.
    """
    down, across = patch.down, patch.across
    even_down, even_across = down.before == down.after, across.before == across.after
    pads = (0, 0) if even_across else (across.before, across.after)
    pads += (0, 0) if even_down else (down.before, down.after)
    data = F.pad(data, pads) if any(pads) else data
    own = conv.padding
    conv.padding = (down.before if even_down else 0, across.before if even_across else 0)
    try:
        return conv(data)
    finally:
        conv.padding = own
