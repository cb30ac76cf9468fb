"""Peak memory and step time of training: one backbone against three copies run the published way.

    python benchmarks/train_memory.py                             # full size, random weights, on the CPU
    python benchmarks/train_memory.py --device cuda --sizes 512 --copies 512
    python benchmarks/train_memory.py --base BASE_FOLDER --sizes 64

Each row is a process of its own. `copies` holds generator, teacher and critic as separate UNets, two VAEs
and two text encoders, as the published trainer does: generator and critic in float32 (the generator under
autocast where a 16-bit format is asked for), the teacher in that format. `ours` is `train.networks.Backbone`,
its frozen weights in that format. Both leave LPIPS out, whose network and activations are the same for both,
and take AdamW's steps. Memory is that of the process without the files of its libraries, at most, while the
networks are made ("start") and while they are trained ("steps"); of a card, what PyTorch allocated there.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import peft
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.vae_pieces import resident
from osediff_core import OSEDiff
from osediff_core.base import sd21
from osediff_core.diffusion import alphas_cumprod
from osediff_core.lora import unet_targets, vae_targets
from osediff_core.network.config import UNetConfig, VAEConfig, read_config
from osediff_core.network.unet import UNet
from osediff_core.network.vae import VAE
from train.config import LossConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from train.engine.steps import Stepper
from train.networks import Backbone
from train.networks.guidance import guided
from train.objectives import critic_loss, vsd_loss
from train.objectives.batch import Batch, Draws
from train.objectives.draws import draw
from train.objectives.perceptual import gradient_loss

GIB = 2**30
FORMATS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RUN_FORMATS: dict[str, Literal["no", "bf16", "fp16"]] = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


def random_part(make: Callable[[], nn.Module], device: str) -> nn.Module:
    """Build a network without its slow start, and fill it with numbers of a sensible size."""
    with torch.device("meta"):
        module = make()
    module = module.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim > 1:
                p.normal_(0, 1 / math.sqrt(p[0].numel()), generator=generator)
            else:
                p.fill_(float(name.endswith("weight")))
    return module.eval().requires_grad_(False)


def full_size(device: str, with_text: bool) -> OSEDiff:
    """Stable Diffusion 2.1-base with random weights; its text encoder idles, for prompts are random too."""
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = random_part(lambda: UNet(read_config(UNetConfig, sd21.UNET)), device)
    vae = random_part(lambda: VAE(read_config(VAEConfig, sd21.VAE)), device)
    text: nn.Module = nn.Identity()
    if with_text:
        text = random_part(lambda: CLIPTextModel(CLIPTextConfig(**sd21.TEXT_ENCODER)), device)
    return OSEDiff(unet, vae, text, None, alphas_cumprod(sd21.SCHEDULER))  # pyright: ignore[reportArgumentType]


def with_lora(module: nn.Module, targets: list[str]) -> nn.Module:
    """Put untrained LoRA into a network, as peft does."""
    config = peft.LoraConfig(r=4, lora_alpha=8.0, target_modules=targets, lora_dropout=0.0)
    peft.inject_adapter_in_model(config, module, "default")
    return module


class Copies:
    """Three UNets, two VAEs, two text encoders, two optimizers: the published arrangement."""

    def __init__(self, model: OSEDiff, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        self.teacher = copy.deepcopy(model.unet).to(dtype)
        self.idle = [copy.deepcopy(model.vae).to(dtype), copy.deepcopy(model.text_encoder).to(dtype)]
        self.idle.append(model.text_encoder.to(dtype))
        targets = [name for names in unet_targets(model.unet).values() for name in names]
        self.critic = with_lora(copy.deepcopy(model.unet), targets)
        vae_names = vae_targets(model.vae)
        with_lora(model.unet, targets)
        with_lora(model.vae, vae_names)
        model.unet.conv_in.base_layer.requires_grad_(True)
        settings = {"lr": 5e-5, "weight_decay": 1e-2}
        self.ours = [p for p in model.parameters() if p.requires_grad]
        self.theirs = [p for p in self.critic.parameters() if p.requires_grad]
        self.optimizers = [torch.optim.AdamW(ps, **settings) for ps in (self.ours, self.theirs)]
        self.alphas = model.alphas_cumprod.to(model.device)

    def step(self, lq: Tensor, hq: Tensor, draws: Draws, prompt: Tensor) -> None:
        """Update the generator, then the critic."""
        half = torch.autocast(lq.device.type, self.dtype) if self.dtype != torch.float32 else nullcontext()
        with half:
            sr, z = self.model(lq, prompt, draws.posterior)
        vsd, _ = vsd_loss(
            z, draws.vsd_noise, draws.vsd_timesteps, self.alphas, self._critic(prompt), self._teacher(prompt)
        )
        sr, hq = sr * 2 - 1, hq * 2 - 1
        loss = (sr - hq).square().mean() + 2 * gradient_loss(sr, hq).mean() + vsd
        self._update(loss, self.ours, self.optimizers[0])
        z, noise, t = z.detach(), draws.critic_noise, draws.critic_timesteps
        self._update(
            critic_loss(z, noise, t, self.alphas, self._critic(prompt)), self.theirs, self.optimizers[1]
        )

    def _update(self, loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _critic(self, prompt: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda z, t: self.critic(z, t, prompt.expand(len(z), -1, -1))

    def _teacher(self, prompt: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        def predict(z: Tensor, t: Tensor) -> Tensor:
            both = prompt.to(self.dtype).expand(2 * len(z), -1, -1)
            z = z.to(self.dtype).repeat(2, 1, 1, 1)
            eps = self.teacher(z, t.repeat(2), both).float()
            eps_negative, eps_prompt = eps.chunk(2)
            return guided(eps_negative, eps_prompt, 7.5)

        return predict


def ours(
    model: OSEDiff, args: argparse.Namespace, prompt: Tensor
) -> Callable[[Tensor, Tensor, Draws], object]:
    """Build the one backbone, and return what takes a step."""
    model.text_encoder = nn.Identity()  # the prompts are embedded by now
    run = RunConfig(mixed_precision=RUN_FORMATS[args.format], recompute=args.recompute)
    config = TrainConfig(ModelConfig(), run=run, optim=OptimConfig())
    backbone = Backbone(model, config.model, torch.Generator().manual_seed(0))
    if args.format != "float32":
        backbone.use_half(FORMATS[args.format])
    backbone.recompute(args.recompute)
    stepper = Stepper(backbone, config, gradient_loss, prompt, prompt)
    return lambda lq, hq, draws: stepper.step([Batch(lq, hq, draws)])


def random_batch(model: OSEDiff, side: int, numbers: Sequence[int]) -> tuple[Tensor, Tensor, Draws]:
    """Return lq and hq, (B, 3, side, side) of random pixels on the model's device, and the samples' draws."""
    g = torch.Generator().manual_seed(2)
    lq, hq = torch.rand(2, len(numbers), 3, side, side, generator=g).to(model.device).unbind()
    shape = (model.latent_channels, side // model.reduction, side // model.reduction)
    return lq, hq, draw(0, numbers, shape, LossConfig(), model.device)


def peak(device: str) -> int:
    """Return the most bytes held since this was asked last."""
    if device == "cuda":
        most = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return most
    most = resident("VmHWM") - resident("RssFile")
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark: proc(5)
    return most


def child(args: argparse.Namespace) -> None:
    """Take the steps of one row and print what they took, as JSON."""
    torch.set_num_threads(args.threads)
    device, side = args.device, args.sizes[0]
    if args.base:
        model = OSEDiff.from_pretrained(args.base, dtype="float32", device=device)
    else:
        model = full_size(device, with_text=args.way == "copies")
    width = model.unet.config.cross_attention_dim
    prompt = torch.randn(1, 77, width, generator=torch.Generator().manual_seed(1)).to(device)
    if args.way == "ours":
        take = ours(model, args, prompt)
    else:
        copies = Copies(model, FORMATS[args.format])
        take = lambda lq, hq, draws: copies.step(lq, hq, draws, prompt)  # noqa: E731
    found = {"start": peak(device), "seconds": [], "processor": []}
    for number in range(args.steps):
        lq, hq, draws = random_batch(model, side, [number])
        before = time.perf_counter(), time.process_time()
        take(lq, hq, draws)
        if device == "cuda":
            torch.cuda.synchronize()
        found["seconds"].append(time.perf_counter() - before[0])
        found["processor"].append(time.process_time() - before[1])
    print(json.dumps(found | {"steps": peak(device)}))


def row(way: str, side: int, args: argparse.Namespace) -> str:
    """Measure one row in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--sizes", str(side), "--steps", str(args.steps)]
    for name in ("device", "format", "recompute", "threads", "base"):
        if getattr(args, name):
            command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = "out of memory" if done.returncode == -9 else (done.stderr.strip().splitlines() or ["?"])[-1]
        return f"| {way} | {side}² | did not run: {reason} | | | |"
    found = json.loads(done.stdout.splitlines()[-1])
    times = [found[name][1:] or found[name] for name in ("seconds", "processor")]  # the first one allocates
    seconds = " | ".join(f"{sum(values) / len(values):.1f}" for values in times)
    return f"| {way} | {side}² | {found['start'] / GIB:.2f} | {found['steps'] / GIB:.2f} | {seconds} |"


def main() -> None:
    """Print the table, or take the steps of one row of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", help="a folder with a base; without it full size with random weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--format", choices=tuple(FORMATS), default="bf16")
    parser.add_argument("--recompute", choices=("none", "decoder", "all"), default="decoder")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--copies", type=int, nargs="*", default=None, help="sizes for three copies")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=("ours", "copies"), help="take one row's steps in this process")
    args = parser.parse_args()
    if args.way:
        child(args)
        return
    print(f"{args.device}, {args.format}, recompute {args.recompute} (ours), batch 1, {args.threads} threads")
    print("| way | size | start GiB | steps GiB | s/step | processor s/step |\n|---|---|---|---|---|---|")
    for side in args.sizes[:1] if args.copies is None else args.copies:
        print(row("copies", side, args), flush=True)
    for side in args.sizes:
        print(row("ours", side, args), flush=True)


if __name__ == "__main__":
    main()
