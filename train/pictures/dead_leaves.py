"""Synthetic training pictures: "dead leaves", opaque shapes of power-law sizes that hide one another.

Photographs are scarce where nothing may be downloaded. Pictures of overlapping shapes share the
statistics that matter to restoration: sharp edges at every scale, flat regions, texture, thin lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..randomness.sampling import chance, integer, uniform

Shape = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]


def dead_leaves(size: int, generator: torch.Generator) -> Tensor:
    """Paint one picture, (3, size, size) float32 in [0, 1]; the same generator state gives the same picture.

    Shapes are laid from the largest to the smallest over a textured background until they cover the
    canvas about three times. Raises ValueError for a size below 8.
    """
    if size < 8:
        raise ValueError(f"dead_leaves needs a size of at least 8 pixels, got {size}.")
    palette = _palette(generator)
    noise = _fractal_noise(size, generator)
    canvas = _background(size, palette, noise, generator)
    smallest, largest = uniform(generator, 1.5, 6), size * uniform(generator, 0.15, 0.4)
    exponent = uniform(generator, 0.6, 1.9)
    for radius in _radii(size, smallest, largest, exponent, generator):
        _paint(canvas, radius, palette, noise, generator)
    light = 1 + uniform(generator, 0, 0.15) * noise[0]  # uneven light, so that few regions are wholly flat
    return canvas.mul_(light).clamp_(0, 1)


def _radii(size: int, low: float, high: float, exponent: float, generator: torch.Generator) -> list[float]:
    """Draw radii with density r^-exponent on [low, high] until their area is three canvases; largest first.

    A third of the shapes keep their place in the draw, so that large ones also hide small ones.
    """
    u = torch.rand(900, generator=generator)
    power = 1 - exponent
    radii = (low**power + u * (high**power - low**power)) ** (1 / power)
    enough = int((radii.square().cumsum(0) * math.pi < 3 * size * size).sum()) + 1
    radii = radii[:enough]
    key = torch.where(torch.rand(len(radii), generator=generator) < 0.33, radii.roll(1), radii)
    return radii[key.argsort(descending=True)].tolist()


def _palette(generator: torch.Generator) -> Callable[[float], Tensor]:
    """Make a smooth closed curve through colour space, a cosine per channel."""
    lightness = 0.2 + 0.6 * torch.rand(1, generator=generator)
    saturation = uniform(generator, 0.1, 1.0)
    phase = torch.rand(3, generator=generator)
    grey_phase = torch.rand(1, generator=generator)
    turns = torch.randint(1, 3, (3,), generator=generator)

    def colour(t: float) -> Tensor:
        chroma = torch.cos(2 * math.pi * (turns * t + phase)) * 0.45 * saturation
        shade = torch.cos(2 * math.pi * (3 * t + grey_phase)) * 0.35
        return (lightness + chroma + shade).clamp(0.01, 0.99).view(3, 1, 1)

    return colour


def _leaf_colour(palette: Callable[[float], Tensor], generator: torch.Generator) -> Tensor:
    """Take a colour (3, 1, 1) mostly from the palette, now and then grey or any colour at all."""
    kind = uniform(generator, 0, 1)
    if kind < 0.78:
        jitter = 0.04 * torch.randn(3, 1, 1, generator=generator)
        return (palette(uniform(generator, 0, 1)) + jitter).clamp(0, 1)
    if kind < 0.9:
        return torch.rand(1, 1, 1, generator=generator).expand(3, 1, 1)
    return torch.rand(3, 1, 1, generator=generator)


def _fractal_noise(size: int, generator: torch.Generator) -> Tensor:
    """Make three layers of 1/f^a noise (3, size, size), zero mean and unit deviation, smooth to rough."""
    white = torch.fft.rfft2(torch.randn(3, size, size, generator=generator))
    fy = torch.fft.fftfreq(size).view(-1, 1)
    fx = torch.fft.rfftfreq(size).view(1, -1)
    frequency = torch.hypot(fy, fx).clamp_min(1 / size)
    slopes = torch.tensor([1.8, 1.3, 0.8]).view(3, 1, 1)
    noise = torch.fft.irfft2(white / frequency**slopes, s=(size, size))
    noise = noise - noise.mean((1, 2), keepdim=True)
    return noise / noise.std((1, 2), keepdim=True)


def _background(
    size: int, palette: Callable[[float], Tensor], noise: Tensor, generator: torch.Generator
) -> Tensor:
    ramp = torch.linspace(0, 1, size).view(1, size, 1)
    first, second = _leaf_colour(palette, generator), _leaf_colour(palette, generator)
    sky = first + (second - first) * ramp  # (3, size, 1)
    layer = noise[integer(generator, 3)]
    return (sky + uniform(generator, 0, 0.12) * layer).clamp(0, 1)


def _paint(
    canvas: Tensor,
    radius: float,
    palette: Callable[[float], Tensor],
    noise: Tensor,
    generator: torch.Generator,
) -> None:
    """Lay one shape on the canvas (3, size, size), in place, with an edge about a pixel wide."""
    size = canvas.shape[-1]
    cy, cx = (torch.rand(2, generator=generator) * size).tolist()
    reach = radius * 1.5 + 2
    y0, y1 = max(0, int(cy - reach)), min(size, int(cy + reach) + 1)
    x0, x1 = max(0, int(cx - reach)), min(size, int(cx + reach) + 1)
    angle = uniform(generator, 0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    dy = torch.arange(y0, y1).sub(cy).view(-1, 1)
    dx = torch.arange(x0, x1).sub(cx).view(1, -1)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx  # (h, w), the leaf's own axes
    shape = _SHAPES[integer(generator, len(_SHAPES))]
    distance = shape(u, v, radius, generator)  # (h, w), negative inside
    softness = 1.0 if chance(generator, 0.85) else uniform(generator, 1, 4)
    cover = (0.5 - distance / softness).clamp(0, 1)
    window = noise[:, y0:y1, x0:x1]
    leaf = _texture(u, v, distance, radius, window, palette, generator)
    canvas[:, y0:y1, x0:x1].lerp_(leaf.clamp(0, 1), cover.expand(3, -1, -1))


def _ellipse(u: Tensor, v: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Return a disc or an ellipse; to first order its distance is (|p| - 1) times the shorter half-axis."""
    short = radius * uniform(generator, 0.35, 1.0)
    return (torch.hypot(u / radius, v / short) - 1) * short


