"""A merged model's names and shapes at full size, against ComfyUI's own. Prints a line of JSON.

No weights: every tensor is one zero, seen in its shape.
"""

from __future__ import annotations

from start import answer, load_pack

pack = load_pack()

import comfy.model_detection  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.text_encoders.sd2_clip  # noqa: E402
import torch  # noqa: E402
from osediff_pack.osediff_core.base import sd21  # noqa: E402
from osediff_pack.osediff_core.base.original_names import in_original_names  # noqa: E402
from osediff_pack.osediff_core.network.config import UNetConfig, VAEConfig, read_config  # noqa: E402
from osediff_pack.osediff_core.network.unet import UNet  # noqa: E402
from osediff_pack.osediff_core.network.vae import VAE  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402

CONFIGS = {"unet": sd21.UNET, "vae": sd21.VAE, "text_encoder": sd21.TEXT_ENCODER}
META = torch.device("meta")


def merged() -> dict[str, torch.Tensor]:
    """What `convert --to checkpoint` writes, as zeros."""
    with META:
        networks = {
            "unet": UNet(read_config(UNetConfig, sd21.UNET)),
            "vae": VAE(read_config(VAEConfig, sd21.VAE)),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**sd21.TEXT_ENCODER)),
        }
    weights = {
        name: {key: torch.zeros(1).expand(t.shape) for key, t in network.state_dict().items()}
        for name, network in networks.items()
    }
    text = weights["text_encoder"]
    weights["text_encoder"] = {f"text_model.{key.removeprefix('text_model.')}": t for key, t in text.items()}
    return in_original_names(weights, CONFIGS)


def below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key.removeprefix(prefix): tuple(t.shape) for key, t in tensors.items() if key.startswith(prefix)}


def apart(ours: dict[str, tuple[int, ...]], theirs: dict[str, torch.Tensor]) -> list[str]:
    """The names that one has and not the other, or in another shape."""
    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.items()}
    return sorted({key for key in {*ours, *shapes} if ours.get(key) != shapes.get(key)})


@torch.no_grad()
def main() -> None:
    tensors = merged()
    config = comfy.model_detection.model_config_from_unet(tensors, "model.diffusion_model.")
    with META:
        unet = config.get_model(tensors, "model.diffusion_model.")
    vae = comfy.sd.VAE(
        sd={key: torch.zeros(shape) for key, shape in below("first_stage_model.", tensors).items()}
    )
    clip = config.process_clip_state_dict(dict(tensors))
    text = {key: tensor for key, tensor in clip.items() if key.startswith("clip_h.")}
    with META:
        theirs = comfy.text_encoders.sd2_clip.SD2ClipModel(device="meta", dtype=torch.float32).state_dict()
    answer(
        {
            "kind": type(config).__name__,
            "predicts": config.model_type(tensors, "model.diffusion_model.").name,
            "unet": apart(below("model.diffusion_model.", tensors), unet.diffusion_model.state_dict()),
            "vae": apart(below("first_stage_model.", tensors), vae.first_stage_model.state_dict()),
            "text": apart({key: tuple(t.shape) for key, t in text.items()}, theirs),
        }
    )


if __name__ == "__main__":
    main()
