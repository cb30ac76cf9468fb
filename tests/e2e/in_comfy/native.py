"""OSEDiff Apply on ComfyUI's own model, VAE and sampler, against the core. Prints a line of JSON.

A random model of the layers of Stable Diffusion 2.1-base and a tenth of its width, float32 on the processor;
the layers are counted at full width, on a model without memory.
"""

from __future__ import annotations

import math

from start import Warnings, answer, load_pack, relative

pack = load_pack()

import comfy.model_base  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from osediff_pack.nodes import apply, native  # noqa: E402
from osediff_pack.osediff_core import OSEDiff  # noqa: E402
from osediff_pack.osediff_core.base import sd21  # noqa: E402
from osediff_pack.osediff_core.diffusion import alphas_cumprod  # noqa: E402
from osediff_pack.osediff_core.errors import OSEDiffError  # noqa: E402
from osediff_pack.osediff_core.lora import folded, unet_targets, vae_targets  # noqa: E402
from osediff_pack.osediff_core.network.config import UNetConfig, VAEConfig, read_config  # noqa: E402
from osediff_pack.osediff_core.network.unet import UNet  # noqa: E402
from osediff_pack.osediff_core.network.vae import VAE  # noqa: E402
from osediff_pack.osediff_core.pipeline import run  # noqa: E402
from osediff_pack.osediff_core.pipeline.plan import make_plan  # noqa: E402
from osediff_pack.osediff_core.pipeline.runtime import Runtime  # noqa: E402
from osediff_pack.osediff_core.weights.checkpoint import Checkpoint  # noqa: E402

import nodes  # noqa: E402

CPU, META = torch.device("cpu"), torch.device("meta")
WIDTH = 32
EMBEDS = torch.randn(1, 77, 1024, generator=torch.manual_seed(3))


def head_width(width: int) -> int:
    """How many channels an attention head has."""
    return min(width, 64)


def unet_settings(width: int) -> dict[str, object]:
    widths = (width, 2 * width, 4 * width, 4 * width)
    heads = tuple(side // head_width(width) for side in widths)
    return {**sd21.UNET, "block_out_channels": widths, "attention_head_dim": heads}


def random_networks() -> tuple[UNet, VAE]:
    """The same UNet and VAE at every call."""
    torch.manual_seed(0)
    unet = UNet(read_config(UNetConfig, unet_settings(WIDTH))).eval()
    vae = VAE(read_config(VAEConfig, {**sd21.VAE, "block_out_channels": (32, 64, 128, 128)})).eval()
    return unet, vae


def lora_for(module: torch.nn.Module, names: list[str], rank: int = 4) -> dict[str, torch.Tensor]:
    """Random low-rank pairs that change every layer by about as much as it holds."""
    tensors, shapes = {}, {name: p.shape for name, p in module.named_parameters()}
    for name in names:
        out, *rest = shapes[f"{name}.weight"]
        std = math.prod(rest) ** -0.5  # of weights that keep the scale of what they carry
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, *rest) * std
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank, *(1,) * (len(rest) - 1)) * 0.1
    return tensors


def random_checkpoint(unet: UNet, vae: VAE) -> Checkpoint:
    """An OSEDiff checkpoint for these networks, with a conv_in of its own."""
    torch.manual_seed(1)
    tensors = lora_for(unet, [name for names in unet_targets(unet).values() for name in names])
    for kind, value in unet.conv_in.named_parameters():
        tensors[f"conv_in.{kind}"] = value + 0.3 * value.std() * torch.randn_like(value)
    return Checkpoint(tensors, lora_for(vae, vae_targets(vae)), 4, 8.0, 4, 8.0)


