"""Run inside ComfyUI's Python: what its stock LoraLoader and VAE make of our exports, at full size.

Random weights of Stable Diffusion 2.1-base's shape. Arguments: ComfyUI's folder, this repository, an empty
folder, and the UNet's width: 320, or 64 for one of the same layers that takes seconds. Prints a line of JSON.
"""

from __future__ import annotations

import copy
import json
import logging
import sys

comfy_path, root, folder = sys.argv[1:4]
width = int(sys.argv[4])
sys.argv = ["main.py", "--cpu"]
sys.path[0] = comfy_path  # ComfyUI first: its nodes.py has the name of one of our folders
sys.path.append(root)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.lora  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402

import nodes  # noqa: E402
from osediff_core.base import sd21  # noqa: E402
from osediff_core.lora import folded, unet_targets, vae_targets  # noqa: E402
from osediff_core.network.config import UNetConfig, VAEConfig, read_config  # noqa: E402
from osediff_core.network.unet import UNet  # noqa: E402
from osediff_core.network.vae import VAE  # noqa: E402
from osediff_core.tools.exports import write_unet_lora, write_vae_patch  # noqa: E402
from osediff_core.weights.checkpoint import Checkpoint  # noqa: E402


class Warnings(logging.Handler):
    """What ComfyUI warns of while a LoRA is loaded."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


def lora_for(module: torch.nn.Module, names: list[str], rank: int) -> dict[str, torch.Tensor]:
    """Random low-rank pairs that change every layer by about as much as it holds."""
    tensors, shapes = {}, {name: p.shape for name, p in module.named_parameters()}
    for name in names:
        out, *rest = shapes[f"{name}.weight"]
        std = float(torch.tensor(rest).prod()) ** -0.5  # of weights that keep the scale of what they carry
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, *rest) * std
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank, *(1,) * (len(rest) - 1)) * 0.1
    return tensors


def fold(module: torch.nn.Module, tensors: dict[str, torch.Tensor], strength: float = 1.0) -> None:
    """Fold OSEDiff tensors of scale 2 into a network, as loading does."""
    for name, parameter in module.named_parameters():
        parameter.data = folded(name, parameter, tensors, 2.0, strength).to(parameter.dtype)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, as a part of what there is."""
    return ((ours - theirs).abs().max() / ours.abs().max()).item()