def _polygon(u: Tensor, v: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Return a convex polygon of 3 to 7 sides as the intersection of half-planes."""
    sides = 3 + integer(generator, 5)
    angles = 2 * math.pi * (torch.arange(sides) + 0.6 * torch.rand(sides, generator=generator)) / sides
    offsets = radius * (0.5 + 0.45 * torch.rand(sides, generator=generator))
    distance = torch.full_like(u, -math.inf)
    for angle, offset in zip(angles.tolist(), offsets.tolist(), strict=True):
        distance = torch.maximum(distance, math.cos(angle) * u + math.sin(angle) * v - offset)
    return torch.maximum(distance, torch.hypot(u, v) - 1.45 * radius)


def _box(u: Tensor, v: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Return a rectangle with an aspect between square and plank."""
    return torch.maximum(u.abs() - radius, v.abs() - radius * uniform(generator, 0.1, 1.0))


def _line(u: Tensor, v: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Return a thin stroke half a pixel to three pixels wide to either side, straight or waving."""
    wave = uniform(generator, 0, 0.25) * radius * (integer(generator, 2))
    stretch = 2 * math.pi / (radius * uniform(generator, 0.5, 2.0))
    slope = wave * stretch * torch.cos(stretch * u)
    across = (v - wave * torch.sin(stretch * u)).abs() / torch.sqrt(1 + slope.square())
    return torch.maximum(across - uniform(generator, 0.4, 2.5), u.abs() - radius * 1.4)


def _ring(u: Tensor, v: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Return an annulus, from a hairline to half the radius thick."""
    thick = 0.5 + 0.25 * radius * uniform(generator, 0, 1) ** 2
    return (torch.hypot(u, v) - radius + thick).abs() - thick


_SHAPES: tuple[Shape, ...] = (_ellipse, _ellipse, _polygon, _polygon, _box, _line, _ring)


def _texture(
    u: Tensor,
    v: Tensor,
    distance: Tensor,
    radius: float,
    noise: Tensor,
    palette: Callable[[float], Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Fill the leaf: flat, a gradient, stripes, checks, grain, or shaded like a ball. Returns (3, h, w)."""
    colour, other = _leaf_colour(palette, generator), _leaf_colour(palette, generator)
    contrast = uniform(generator, 0, 1)  # most textures of the world are faint
    other = colour + (other - colour) * contrast
    kind = uniform(generator, 0, 1)
    period = uniform(generator, 3, max(5.0, radius / 2))
    if kind < 0.24:
        mix = torch.zeros_like(u)
    elif kind < 0.42:
        mix = (u / (2.4 * radius) + 0.5).clamp(0, 1)
    elif kind < 0.56:
        mix = _stripes(u, period, uniform(generator, 0.5, 4))
    elif kind < 0.61:
        mix = 1 - (_stripes(u, period, 4) - _stripes(v, period, 4)).abs()
    elif kind < 0.88:
        layer = noise[integer(generator, 3)]
        mix = (0.5 + uniform(generator, 0.05, 0.4) * layer).clamp(0, 1)
    else:
        mix = (-distance / radius).clamp(0, 1)
    leaf = colour + (other - colour) * mix  # (3, h, w)
    if chance(generator, 0.3):
        leaf = leaf + uniform(generator, 0.01, 0.06) * noise[2]
    return leaf


def _stripes(along: Tensor, period: float, hardness: float) -> Tensor:
    """Waves in [0, 1] of a period in pixels; hardness above 1 squares them, bounded by the pixel grid."""
    slope = min(hardness, period / math.pi)
    return (0.5 + 0.5 * slope * torch.sin(2 * math.pi / period * along)).clamp(0, 1)
