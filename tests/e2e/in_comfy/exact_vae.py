"""Exact tiles over ComfyUI's own VAEs, against their whole run. Prints a line of JSON.

Random weights, float32 on the processor; families differ in latent channels and in the 1 x 1 convolutions.
"""

from __future__ import annotations

from start import answer, load_pack

pack = load_pack()

import comfy.sd  # noqa: E402
import torch  # noqa: E402
from osediff_pack.nodes import exact, stock_vae  # noqa: E402
from osediff_pack.osediff_core.errors import OSEDiffError  # noqa: E402

FAMILIES = {"SD1, SD2, SDXL": (4, True), "16 channels": (16, False)}
ENGINE = "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"
HALVES = "comfy.ldm.modules.diffusionmodules.model."


def sizes(channels: int) -> dict[str, object]:
    """ComfyUI's configuration, of a quarter of the width."""
    narrow = {"z_channels": channels, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32}
    return {
        **narrow,
        "dropout": 0.0,
        "double_z": True,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
    }


def stock(channels: int, quant: bool) -> comfy.sd.VAE:
    """A VAE as ComfyUI's loader gives it: with 1 x 1 convolutions around the latent, or without."""
    torch.manual_seed(channels)
    config = sizes(channels)
    if quant:
        model = comfy.sd.AutoencoderKL(ddconfig=config, embed_dim=channels)
    else:
        model = comfy.sd.AutoencodingEngine(
            regularizer_config={"target": ENGINE},
            encoder_config={"target": HALVES + "Encoder", "params": config},
            decoder_config={"target": HALVES + "Decoder", "params": config},
        )
    weights = {}
    for name, tensor in model.state_dict().items():
        spread = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.1
        weights[name] = torch.randn(tensor.shape) * spread + (
            1.0 if "norm" in name and name.endswith("weight") else 0.0
        )
    vae = comfy.sd.VAE(sd=weights, config={"params": {"ddconfig": config, "embed_dim": channels}})
    if not quant:
        model.load_state_dict(weights)
        vae.first_stage_model = model.eval().float()
        vae.patcher = type(vae.patcher)(model, load_device=vae.device, offload_device=vae.device)
    return vae


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item() if one.shape == other.shape else float("inf")


def compared(vae: comfy.sd.VAE, channels: int) -> dict[str, object]:
    """At sizes that nothing divides."""
    z = torch.randn(2, channels, 37, 53, generator=torch.manual_seed(1))
    pixels = torch.rand(1, 301, 425, 3, generator=torch.manual_seed(2))
    before = {key: tensor.data_ptr() for key, tensor in vae.first_stage_model.state_dict().items()}
    whole, latent = vae.decode(z), vae.encode(pixels)
    decode, encode = exact.OSEDiffVAEDecodeExact.execute, exact.OSEDiffVAEEncodeExact.execute
    found = {
        f"decode {tile}": apart(decode({"samples": z}, vae, tile).args[0], whole)
        for tile in ("64", "128", "auto")
    }
    for tile in ("64", "auto"):
        found[f"encode {tile}"] = apart(encode(pixels, vae, tile).args[0]["samples"], latent)
    tiled = vae.decode_tiled(z, tile_x=16, tile_y=16, overlap=4)
    core = stock_vae.core_vae(vae)
    ours = {parameter.data_ptr() for parameter in core.parameters()}
    return {
        **{"apart": found, "stock's own tiles": apart(tiled, whole), "spread": whole.std().item()},
        "shared": ours <= {*before.values()},
        "in place": before == {key: t.data_ptr() for key, t in vae.first_stage_model.state_dict().items()},
        "still": apart(vae.decode(z), whole),
    }


def refused(vae: comfy.sd.VAE) -> str:
    """The sentence of the error."""
    try:
        stock_vae.core_vae(vae)
    except OSEDiffError as error:
        return str(error)
    return ""


def others() -> dict[str, str]:
    """What is said of other builds."""
    small, batch_norm, eps = (stock(4, True) for _ in range(3))
    small.first_stage_model = comfy.taesd.taesd.TAESD(latent_channels=4)
    batch_norm.first_stage_model.bn = torch.nn.BatchNorm2d(16, affine=False)
    eps.first_stage_model.encoder.norm_out.eps = 1e-3
    return {
        "taesd": refused(small),
        "bn": refused(batch_norm),
        "eps": refused(eps),
        "fits": refused(stock(4, True)),
    }


@torch.inference_mode()
def main() -> None:
    results = {name: compared(stock(*build), build[0]) for name, build in FAMILIES.items()}
    answer({"families": results, "refused": others()})


if __name__ == "__main__":
    main()
