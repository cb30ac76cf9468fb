"""Every row of the paper's tables, and what goes beyond them: each takes steps on a tiny base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from osediff_core.weights.checkpoint import read_checkpoint
from train.config import TrainConfig, read_config
from train.data import build_dataset
from train.engine.loop import train
from train.prompts.prompter import write_prompts

CONFIGS = Path(__file__).resolve().parents[2] / "train/configs"
PAPER = sorted((CONFIGS / "paper").glob("*.toml"))
TAGGER = Path(__file__).resolve().parents[1] / "golden_ram_tiny" / "weights.safetensors"


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """Return the paths of a tiny RAM and its DAPE, as the published files are."""
    folder = tmp_path_factory.mktemp("tagger")
    tensors = load_file(TAGGER)
    torch.save({"model": {k: t for k, t in tensors.items() if ".lora_" not in k}}, folder / "ram.pth")
    torch.save({k: t for k, t in tensors.items() if ".lora_" in k}, folder / "dape.pth")
    (folder / "ram_tag_list.txt").write_text("\n".join(f"tag {i}" for i in range(120)))
    (folder / "ram_tag_list_threshold.txt").write_text("0.5\n" * 120)
    return folder


def small(config: TrainConfig, micro: Path, pictures: Path, tagger: Path, out: Path) -> TrainConfig:
    """The same configuration on the tiny base: two steps of one crop, nothing that is downloaded."""
    prompts = config.prompts
    if prompts.source == "tags":
        dape = str(tagger / "dape.pth") if prompts.dape else ""
        prompts = replace(prompts, tagger=str(tagger / "ram.pth"), dape=dape)
    if prompts.file:
        prompts = replace(prompts, file=str(out / "prompts.json"))
    return replace(
        config,
        model=replace(config.model, base=str(micro / "tiny_sd")),
        data=replace(config.data, sources=(str(pictures),), crop=32),
        prompts=prompts,
        loss=replace(config.loss, perceptual="gradient"),
        optim=replace(config.optim, learning_rate=1e-2),
        run=replace(
            config.run, out=str(out / "run"), steps=2, batch_size=1, workers=0, sample_every=0,
            mixed_precision="no", tracker="none",
        ),
    )  # fmt: skip


# Two rows that differ in what they train and against what are enough every time; `-m ""` takes all.
OFTEN = ("table3_gan", "table3_vsd_image")


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[] if p.stem in OFTEN else pytest.mark.slow) for p in PAPER],
    ids=lambda path: path.stem,
)
def test_it_trains(path, micro, pictures, tagger, tmp_path):
    config = small(read_config(TrainConfig, path), micro, pictures, tagger, tmp_path)
    if config.prompts.file:
        sources = build_dataset(config.data, config.degradation, 0).sources
        write_prompts(config.prompts, {found.name: "a red wall" for found in sources[0].once(())})
    trained = read_checkpoint(train(config))
    moved = {
        part: any(t.abs().max() > 0 for k, t in tensors.items() if k.endswith("lora_B.weight"))
        for part, tensors in (("unet", trained.unet), ("vae", trained.vae))
    }
    assert moved == {"unet": True, "vae": config.model.train_vae != "none"}
    assert trained.rank_unet == config.model.rank_unet
    halves = {key.split(".")[0] for key in trained.vae} - {"quant_conv", "post_quant_conv"}
    assert halves == {"both": {"encoder", "decoder"}, "decoder": {"decoder"}}.get(
        config.model.train_vae, {"encoder"}
    )
    assert ("conv_in.weight" in trained.unet) == config.model.train_conv_in


def values(name: str) -> TrainConfig:
    return read_config(TrainConfig, CONFIGS / "paper" / f"{name}.toml")


def test_the_rows_differ_from_the_main_setting_where_the_table_says():
    main = values("dape")
    assert (main.prompts.source, main.prompts.of) == ("tags", "lq")
    for rank in (2, 4, 8):
        assert values(f"table5_rank_{rank}").model == replace(main.model, rank_vae=rank)
        assert values(f"table6_rank_{rank}").model == replace(main.model, rank_unet=rank)
    assert values("table3_without_vsd").loss == replace(main.loss, lambda_vsd=0)
    assert values("table3_gan").loss == replace(main.loss, lambda_vsd=0, lambda_gan=0.5)
    assert values("table3_vsd_image").loss == replace(main.loss, vsd_space="image")
    assert values("vae_none").model == replace(main.model, train_vae="none")
    updates = {path.stem: values(path.stem).loss.critic_updates for path in PAPER}
    assert updates == {**dict.fromkeys(updates, 1), "critic_5": 5}  # as published, not as osediff.toml
    published = values("published")
    assert (published.prompts.of, published.prompts.dape) == ("hq", "")
    assert published.model.critic_layers == "middle"
    paper = values("paper").loss
    assert (paper.vsd_form, paper.guidance, paper.critic_draws) == ("paper", 1.0, "shared")
    assert len({values(path.stem).run.out for path in PAPER}) == len(PAPER)
