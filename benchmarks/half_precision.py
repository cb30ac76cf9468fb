"""What half precision costs, and what is gained by the layers that stay in float32.

    python -m benchmarks.half_precision [--base BASE --weights FILE --vocabulary FOLDER] [--picture FILE]

One picture is restored in float32, and in float16 and bfloat16 with more and more of the end of the UNet in
float32: the step itself, the last convolution, the norm before it. Printed is how far each is from float32:
the relative error of x0 over all of the latent, and the PSNR of the picture before its colours are matched.
`encoder alone` has its latent from the half-precision encoder, and all the rest in float32.

On a processor float16 is emulated: each layer computes in float32, of rounded weights and inputs, and its
result is rounded, which is what tensor cores do. bfloat16 is the processor's own.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from osediff_core import OSEDiff
from osediff_core.base.precision import EXACT
from osediff_core.pictures.images import read_image
from osediff_core.pipeline.plan import make_plan
from osediff_core.pipeline.run import prepare
from osediff_core.pipeline.runtime import Runtime

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "coffee_lq.png"
HALVES = (torch.float16, torch.bfloat16)
ATEN = torch.ops.aten
LAYERS = {
    ATEN.convolution.default,
    ATEN.addmm.default,
    ATEN.mm.default,
    ATEN.bmm.default,
    ATEN.baddbmm.default,
    ATEN._scaled_dot_product_flash_attention_for_cpu.default,
}


@dataclass(frozen=True)
class Choice:
    """What is in float32: layers of the UNet's end, and the step."""

    name: str
    layers: tuple[str, ...]
    step: bool


CHOICES = (
    Choice("nothing", (), False),
    Choice("the step", (), True),
    Choice("the step, conv_out", ("conv_out",), True),
    Choice("the step, conv_norm_out, conv_out", EXACT, True),
)
DONE = CHOICES[-1]
"""What the program does."""


@dataclass(frozen=True)
class Row:
    """How far a result is from float32: relative error of x0, PSNR of the picture in dB."""

    dtype: str
    exact: str
    x0: float
    psnr: float


class RoundedLayers(TorchDispatchMode):
    """Layers of float16 compute in float32, and their result is rounded once."""

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run one operation."""
        kwargs = kwargs or {}
        if func not in LAYERS or not any(_is_half(leaf) for leaf in tree_leaves(args)):
            return func(*args, **kwargs)
        wide = tree_map(lambda leaf: leaf.float() if _is_half(leaf) else leaf, args)
        out = func(*wide, **kwargs)
        return tree_map(lambda leaf: leaf.half() if isinstance(leaf, Tensor) else leaf, out)


def _is_half(leaf: Any) -> bool:  # noqa: ANN401
    return isinstance(leaf, Tensor) and leaf.dtype == torch.float16


def arithmetic(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """What makes a device compute in `dtype` as accelerators do."""
    return RoundedLayers() if dtype == torch.float16 and device.type == "cpu" else nullcontext()


@torch.no_grad()
def compare(options: Mapping[str, Any], lq: Tensor) -> list[Row]:
    """Restore `lq` (1, 3, H, W) in every way; options: for `OSEDiff.from_pretrained`, without dtype."""
    halves = {dtype: _half(OSEDiff.from_pretrained(dtype=dtype, **options), lq) for dtype in HALVES}
    model = OSEDiff.from_pretrained(dtype=torch.float32, **options)
    x = prepare(lq, make_plan(model, *lq.shape[-2:], scale=4, runtime=Runtime()))  # (1, 3, H, W)
    embeds = model.encode_prompt([""])  # (1, L, D)

    def exactly(z: Tensor) -> tuple[Tensor, Tensor]:
        x0 = model.predict_x0(z, model.predict_noise(z, embeds))
        return x0, model.decode(x0)

    x0, image = exactly(model.encode(x))
    rows = []
    for dtype, (z, results) in halves.items():
        results = {"encoder alone in half precision": exactly(z.float()), **results}
        for name, (found, picture) in results.items():
            error = ((found - x0).norm() / x0.norm()).item()
            psnr = -10 * (picture - image).square().mean().log10().item()
            rows.append(Row(str(dtype).removeprefix("torch."), name, error, psnr))
    return rows


def _half(model: OSEDiff, lq: Tensor) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Return the latent z_lq that a half-precision model makes of `lq`, and by choice x0 and the picture."""
    seen: list[Tensor] = []
    with arithmetic(model.dtype, model.device):
        x = prepare(lq, make_plan(model, *lq.shape[-2:], scale=4, runtime=Runtime()))  # (1, 3, H, W)
        z = model.encode(x)  # (1, C, h, w)
        embeds = model.encode_prompt([""])  # (1, L, D)
        hook = model.unet.conv_norm_out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        eps = model.predict_noise(z, embeds)
        hook.remove()
        results = {}
        for choice in CHOICES:
            found = end_of_unet(model.unet, seen[0].to(model.dtype), choice)
            if choice is DONE and not torch.equal(found, eps):
                raise SystemExit("what is measured is not what the program does")
            x0 = model.predict_x0(z, found) if choice.step else _rounded_step(model, z, found)
            results[choice.name] = x0, model.decode(x0)
    return z, results


def end_of_unet(unet: nn.Module, hidden: Tensor, choice: Choice) -> Tensor:
    """Return eps (1, C, h, w) of what goes into the UNet's last norm, (1, D, h, w), in half precision."""
    ends = {name: copy.deepcopy(getattr(unet, name)) for name in EXACT}
    for name, layer in ends.items():
        if name not in choice.layers:
            layer.to(hidden.dtype)
        assert layer.weight.dtype == (torch.float32 if name in choice.layers else hidden.dtype)

    def through(name: str, x: Tensor) -> Tensor:
        return ends[name](x.to(ends[name].weight.dtype))

    return through("conv_out", F.silu(through("conv_norm_out", hidden)))


def _rounded_step(model: OSEDiff, z: Tensor, eps: Tensor) -> Tensor:
    """Return x0 as the published code's scheduler computes it in half precision, (1, C, h, w) float32."""
    a = model.alphas_cumprod[model.timestep]
    return ((z - (1 - a).sqrt() * eps.to(z.dtype)) / a.sqrt()).float()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base", help="default, without --weights: the demo")
    parser.add_argument("--weights")
    parser.add_argument("--vocabulary")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--side", type=int, default=100, help="of the square that is cut out of its corner")
    args = parser.parse_args()
    options = {name: getattr(args, name) for name in ("base", "weights", "vocabulary", "device")}
    lq = read_image(args.picture).rgb[..., : args.side, : args.side]
    print("| | in float32 | x0, relative error | PSNR, dB |\n|---|---|---|---|")
    for row in compare(options, lq):
        print(f"| {row.dtype} | {row.exact} | {row.x0:.1e} | {row.psnr:.1f} |")


if __name__ == "__main__":
    main()
