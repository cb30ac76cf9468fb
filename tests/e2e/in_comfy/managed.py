"""The core's networks of ComfyUI's layers, under its patcher. Prints a line of JSON."""

from __future__ import annotations

import gc
import importlib.util
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from start import answer, load_pack, relative

pack = load_pack()

import comfy.model_management as management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.ops  # noqa: E402
import torch  # noqa: E402
from osediff_pack.nodes import managed as ours  # noqa: E402
from osediff_pack.nodes.runtime import ComfyRuntime  # noqa: E402
from osediff_pack.osediff_core import OSEDiff, restore  # noqa: E402
from osediff_pack.osediff_core.network.unet import UNet  # noqa: E402
from osediff_pack.osediff_core.vae.exact import decode_in_pieces, encode_in_pieces  # noqa: E402

HAS_DYNAMIC = importlib.util.find_spec("comfy.memory_management") is not None
CPU, META = torch.device("cpu"), torch.device("meta")
PATCHER = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)


def demo(dtype: torch.dtype = torch.float32) -> OSEDiff:
    return OSEDiff.from_pretrained(dtype=dtype, device="cpu")


def held(patcher: object) -> torch.nn.Module:
    """The network that a patcher moves."""
    return getattr(patcher.model, "held", patcher.model)


def layers(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules that have weights of their own."""
    return [m for m in network.modules() if [*m.parameters(recurse=False)]]


def picture(model: OSEDiff, lq: torch.Tensor, **how: object) -> torch.Tensor:
    """The restored picture, in ComfyUI's surroundings."""
    managed = ours.ManagedModel(model)
    return restore(managed.idle, lq, scale=2.0, prompt="a cat", runtime=ComfyRuntime(managed), **how)


def partly(lq: torch.Tensor, **how: object) -> dict[str, object]:
    """With less than half of the weights moved in, as where memory is short."""
    managed, counts = ours.ManagedModel(demo()), []
    for patcher in managed.get_models()[1:]:
        patcher.patch_model(CPU, lowvram_model_memory=patcher.model_size() // 3)
        flags = [layer.comfy_cast_weights for layer in layers(patcher.model)]
        counts.append((sum(flags), len(flags)))
    with_what_is_there, loaded = management.load_models_gpu, []
    management.load_models_gpu = lambda models, **_: loaded.extend(models)
    try:
        runtime = ComfyRuntime(managed)
        result = restore(managed.idle, lq, scale=2.0, prompt="a cat", runtime=runtime, **how)
    finally:
        management.load_models_gpu = with_what_is_there
    return {"picture": result, "cast": counts, "loaded": len(loaded)}


def without_a_weight(cast: bool) -> list[str]:
    """Run all on a device where no weight is; what fails, by its name."""
    managed = ours.ManagedModel(demo())
    unet, vae = managed.idle.unet, managed.idle.vae
    for layer in [*layers(unet), *layers(vae)]:
        layer.comfy_cast_weights = cast
    z = torch.zeros(1, vae.config.latent_channels, 24, 40, device=META)
    x = torch.zeros(1, 3, 48, 80, device=META)
    text = torch.zeros(1, 77, unet.config.cross_attention_dim, device=META)
    runs = {
        "unet": lambda: unet(z, torch.zeros(1, device=META), text),
        "encode": lambda: vae.encode(x),
        "decode": lambda: vae.decode(z),
        "encode in pieces": lambda: encode_in_pieces(vae, x, piece=32, device=META),
        "decode in pieces": lambda: decode_in_pieces(vae, z, piece=32, device=META),
    }
    failed = []
    for name, run in runs.items():
        try:
            run()
        except (RuntimeError, NotImplementedError) as error:
            failed.append(f"{name}: {str(error).splitlines()[0]}")
    return failed


@contextmanager
def dynamic() -> Iterator[None]:
    """As under dynamic memory, where ComfyUI's linear layers have no weights until they are read.

    Versions that have no such thing take no notice.
    """
    memory = importlib.import_module("comfy.memory_management") if HAS_DYNAMIC else SimpleNamespace()
    memory.aimdo_enabled = True
    try:
        yield
    finally:
        memory.aimdo_enabled = False


def lazily() -> OSEDiff:
    """Handed to ComfyUI under dynamic memory."""
    model = demo()
    with dynamic():
        return ours.ManagedModel(model).idle


def freed() -> dict[str, object]:
    """What is left of a model that was used, after ComfyUI's button and after its wire is gone."""
    managed = ours.ManagedModel(demo())
    # With words, for which the text encoder is needed.
    restore(managed.idle, torch.rand(1, 3, 8, 8), scale=1.0, prompt="a cat", runtime=ComfyRuntime(managed))
    there = len([m for m in management.loaded_models() if m in managed.get_models()])
    management.unload_all_models()
    left = len(management.loaded_models())
    weak = [weakref.ref(part) for part in (managed.idle.unet, managed.idle.vae, managed.idle.text_encoder)]
    del managed
    gc.collect()
    return {"used": there, "after the button": left, "alive": sum(ref() is not None for ref in weak)}


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    lq = torch.rand(1, 3, 37, 53)
    plain = restore(demo(), lq, scale=2.0, prompt="a cat")
    managed = ours.ManagedModel(demo())
    networks = managed.idle.text_encoder, managed.idle.vae, managed.idle.unet
    some = partly(lq)
    pieces = partly(lq, vae=32)
    half = ours.ManagedModel(demo(torch.float16))
    with ours.in_float32(half.idle.unet):
        inside = str(half.idle.unet.dtype)
    results = {
        "patchers": [isinstance(patcher, PATCHER) for patcher in managed.get_models()],
        "networks": [a is b for a, b in zip(map(held, managed.get_models()), networks, strict=True)],
        "foreign layers": sum(not hasattr(m, "comfy_cast_weights") for n in networks[1:] for m in layers(n)),
        "equal": torch.equal(plain, picture(demo(), lq)),
        "another": relative(plain, picture(demo(), lq.flip(3))),
        "partly": torch.equal(plain, some["picture"]),
        "cast": some["cast"],
        "loaded": some["loaded"],
        "partly in pieces": (plain - pieces["picture"]).abs().max().item(),
        "elsewhere": without_a_weight(True),
        "elsewhere, not cast": without_a_weight(False),
        "half": [str(half.idle.unet.dtype), str(half.idle.unet.conv_in.weight.dtype), inside],
        "half picture": (plain - picture(demo(torch.float16), lq)).abs().max().item(),
        "lazily": torch.equal(plain, restore(lazily(), lq, scale=2.0, prompt="a cat")),
        "lazy layers": lazy_layers() == HAS_DYNAMIC,
        "freed": freed(),
    }
    answer(results)


def lazy_layers() -> bool:
    """Whether some layers of a network that is built under dynamic memory have no weight."""
    config = demo().unet.config
    with dynamic(), META:
        empty = UNet(config, comfy.ops.disable_weight_init)
    return any(getattr(m, "weight", 0) is None for m in empty.modules())


if __name__ == "__main__":
    main()
