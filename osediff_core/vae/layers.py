"""The layers of a VAE of the diffusers kind, one after the other, as they are run piece by piece.

A stage takes the whole activation before it and gives the whole one after it. Whatever needs the whole image,
the statistics of GroupNorm and the attention, is taken over the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OSEDiffError
from .attention import attend
from .geometry import Reach, normalize
from .strips import Kept, Patch, Source, Sweeper

Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class Conv:
    """A convolution, after a GroupNorm and an activation if it has them: x becomes conv(act(norm(x)))."""

    conv: nn.Conv2d
    reach: Reach
    norm: nn.GroupNorm | None = None
    act: nn.Module | None = None

    def after(self, shape: Shape) -> Shape:
        """Return the shape that comes out."""
        return self.conv.out_channels, self.reach.length(shape[1]), self.reach.length(shape[2])

    def kept(self, shape: Shape) -> int:
        """Return how many values are kept at most: the input goes as the output comes."""
        return max(_size(shape), _size(self.after(shape)))

    def whole(self, shape: Shape) -> int:
        """Return how many values the layer has at once when it is not cut."""
        enlarged = _size(shape) * self.reach.enlarge**2
        before = 3 * _size(shape) if self.norm is not None else _size(shape) + enlarged
        return max(before, enlarged + _size(self.after(shape)) + _size(shape))

    def run(self, sweeper: Sweeper, x: Kept) -> Kept:
        """Run the layer."""
        ready = _ready(x, self.norm, self.act)

        def compute(patch: Patch) -> tuple[Tensor, ...]:
            return (_convolve(self.conv, ready(patch.data), patch),)

        widest = max(self.conv.in_channels, self.conv.out_channels)
        return sweeper.sweep([Source(x, self.reach)], widest, compute)[0]


@dataclass(frozen=True)
class Resnet:
    """A residual block: x becomes shortcut(x) + conv2(act(norm2(conv1(act(norm1(x))))))."""

    block: nn.Module

    def after(self, shape: Shape) -> Shape:
        """Return the shape that comes out."""
        return self.block.conv2.out_channels, shape[1], shape[2]

    def kept(self, shape: Shape) -> int:
        """Return how many values are kept at most: the branch, and x or what its shortcut makes of it."""
        return max(_size(shape), 2 * _size(self.after(shape)))

    def whole(self, shape: Shape) -> int:
        """Return how many values the block has at once when it is not cut: its norms' or its sum's."""
        size, after = _size(shape), _size(self.after(shape))
        return size + max(2 * size, 4 * after)

    def run(self, sweeper: Sweeper, x: Kept) -> Kept:
        """Run the block in two sweeps, one to each convolution, for each needs statistics of the whole."""
        block = self.block
        first, second = _reach(block.conv1), _reach(block.conv2)
        widest = max(block.conv1.in_channels, block.conv2.out_channels)
        ready = _ready(x, block.norm1, block.nonlinearity)

        def branch(patch: Patch) -> tuple[Tensor, ...]:
            h = _convolve(block.conv1, ready(patch.data), patch)
            if block.conv_shortcut is None:
                return (h,)
            return h, block.conv_shortcut(patch.core(first))

        h, *rest = sweeper.sweep([Source(x, first, last=block.conv_shortcut is not None)], widest, branch)
        residual = rest[0] if rest else x
        ready_again = _ready(h, block.norm2, block.nonlinearity)

        def add(patch: Patch, beside: Patch) -> tuple[Tensor, ...]:
            out = _convolve(block.conv2, ready_again(patch.data), patch)
            out += beside.data
            return (out if block.output_scale_factor == 1 else out / block.output_scale_factor,)

        return sweeper.sweep([Source(h, second), Source(residual)], widest, add)[0]


@dataclass(frozen=True)
class Attention:
    """Self-attention of all pixels to all pixels, with its GroupNorm and its residual."""

    block: nn.Module

    def after(self, shape: Shape) -> Shape:
        """Return the shape that comes out."""
        return shape

    def kept(self, shape: Shape) -> int:
        """Return how many values are kept at most: x and the result."""
        return 2 * _size(shape)

    def whole(self, shape: Shape) -> int:
        """Return how many values the block has at once: x twice, x normalized, query, key, value, results."""
        return 8 * _size(shape)

    def run(self, sweeper: Sweeper, x: Kept) -> Kept:
        """Run the block: queries piece by piece, each against the keys of the whole image."""
        return attend(self.block, sweeper, x)


Stage = Conv | Resnet | Attention


def encoder_stages(vae: nn.Module) -> list[Stage]:
    """Return the layers from the image in [-1, 1] to the posterior's moments; OSEDiffError if unknown."""
    encoder = vae.encoder
    stages: list[Stage] = [_conv(encoder.conv_in)]
    for block in encoder.down_blocks:
        stages += _blocks(block)
        stages += [_downsampler(down) for down in block.downsamplers or ()]
    stages += _middle(encoder.mid_block)
    stages.append(_conv(encoder.conv_out, encoder.conv_norm_out, encoder.conv_act))
    return stages if vae.quant_conv is None else [*stages, _conv(vae.quant_conv)]