def core_model(checkpoint: Checkpoint | None) -> OSEDiff:
    """The core's model of them, with the checkpoint folded in."""
    unet, vae = random_networks()
    parts = ((unet, checkpoint.unet), (vae, checkpoint.vae)) if checkpoint is not None else ()
    for network, tensors in parts:
        for name, parameter in network.named_parameters():
            parameter.data = folded(name, parameter, tensors, 2.0).to(parameter.dtype)
    model = OSEDiff(unet, vae, torch.nn.Identity(), None, alphas_cumprod(sd21.SCHEDULER))
    return model.requires_grad_(False)


def comfy_config(width: int) -> comfy.supported_models.SD20:
    """ComfyUI's configuration of a UNet of these layers: its detection knows the full width alone."""
    sizes = {
        **{"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": width},
        **{"context_dim": 1024, "use_spatial_transformer": True, "legacy": False},
        **{"use_linear_in_transformer": True, "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4]},
        **{"num_head_channels": head_width(width), "transformer_depth": [1] * 6 + [0] * 2},
        **{
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1] * 9 + [0] * 3,
            "use_temporal_attention": False,
        },
        **{"adm_in_channels": None},
    }
    config = comfy.supported_models.SD20(sizes)
    config.unet_config |= {"dtype": torch.float32, "num_head_channels": head_width(width)}
    return config


def comfy_model(unet: UNet) -> comfy.model_patcher.ModelPatcher:
    """The same UNet as a MODEL of ComfyUI's."""
    config = comfy_config(WIDTH)
    model = config.get_model({}, "")
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    model.diffusion_model.load_state_dict({names[key]: t.clone() for key, t in unet.state_dict().items()})
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=CPU, offload_device=CPU)


