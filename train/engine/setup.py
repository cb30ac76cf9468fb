"""What a run needs before its first step: processes, a folder, prompts, a start."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from osediff_core.base.load import DEMO_WEIGHTS, resolve_device
from osediff_core.errors import OSEDiffError
from osediff_core.model import OSEDiff
from osediff_core.weights.checkpoint import Checkpoint, read_checkpoint
from osediff_core.whole_files import reason, sweep, write_whole

from ..config import RunConfig, TrainConfig
from ..networks.backbone import Backbone
from ..programs.tables import to_toml
from .state import newest_state

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

CONFIG = "config.toml"
LESS_MEMORY = (
    'launch with --multi_gpu, and save memory by run.mixed_precision = "bf16" and run.recompute = "all"'
)
IGNORED = {
    "ACCELERATE_USE_FSDP": ("FSDP", LESS_MEMORY),
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", LESS_MEMORY),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", LESS_MEMORY),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("a parallelism config", LESS_MEMORY),
    "ACCELERATE_DYNAMO_BACKEND": ("torch.compile", "launch with --dynamo_backend no"),
}
"""What `accelerate launch` tells its processes by the environment, what it means, and what to do instead."""

LOOK_AT = 64  # numbers per tensor that tell one base from another


def start_processes(run: RunConfig) -> Accelerator:
    """Meet the other processes of the run, if it was launched with several, and find this one's device.

    Raises OSEDiffError where a launcher was given what this trainer would not do.
    """
    refuse_ignored(os.environ, run)
    check_restarts(os.environ, run)
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise OSEDiffError(
            "training needs the packages of the train extra: pip install accelerate peft tensorboard tyro"
        ) from error
    # Told that there is no card, accelerate lets processes meet over gloo; otherwise each would train alone.
    cpu = resolve_device(run.device).type == "cpu"
    if started_again(os.environ):
        meet_again(os.environ)
    accelerator = Accelerator(cpu=cpu, mixed_precision="no")  # numerical formats are the networks' own
    if accelerator.num_processes == 1 and launched_as_several(os.environ):
        log.warning(
            "accelerate launch was asked for several processes, found no cards and started one: "
            "with --multi_gpu it starts them on the CPU."
        )
    return accelerator


def refuse_ignored(environment: Mapping[str, str], run: RunConfig) -> None:
    """Refuse what `accelerate launch` was asked for, by flag or configuration file, and nobody would do."""
    for name, (what, remedy) in IGNORED.items():
        if environment.get(name, "no").lower() not in ("no", "false", "0", ""):
            raise OSEDiffError(f"accelerate launch was asked for {what}, which this trainer lacks: {remedy}")
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", run.mixed_precision):
        known = precision if precision in ("bf16", "fp16") else "bf16"
        raise OSEDiffError(
            f"accelerate launch was asked for mixed precision {precision}, and run.mixed_precision is "
            f'"{run.mixed_precision}", which counts: set run.mixed_precision = "{known}", or launch with '
            "--mixed_precision no"
        )


def launched_as_several(environment: Mapping[str, str]) -> bool:
    """Say whether `accelerate launch` was asked for several processes and started one.

    Without cards it does so: it names the point where processes meet, but tells nobody how many there are.
    """
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in environment
    return by_accelerate and "MASTER_ADDR" in environment and "WORLD_SIZE" not in environment


def check_restarts(environment: Mapping[str, str], run: RunConfig) -> None:
    """Refuse restarts by torchrun that could not go on with the run; warn of those that would not meet."""
    if not int(environment.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        return
    if not run.resume:
        raise OSEDiffError(
            "torchrun was asked to start the processes again where one dies (--max_restarts), and without "
            "run.resume they would begin anew or refuse their own folder: give --run.resume true too"
        )
    shared = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and environment.get("GROUP_WORLD_SIZE", "1") != "1" and environment.get("RANK") == "0":
        log.warning(
            "Processes on several machines may not find each other after a restart, because torchrun keeps "
            "the addresses of before: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for it."
        )


def started_again(environment: Mapping[str, str]) -> bool:
    """Say whether torchrun has started all processes of this machine again and keeps the addresses of before.

    On several machines each launcher counts its own restarts, so that the count names no start.
    """
    restarted = int(environment.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    shared = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return restarted and shared and environment.get("GROUP_WORLD_SIZE") == "1"


def meet_again(environment: Mapping[str, str]) -> None:
    """Meet the other processes under keys of this start: those of before lead to processes that are gone."""
    from torch.distributed import PrefixStore, TCPStore, init_process_group

    rank, processes = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    kept = TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), is_master=False)
    store = PrefixStore(f"start {environment['TORCHELASTIC_RESTART_COUNT']}", kept)
    init_process_group(store=store, rank=rank, world_size=processes)  # the backend of each kind of device


def check_folder(run: RunConfig) -> None:
    """Refuse the folder of another run, before anything large is loaded."""
    out = Path(run.out)
    newest = newest_state(out)
    if ((out / CONFIG).exists() or newest) and not (run.overwrite or run.resume):
        remedy = "go on with it with run.resume, " if newest else ""
        raise OSEDiffError(
            f"{run.out} holds another run: {remedy}choose a new folder with run.out, "
            "or set `run.overwrite = true`"
        )


def make_folder(config: TrainConfig) -> None:
    """Make the run's folder, remove the states of a run that is overwritten, write the configuration."""
    out = Path(config.run.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not config.run.resume:
            for path in out.glob("state_*.pt"):
                path.unlink()
    except OSError as error:
        raise OSEDiffError(f"cannot write to the folder {out}: {reason(error)}") from error
    sweep(out)
    try:
        text = to_toml(config).encode()
    except UnicodeEncodeError as error:
        raise OSEDiffError(
            "a name in the configuration is not UTF-8, which TOML and checkpoints need: rename it, or name "
            "the folder above it"
        ) from error
    write_whole(out / CONFIG, text)


@torch.no_grad()
def embed_prompts(model: OSEDiff, config: TrainConfig) -> list[Tensor]:
    """Encode prompt and negative prompt, (1, L, D) each, and move the text encoder out of the way."""
    embeds = [model.encode_prompt([text]) for text in (config.model.prompt, config.model.negative_prompt)]
    nn.Module.to(model.text_encoder, "cpu")
    return embeds


@torch.no_grad()
def fingerprint(model: OSEDiff) -> str:
    """Hash a sample of the base's weights, names and shapes: another base, another fingerprint."""
    digest = hashlib.sha256()
    for part in (model.unet, model.vae):
        for name, tensor in part.state_dict().items():
            some = tensor.flatten()[:: max(1, tensor.numel() // LOOK_AT)]  # (64 or so,)
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(some.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def read_start(path: str) -> Checkpoint:
    """Read a checkpoint that a run starts with; "demo" is the bundled one."""
    return read_checkpoint(DEMO_WEIGHTS if path == "demo" else path)


def init_generator(backbone: Backbone, checkpoint: Checkpoint) -> None:
    """Start the generator from a checkpoint of its base: the same function, whatever its rank and alpha.

    A smaller rank is filled up: new rows of A keep their random start, and their columns of B are zero.
    Raises OSEDiffError where the checkpoint has more, or less, than the configured networks.
    """
    start = dict(backbone.generator_parameters())
    tensors = _grown(checkpoint, start, backbone.config.lora_alpha)
    missing = start.keys() - tensors.keys()
    if any(not name.startswith("unet.conv_in.") for name in missing):
        raise OSEDiffError(f"model.init_from cannot be used: it has nothing for {min(missing)}")
    backbone.load_generator({**{name: start[name].detach() for name in missing}, **tensors})


def _grown(checkpoint: Checkpoint, start: dict[str, nn.Parameter], alpha: float) -> dict[str, Tensor]:
    parts = {"unet": (checkpoint.unet, checkpoint.scale_unet), "vae": (checkpoint.vae, checkpoint.scale_vae)}
    grown = {}
    for part, (tensors, scale) in parts.items():
        for key, tensor in tensors.items():
            name = f"{part}.{key}"
            if name not in start:
                raise OSEDiffError(f"the checkpoint has {name}, which this configuration does not train")
            target = start[name]
            grown[name] = tensor.to(target)
            if ".lora_" not in name:
                continue
            side = 0 if name.endswith(".lora_A.weight") else 1  # where the rank is
            rank, new_rank = tensor.shape[side], target.shape[side]
            if rank > new_rank:
                raise OSEDiffError(
                    f"the checkpoint has rank {rank} in {part}: set model.rank_{part} to it or more"
                )
            if side == 0:
                grown[name] = torch.cat([tensor.to(target), target.detach()[rank:]])
            else:
                padding = target.new_zeros(tensor.shape[0], new_rank - rank, *tensor.shape[2:])
                grown[name] = torch.cat([tensor.to(target) * scale / (alpha / new_rank), padding], dim=1)
    return grown
