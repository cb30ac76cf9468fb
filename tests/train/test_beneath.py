"""A second set of adapters on a frozen first one (PiSA-SR): what each sees, moves and writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from osediff_core import OSEDiff, OSEDiffError
from osediff_core.weights.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from train.config import ModelConfig, TrainConfig, read_config
from train.data import build_dataset
from train.engine.loop import Trainer, train
from train.engine.state import checksum, read_newest_state
from train.networks import Backbone
from train.networks.summed import summed

PISA = Path(__file__).resolve().parents[2] / "train/configs/pisa.toml"
PROMPT = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(1))
NEGATIVE = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(2))
Z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
T = torch.tensor([20, 900])


@pytest.fixture(scope="session")
def first(micro):
    """The published kind of checkpoint: LoRA in UNet and VAE encoder, and conv_in in full."""
    return read_checkpoint(micro / "osediff.pkl")


@pytest.fixture
def on_top(loaded, first):
    """Return a maker of networks that train a second set; settings of the model, and how far it has come."""
    import copy

    def make(moved=0.0, beneath=first, **settings):
        config = ModelConfig(**{"train_conv_in": False, **settings})
        generator = torch.Generator().manual_seed(0)
        networks = Backbone(copy.deepcopy(loaded), config, generator, beneath=beneath)
        with torch.no_grad():
            for parameter in networks.generator_parameters().values():
                parameter.add_(moved * torch.randn(parameter.shape, generator=generator))
        return networks

    return make


def restored_by(micro, checkpoint, tmp_path, lq):
    """What the loader makes of a checkpoint."""
    write_checkpoint(tmp_path / "written.safetensors", checkpoint)
    made = OSEDiff.from_pretrained(
        micro / "tiny_sd", tmp_path / "written.safetensors", dtype="float32", device="cpu"
    )
    with torch.no_grad():
        return made(lq, PROMPT)[0]


@torch.no_grad()
@pytest.mark.parametrize("merged", [False, True])
def test_it_begins_as_the_first_to_the_last_bits(on_top, backbone, first, batch, merged):
    alone, both = backbone(), on_top()
    alone.load_generator(
        {
            f"{part}.{key}": t
            for part, ts in (("unet", first.unet), ("vae", first.vae))
            for key, t in ts.items()
        }
    )
    for networks in (alone, both) if merged else ():
        networks.merge_adapters()
    for noise in (None, torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))):
        ours, expected = (networks.generate(batch[0], PROMPT, noise) for networks in (both, alone))
        torch.testing.assert_close(
            ours, expected, atol=1e-4, rtol=0
        )  # of sums: what is trained is summed otherwise
    untrained = backbone().generate(batch[0], PROMPT, None)[0]
    assert (untrained - ours[0]).abs().max() > 1e-3, "control: the first does something"


@torch.no_grad()
def test_teacher_critic_and_plain_encoder_see_neither(on_top, loaded, batch):
    networks = on_top(0.1)
    expected = loaded.unet(Z, T, PROMPT.expand(2, -1, -1))
    torch.testing.assert_close(networks.teacher(Z, T, PROMPT, NEGATIVE, 1.0), expected)
    torch.testing.assert_close(networks.critic(Z, T, PROMPT), expected)
    assert (networks.model.unet(Z, T, PROMPT.expand(2, -1, -1)) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("settings", [{}, {"train_vae": "none"}, {"train_vae": "decoder"}, {"rank_unet": 3}])
def test_the_second_alone_is_trained_and_all_of_it(on_top, batch, settings):
    networks = on_top(0.1, **settings)
    own = networks.generator_parameters()
    sr, _ = networks.generate(batch[0], PROMPT, None)
    sr.square().mean().backward()
    trained = {id(p) for p in networks.model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in [*own.values(), *networks.critic_parameters().values()]}
    assert [name for name, p in own.items() if p.grad is None] == []
    assert all(p.grad is None for p in networks.frozen_set().values())
    assert not {"unet.conv_in.weight", "unet.conv_in.bias"} & own.keys()


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rank_unet": 3, "rank_vae": 2, "lora_alpha": 5.0},
        pytest.param({"train_vae": "both"}, marks=pytest.mark.slow),
        pytest.param({"train_vae": "decoder"}, marks=pytest.mark.slow),
    ],
)
def test_the_checkpoint_restores_as_both_together(on_top, first, micro, batch, tmp_path, settings):
    networks = on_top(0.1, **settings)
    written = networks.checkpoint({})
    expected, _ = networks.generate(batch[0], PROMPT, None)
    ours = restored_by(micro, written, tmp_path, batch[0])
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)
    assert (written.rank_unet, written.rank_vae) == (
        first.rank_unet + networks.config.rank_unet,
        first.rank_vae + networks.config.rank_vae,
    )
    without = on_top(0.1, beneath=None, **settings)
    second = restored_by(micro, without.checkpoint({}), tmp_path, batch[0])
    pixel = restored_by(micro, first, tmp_path, batch[0])
    assert min((second - expected).abs().max(), (pixel - expected).abs().max()) > 1e-3, "control"


def test_the_sum_of_two_sets_by_hand():
    """Ranks 1 and 2, scales 3 and 1/2, and a layer that each has alone."""
    generator = torch.Generator().manual_seed(0)

    def pair(name, rank):
        a, b = torch.randn(rank, 5, generator=generator), torch.randn(4, rank, generator=generator)
        return {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}

    full = torch.randn(4, 5, generator=generator)
    one = Checkpoint(
        {**pair("both", 1), **pair("first", 1), "conv_in.weight": full}, pair("v", 1), 1, 3.0, 1, 3.0
    )
    two = Checkpoint({**pair("both", 2), **pair("second", 2)}, pair("v", 2), 2, 1.0, 2, 1.0, {"steps": "7"})
    made = summed(one, two)
    assert (made.rank_unet, made.scale_unet, made.rank_vae, made.scale_vae) == (3, 1.0, 3, 1.0)
    assert made.metadata == {"steps": "7"}
    assert torch.equal(made.unet["conv_in.weight"], full)

    def change(part, layer, scale):
        zero = torch.zeros(4, 5)
        both = f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
        return scale * part[both[1]] @ part[both[0]] if both[0] in part else zero

    for layer in ("both", "first", "second"):
        expected = change(one.unet, layer, 3.0) + change(two.unet, layer, 0.5)
        torch.testing.assert_close(change(made.unet, layer, 1.0), expected)
        assert made.unet[f"{layer}.lora_A.weight"].shape == (3, 5)
    torch.testing.assert_close(
        change(made.vae, "v", 1.0), change(one.vae, "v", 3.0) + change(two.vae, "v", 0.5)
    )


def test_bf16_leaves_the_first_as_it_is(on_top, first, batch):
    networks = on_top(0.1)
    with torch.no_grad():
        expected, _ = networks.generate(batch[0], PROMPT, None)
        networks.use_half(torch.bfloat16)
        half, _ = networks.generate(batch[0], PROMPT, None)
    assert 0 < (half - expected).abs().mean() < 0.05
    assert all(torch.equal(p, first.unet[k[5:]]) for k, p in networks.frozen_set().items() if k[0] == "u")


def test_two_stages_train_and_the_second_goes_on_where_it_was_stopped(config, tmp_path, micro, batch):
    every = {"steps": 2, "checkpoint_every": 1, "keep_last": 0, "batch_size": 1}
    plain = {"lambda_vsd": 0.0, "lambda_perceptual": 0.0}
    lively, model = {"learning_rate": 1e-2, "ema_decay": 0.9}, {"train_conv_in": False, "train_vae": "none"}
    pixel = config(run={**every, "out": str(tmp_path / "pixel")}, loss=plain, model=model, optim=lively)
    beneath = train(pixel)
    loss = vars(read_config(TrainConfig, PISA).loss)
    full = config(run=every, loss=loss, model={**model, "beneath": str(beneath)}, optim=lively)
    trainer = Trainer(full, build_dataset(full.data, full.degradation, full.run.seed), Accelerator(cpu=True))
    newest = trainer.run()
    with torch.no_grad(), trainer._exported():
        expected, _ = trainer.backbone.generate(batch[0], PROMPT, None)
    ours = restored_by(micro, read_checkpoint(newest), tmp_path, batch[0])
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)
    stage = read_checkpoint(beneath)
    assert (restored_by(micro, stage, tmp_path, batch[0]) - ours).abs().max() > 1e-4, "control: it has learnt"
    for name, parameter in trainer.backbone.frozen_set().items():
        part, key = name.split(".", 1)
        assert torch.equal(parameter, getattr(stage, part)[key])
    whole = ended(full)
    (Path(full.run.out) / "state_0000002.pt").unlink()
    resumed = replace(full, run=replace(full.run, resume=True))
    train(resumed)
    assert ended(full) == whole
    moved = beneath.with_name("moved.safetensors")
    write_checkpoint(moved, replace(stage, metadata={}))
    train(replace(resumed, model=replace(full.model, beneath=str(moved))))  # the same, elsewhere
    other = replace(
        resumed, model=replace(full.model, beneath=str(beneath.with_name("osediff_0000001.safetensors")))
    )
    with pytest.raises(OSEDiffError, match=r"different in model\.beneath \(another checkpoint than"):
        train(other)


def ended(made):
    """A checksum of all that the newest state goes on from."""
    _, state = read_newest_state(Path(made.run.out))
    return checksum({name: value for name, value in state.items() if name not in ("config", "random")})


def test_what_cannot_lie_beneath_is_refused(on_top, first, tmp_path):
    with pytest.raises(OSEDiffError, match=r"model\.beneath needs model\.train_conv_in = false"):
        TrainConfig(model=ModelConfig(beneath="a"))
    with pytest.raises(OSEDiffError, match=r"model\.beneath and model\.init_from cannot go together"):
        TrainConfig(model=ModelConfig(beneath="a", init_from="b", train_conv_in=False))
    layer = "mid_block.resnets.0.conv1.lora_A.weight"
    wide = {**first.unet, layer: torch.zeros(4, 7, 3, 3)}
    with pytest.raises(OSEDiffError, match=r"model\.beneath cannot be used: .* does not fit this base"):
        on_top(beneath=replace(first, unet=wide))
    whole = {**first.unet, "conv_out.bias": torch.zeros(4)}
    with pytest.raises(OSEDiffError, match=r"model\.beneath has conv_out\.bias trained in full"):
        on_top(beneath=replace(first, unet=whole))