def eps_of(patcher: object, z: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    """What the patched UNet predicts at the one timestep."""
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    network = patcher.model.diffusion_model
    return network(z, torch.tensor([999]), context=embeds).clone()


def random_unet() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The same UNet and the same OSEDiff tensors for it at every call."""
    torch.manual_seed(0)
    widths = (width, 2 * width, 4 * width, 4 * width)
    heads = tuple(side // 64 for side in widths)
    sizes = {**sd21.UNET, "block_out_channels": widths, "attention_head_dim": heads}
    unet = UNet(read_config(UNetConfig, sizes)).eval()
    tensors = lora_for(unet, [n for names in unet_targets(unet).values() for n in names], 4)
    for kind, value in unet.conv_in.named_parameters():
        tensors[f"conv_in.{kind}"] = value + 0.3 * value.std() * torch.randn_like(value)
    return unet, tensors


def write_exports(unet: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """The two kinds of LoRA file, and as a control one with a renamed key."""
    checkpoint = Checkpoint(tensors, {}, 4, 8.0, 4, 8.0)
    base = {f"conv_in.{kind}": value for kind, value in unet.conv_in.named_parameters()}
    write_unet_lora(f"{folder}/diff.safetensors", checkpoint, base)
    write_unet_lora(f"{folder}/set.safetensors", checkpoint)
    lora = comfy.utils.load_torch_file(f"{folder}/diff.safetensors")
    renamed = "lora_unet_mid_block_resnets_0_conv1.lora_up.weight"
    lora["lora_unet_mid_block_resnets_0_conv9.lora_up.weight"] = lora.pop(renamed)
    comfy.utils.save_torch_file(lora, f"{folder}/wrong.safetensors")


def comfy_model(unet: torch.nn.Module) -> object:
    """The same UNet as ComfyUI's own; its detection knows only the full width, so a narrow one is built."""
    if width == 320:
        return comfy.sd.load_diffusion_model_state_dict(unet.state_dict())
    sizes = {
        **{
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": width,
            "context_dim": 1024,
        },
        **{"use_spatial_transformer": True, "legacy": False, "use_linear_in_transformer": True},
        **{"num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4], "num_head_channels": 64},
        **{"transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_output": [1] * 9 + [0] * 3},
        **{"transformer_depth_middle": 1, "use_temporal_attention": False, "adm_in_channels": None},
    }
    config = comfy.supported_models.SD20(sizes)
    config.unet_config["dtype"] = torch.float32
    model = config.get_model({}, "")
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    weights = {names[key]: tensor for key, tensor in unet.state_dict().items()}
    model.diffusion_model.load_state_dict(weights)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=cpu, offload_device=cpu)


def unet_results() -> dict[str, object]:
    """LoraLoader on the UNet, with and without the base's conv_in in the export, against our folding."""
    unet, tensors = random_unet()
    write_exports(unet, tensors)
    model = comfy_model(unet)
    z, t, embeds = torch.randn(1, 4, 16, 16), torch.tensor([999]), torch.randn(1, 77, 1024)
    plain = eps_of(model, z, embeds)
    results: dict[str, object] = {"model_type": model.model.model_type.name}
    results["plain"] = relative(unet(z, t, embeds), plain)
    del unet
    found, seen = {}, Warnings()
    logging.getLogger().addHandler(seen)
    for name, strength in (("diff", 1.0), ("diff", 0.5), ("set", 1.0), ("wrong", 1.0)):
        seen.seen.clear()
        patched, _ = nodes.LoraLoader().load_lora(model, None, f"{name}.safetensors", strength, 0.0)
        found[f"{name} {strength}"] = eps_of(patched, z, embeds)
        results[f"patches {name} {strength}"] = len(patched.patches)
        results[f"warned {name} {strength}"] = list(seen.seen)
    logging.getLogger().removeHandler(seen)
    comfy.model_management.unload_all_models()
    del model, patched
    for strength in (0.5, 1.0):
        unet, tensors = random_unet()
        fold(unet, tensors, strength)
        ours = unet(z, t, embeds)
        results |= {f"error {k}": relative(ours, v) for k, v in found.items() if k.endswith(f"{strength}")}
        results[f"effect {strength}"] = relative(ours, plain)
        del unet
    return results


def vae_results() -> dict[str, object]:
    """The VAE patch on ComfyUI's own VAE against our folding, and what decoding makes of it."""
    vae = VAE(read_config(VAEConfig, sd21.VAE)).eval()
    tensors = lora_for(vae, vae_targets(vae), 4)
    checkpoint = Checkpoint({}, tensors, 4, 8.0, 4, 8.0)
    write_vae_patch(f"{folder}/vae.safetensors", checkpoint)
    image = torch.rand(1, 64, 96, 3)
    theirs = comfy.sd.VAE(sd={k: v.clone() for k, v in vae.state_dict().items()})
    results: dict[str, object] = {}
    plain = theirs.encode(image)
    x = image.movedim(-1, 1) * 2 - 1
    results["plain"] = relative(vae.encode(x).chunk(2, 1)[0], plain)

    patch = comfy.utils.load_torch_file(f"{folder}/vae.safetensors")
    modules = [key.removesuffix(".alpha") for key in patch if key.endswith(".alpha")]
    seen = Warnings()
    logging.getLogger().addHandler(seen)
    loaded = comfy.lora.load_lora(patch, {name: f"{name}.weight" for name in modules})
    patched = copy.copy(theirs)
    patched.patcher = theirs.patcher.clone()
    results["modules"], results["patches"] = len(modules), len(patched.patcher.add_patches(loaded, 1.0))
    results["warned"] = list(seen.seen)
    latent = patched.encode(image)
    fold(vae, tensors)
    ours = vae.encode(x).chunk(2, 1)[0]
    results["error"], results["effect"] = relative(ours, latent), relative(ours, plain)
    return results


@torch.no_grad()
def main() -> None:
    """Compare both parts."""
    folder_paths.add_model_folder_path("loras", folder)
    results = {"unet": unet_results(), "vae": vae_results()}
    sys.stdout.write("\n" + json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