def comfy_vae(vae: VAE) -> comfy.sd.VAE:
    """The same VAE as a VAE of ComfyUI's."""
    sizes = {"z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32, "dropout": 0.0}
    sizes |= {"double_z": True, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": []}
    weights = {key: tensor.clone() for key, tensor in vae.state_dict().items()}
    return comfy.sd.VAE(sd=weights, config={"params": {"ddconfig": sizes, "embed_dim": 4}})


def restored(model: OSEDiff, lq: torch.Tensor, tile: str | int) -> torch.Tensor:
    """The core's picture (1, 3, H, W), with the embeddings as its prompt."""
    runtime = Runtime()
    plan = make_plan(model, *lq.shape[-2:], runtime=runtime, tile=tile)
    z = run.encode(model, run.prepare(lq, plan), plan, runtime)
    return run.decode(model, run.denoise(model, z, EMBEDS, plan, runtime), plan, runtime)


def sampled(
    model: object, vae: object, lq: torch.Tensor, how: tuple[str, str] = ("euler", "simple")
) -> object:
    """What stock nodes make of it: VAE Encode, KSampler with one step, VAE Decode."""
    words = [[EMBEDS, {}]]
    latent = {"samples": vae.encode(lq.movedim(1, -1))}
    (done,) = nodes.common_ksampler(model, 5, 1, 1.0, *how, words, words, latent)
    return vae.decode(done["samples"]).movedim(-1, 1)


def lora_of_another(unet: UNet) -> dict[str, torch.Tensor]:
    """A LoRA as people have them, on the layers that attend and on conv_in."""
    torch.manual_seed(2)
    names = [n for names in unet_targets(unet).values() for n in names if n == "conv_in" or "attn2" in n]
    pairs = lora_for(unet, names)
    lora = {}
    for name in names:
        flat = "lora_unet_" + name.replace(".", "_")
        lora[f"{flat}.lora_down.weight"] = pairs[f"{name}.lora_A.weight"]
        lora[f"{flat}.lora_up.weight"] = pairs[f"{name}.lora_B.weight"]
    return lora


def with_lora_folded(model: OSEDiff, lora: dict[str, torch.Tensor]) -> OSEDiff:
    """The core's model with that LoRA in it as well; its alpha is its rank."""
    for name, parameter in model.unet.named_parameters():
        flat = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        if f"{flat}.lora_up.weight" in lora and name.endswith(".weight"):
            up, down = lora[f"{flat}.lora_up.weight"], lora[f"{flat}.lora_down.weight"]
            parameter.data += (up.flatten(1) @ down.flatten(1)).reshape(parameter.shape)
    return model


def counted() -> dict[str, int]:
    """How many layers are patched at full size; all but conv_in without memory."""
    config = comfy_config(320)
    with META:
        model = config.get_model({}, "")
        unet = UNet(read_config(UNetConfig, unet_settings(320)))
        vae = VAE(read_config(VAEConfig, sd21.VAE))
        checkpoint = Checkpoint(
            lora_for(unet, [n for names in unet_targets(unet).values() for n in names]),
            lora_for(vae, vae_targets(vae)),
            *(4, 8.0, 4, 8.0),
        )
    first = model.diffusion_model.input_blocks[0][0]
    first.weight = torch.nn.Parameter(torch.zeros(320, 4, 3, 3))
    first.bias = torch.nn.Parameter(torch.zeros(320))
    checkpoint.unet["conv_in.weight"], checkpoint.unet["conv_in.bias"] = (
        torch.ones(320, 4, 3, 3),
        torch.ones(320),
    )
    for side in "AB":
        key = f"conv_in.lora_{side}.weight"
        checkpoint.unet[key] = torch.zeros(checkpoint.unet[key].shape)
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)
    patched = native.patched_model(patcher, checkpoint)
    theirs = comfy.sd.VAE(sd={key: torch.zeros(t.shape) for key, t in vae.state_dict().items()})
    patched_vae = native.patched_vae(theirs, checkpoint)
    weights = [key for key in patched.patches if key.endswith(".weight")]
    return {
        "unet": len(weights),
        "biases": len(patched.patches) - len(weights),
        "vae": len(patched_vae.patcher.patches),
    }


def refused(run: object) -> str:
    """The sentence of the error."""
    try:
        run()
    except OSEDiffError as error:
        return str(error)
    return ""


def refusals(checkpoint: Checkpoint, vae: comfy.sd.VAE) -> dict[str, str]:
    """What is said of models of other kinds."""
    unet, _ = random_networks()
    v_model, applied = comfy_model(unet), comfy_model(unet)
    v_model.model.model_type = comfy.model_base.ModelType.V_PREDICTION
    sd1 = comfy_model(unet)
    sd1.model.model_config.unet_config = {**sd1.model.model_config.unet_config, "context_dim": 768}
    native.start_from_the_latent(applied)
    narrow = {**checkpoint.unet, "mid_block.resnets.0.conv1.lora_B.weight": torch.zeros(3, 4, 1, 1)}
    other = {
        "encoder.down_blocks.7.resnets.0.conv1" + side: torch.zeros(4, 4, 1, 1)
        for side in (".lora_A.weight", ".lora_B.weight")
    }
    execute = apply.OSEDiffApply.execute
    return {
        "v": refused(lambda: execute(v_model, vae, apply.MERGED, "auto")),
        "sd1": refused(lambda: execute(sd1, vae, apply.MERGED, "auto")),
        "twice": refused(lambda: execute(applied, vae, apply.MERGED, "auto")),
        "shape": refused(
            lambda: native.patched_model(comfy_model(unet), Checkpoint(narrow, {}, 4, 8.0, 4, 8.0))
        ),
        "vae": refused(
            lambda: native.patched_vae(vae, Checkpoint({}, {**checkpoint.vae, **other}, 4, 8.0, 4, 8.0))
        ),
        "fits": refused(lambda: native.patched_vae(vae, checkpoint)),
    }


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two pictures in [0, 1]."""
    return (one - other).abs().max().item()


def untouched(before: dict[str, torch.Tensor], module: torch.nn.Module) -> bool:
    return all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())


@torch.inference_mode()
def main() -> None:
    unet, vae = random_networks()
    checkpoint = random_checkpoint(unet, vae)
    stock, stock_vae, warnings = comfy_model(unet), comfy_vae(vae), Warnings()
    weights = {key: tensor.clone() for key, tensor in stock.model.state_dict().items()}
    vae_weights = {key: tensor.clone() for key, tensor in stock_vae.first_stage_model.state_dict().items()}
    lq = torch.rand(1, 3, 64, 128, generator=torch.manual_seed(4))
    wide = torch.rand(1, 3, 392, 424, generator=torch.manual_seed(4))
    apply.native_weights = lambda: {"mine": "mine"}
    apply.read_checkpoint = lambda path: checkpoint

    def applied(model: object = stock, weights: str = "mine", tile: str = "auto") -> tuple[object, object]:
        return apply.OSEDiffApply.execute(model, stock_vae, weights, tile).args

    ours = core_model(checkpoint)
    expected, expected_wide = restored(ours, lq, "auto"), restored(ours, wide, 48)
    plain = sampled(stock, stock_vae, lq)
    model, patched_vae = applied()
    first = sampled(model, patched_vae, lq)
    results = {
        "picture": (first - expected).abs().max().item(),
        "plain sampling": (plain - expected).abs().max().item(),
        "merged": (sampled(*applied(weights=apply.MERGED), lq) - restored(core_model(None), lq, "auto"))
        .abs()
        .max()
        .item(),
        "without vae": (sampled(model, stock_vae, lq) - expected).abs().max().item(),
    }
    results["samplers"] = {
        name: apart(sampled(model, patched_vae, lq, (name, "simple")), expected) for name in ("ddim", "lcm")
    }
    results["schedulers"] = {
        name: apart(sampled(model, patched_vae, lq, ("euler", name)), expected)
        for name in ("normal", "karras")
    }
    tiled = sampled(*applied(tile="48"), wide)
    results["tiles"] = apart(tiled, expected_wide)
    results["whole instead of tiles"] = apart(sampled(*applied(tile="off"), wide), expected_wide)
    # Another model in between, and back; and the stock model, which is the same one without patches.
    results["stock again"] = torch.equal(plain, sampled(stock, stock_vae, lq))
    other_unet, _ = random_networks()
    for parameter in other_unet.parameters():
        parameter.data = parameter.data * 0.9
    sampled(comfy_model(other_unet), stock_vae, lq)
    results["again"] = apart(sampled(model, patched_vae, lq), first)
    lora = lora_of_another(unet)
    keys = comfy.lora.model_lora_keys_unet(stock.model, {})
    mixed = stock.clone()
    mixed.add_patches(comfy.lora.load_lora(lora, keys))
    both = restored(with_lora_folded(core_model(checkpoint), lora), lq, "auto")
    after = model.clone()
    after.add_patches(comfy.lora.load_lora(lora, keys))
    results["lora before"] = apart(sampled(*applied(mixed), lq), both)
    results["lora after"] = apart(sampled(after, patched_vae, lq), both)
    results["lora's effect"] = apart(both, expected)
    comfy.model_management.unload_all_models()
    results["untouched"] = [
        untouched(weights, stock.model),
        untouched(vae_weights, stock_vae.first_stage_model),
    ]
    results["patches of what came in"] = [
        len(stock.patches),
        len(stock.object_patches),
        len(stock_vae.patcher.patches),
    ]
    sampling, original = model.get_model_object("model_sampling"), stock.get_model_object("model_sampling")
    results["sigmas"] = sampling.sigmas is original.sigmas
    results["type"] = isinstance(original, native.OneStep)
    results["sigma"] = relative(torch.tensor(14.61464), original.sigmas[-1])
    results["counted"], results["refused"] = counted(), refusals(checkpoint, stock_vae)
    results["warned"] = [line for line in warnings.seen if "lora" in line.lower() or "ERROR" in line]
    answer(results)


if __name__ == "__main__":
    main()