def decoder_stages(vae: nn.Module) -> list[Stage]:
    """Return the layers from the unscaled latent to the image in [-1, 1]; OSEDiffError if unknown."""
    decoder = vae.decoder
    stages: list[Stage] = [] if vae.post_quant_conv is None else [_conv(vae.post_quant_conv)]
    stages += [_conv(decoder.conv_in), *_middle(decoder.mid_block)]
    for block in decoder.up_blocks:
        stages += _blocks(block)
        stages += [_upsampler(up) for up in block.upsamplers or ()]
    return [*stages, _conv(decoder.conv_out, decoder.conv_norm_out, decoder.conv_act)]


def _middle(block: nn.Module) -> Iterator[Stage]:
    yield _resnet(block.resnets[0])
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            yield _attention(attention)
        yield _resnet(resnet)


def _blocks(block: nn.Module) -> Iterator[Stage]:
    """Yield the residual blocks of one level, each with its attention if the level has any."""
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    for resnet, attention in zip(block.resnets, attentions, strict=True):
        yield _resnet(resnet)
        if attention is not None:
            yield _attention(attention)


def _conv(conv: nn.Module, norm: nn.Module | None = None, act: nn.Module | None = None) -> Conv:
    _check(norm is None or isinstance(norm, nn.GroupNorm), norm)
    return Conv(conv, _reach(conv), norm, act)  # type: ignore[arg-type]


def _reach(conv: nn.Module) -> Reach:
    """Return how far a plain square convolution sees."""
    plain = isinstance(conv, nn.Conv2d) and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    _check(plain and len({*conv.kernel_size}) == len({*conv.stride}) == len({*conv.padding}) == 1, conv)
    assert isinstance(conv, nn.Conv2d)
    padding = conv.padding[0]
    _check(isinstance(padding, int), conv)
    return Reach(conv.kernel_size[0], conv.stride[0], int(padding), int(padding))


def _resnet(block: nn.Module) -> Resnet:
    """Return the stage of a block that is what a VAE of this kind has: no time, no resampling inside."""
    known = ("norm1", "norm2", "conv1", "conv2", "conv_shortcut", "nonlinearity")
    _check(all(hasattr(block, name) for name in known), block)
    for name in ("time_emb_proj", "upsample", "downsample"):
        _check(getattr(block, name, None) is None, block)
    _check(isinstance(block.norm1, nn.GroupNorm) and isinstance(block.norm2, nn.GroupNorm), block)
    _check({_reach(block.conv1), _reach(block.conv2)} == {Reach(3, 1, 1, 1)}, block)
    return Resnet(block)


def _attention(block: nn.Module) -> Attention:
    plain = isinstance(block.group_norm, nn.GroupNorm) and block.residual_connection
    extras = ("spatial_norm", "norm_q", "norm_k", "add_k_proj")
    _check(plain and all(getattr(block, name, None) is None for name in extras), block)
    return Attention(block)


def _downsampler(down: nn.Module) -> Conv:
    """Return the stage of a strided convolution; one without padding gets zeros after the last pixel."""
    _check(down.use_conv and down.norm is None, down)
    reach = _reach(down.conv)
    return Conv(down.conv, reach if down.padding else reach._replace(after=1))


def _upsampler(up: nn.Module) -> Conv:
    _check(up.use_conv and up.interpolate and not up.use_conv_transpose and up.norm is None, up)
    return Conv(up.conv, _reach(up.conv)._replace(enlarge=2))


def _check(known: bool, module: nn.Module | None) -> None:
    if not known:
        raise OSEDiffError(
            f"expected a VAE of Stable Diffusion's kind, got a {type(module).__name__} that cannot be cut "
            "into pieces: use vae='whole', where there is memory for the whole"
        )


def _size(shape: Shape) -> int:
    return shape[0] * shape[1] * shape[2]


def _ready(x: Kept, norm: nn.GroupNorm | None, act: nn.Module | None) -> Callable[[Tensor], Tensor]:
    """Return what normalizes a patch by the statistics of all of `x` and applies the activation."""
    if norm is None:
        return lambda data: data
    assert x.moments is not None
    scale, shift = x.moments.affine(norm)

    def ready(data: Tensor) -> Tensor:
        data = normalize(data, scale, shift)
        return data if act is None else act(data)

    return ready


def _convolve(conv: nn.Conv2d, data: Tensor, patch: Patch) -> Tensor:
    """Return the convolution of a patch's data, with zeros only where the image ends."""
    down, across = patch.down, patch.across
    even_down, even_across = down.before == down.after, across.before == across.after
    pads = (0, 0) if even_across else (across.before, across.after)
    pads += (0, 0) if even_down else (down.before, down.after)
    data = F.pad(data, pads) if any(pads) else data
    padding = (down.before if even_down else 0, across.before if even_across else 0)
    return torch.conv2d(data.to(conv.weight.dtype), conv.weight, conv.bias, conv.stride, padding)
