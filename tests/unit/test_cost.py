"""`osediff cost`: counted figures, held to the published ones and to a second way of counting."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.random_base import empty
from osediff_core.commands.cli import main
from osediff_core.lora import vae_targets
from osediff_core.tools.cost import PAPER_TABLE_2, FullSize, lora_parameters, macs, tagger
from osediff_core.tools.demand import CARDS, demands


@pytest.fixture(scope="module")
def full_size():
    return FullSize()


@pytest.fixture(scope="module")
def parts(full_size):
    return {part.name: part for part in full_size.parts()}


def test_parameters_of_every_part(parts):
    assert {name: part.parameters for name, part in parts.items()} == {
        "VAE encoder": 34_163_664,
        "UNet, one step": 865_910_724,
        "VAE decoder": 49_490_199,
        "text encoder": 340_387_840,
    }


def test_what_is_trained(full_size):
    """Rank 4 gives the paper's 8.5 M, and only with the critic; no other rank of the generator alone does."""
    trainable = full_size.trainable()
    assert (trainable.unet_lora, trainable.vae_lora, trainable.conv_in) == (4_055_712, 369_356, 11_840)
    assert trainable.generator == 4_436_908
    assert trainable.total - trainable.conv_in == 8_480_780
    assert trainable.total == 8_492_620
    assert round(trainable.total / 1e6, 1) == PAPER_TABLE_2["OSEDiff"].trainable
    assert full_size.trainable(8).generator == 8_861_976
    assert full_size.trainable(2).generator == 2_224_374
    alone = [round(full_size.trainable(rank).generator / 1e6, 1) for rank in range(1, 17)]
    assert PAPER_TABLE_2["OSEDiff"].trainable not in alone


def test_the_lora_count_is_that_of_real_adapters(full_size):
    """Against peft, which makes the adapters."""
    peft = pytest.importorskip("peft")
    vae = empty("vae")
    names = vae_targets(vae)
    with torch.device("meta"):
        peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=names), vae)
    made = sum(p.numel() for name, p in vae.named_parameters() if "lora_" in name)
    assert made == lora_parameters(full_size.vae, names, 4) == 369_356


def test_the_arithmetic_is_mostly_the_vaes(parts):
    """About 2.2 T in all, four fifths of it in the VAE, which is what slows a CPU down."""
    total = sum(part.macs for part in parts.values())
    vae = parts["VAE encoder"].macs + parts["VAE decoder"].macs
    assert total / 1e12 == pytest.approx(2.24, abs=0.01)
    assert vae / total == pytest.approx(0.81, abs=0.01)


def by_hand(module, run):
    """Multiply-accumulates of linear layers and convolutions, from the shapes that pass through them."""
    counted = []

    def count(layer, inputs, output):
        each = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.in_features
        counted.append(output.numel() * each)

    hooks = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    run()
    for hook in hooks:
        hook.remove()
    return sum(counted)


def test_counting_by_hand_gives_the_same(full_size, parts):
    """Layers by hooks, attention by its formula: 2 * queries * keys * width."""
    image, z = (torch.empty(1, c, n, n, device="meta") for c, n in ((3, 512), (4, 64)))
    embeds, t = torch.empty(1, 77, 1024, device="meta"), torch.empty(1, device="meta")
    with torch.no_grad():
        encode = by_hand(full_size.vae, lambda: full_size.vae.encode(image))
        decode = by_hand(full_size.vae, lambda: full_size.vae.decode(z))
        unet = by_hand(full_size.unet, lambda: full_size.unet(z, t, embeds))
    one = 2 * 4096 * 4096 * 512  # the VAE's, over 64 x 64 places
    assert parts["VAE encoder"].macs == encode + one
    assert parts["VAE decoder"].macs == decode + one
    places = {320: (4096, 5), 640: (1024, 5), 1280: (256, 5)}  # two layers down and three up, of each width
    attention = sum(2 * n * (n + 77) * width * layers for width, (n, layers) in places.items())
    attention += 2 * 64 * (64 + 77) * 1280  # in the middle
    assert parts["UNet, one step"].macs == unet + attention


def test_the_count_sees_attention_and_layers():
    q, k = torch.empty(1, 5, 40, 64, device="meta"), torch.empty(1, 5, 7, 64, device="meta")
    assert macs(lambda: nn.functional.scaled_dot_product_attention(q, k, k)) == 5 * 40 * 7 * 64 * 2
    with torch.device("meta"):
        layer = nn.Conv2d(3, 8, 3, padding=1)
    assert macs(lambda: layer(torch.empty(1, 3, 10, 10, device="meta"))) == 8 * 100 * 27


def test_the_tagger():
    """RAM as published has 199,350,325 for tags besides the head's layers, which it shares with captions,
    and with DAPE's low-rank pairs not yet folded in."""
    part = tagger()
    layer = 2 * (768 * 768 + 768) + 2 * (512 * 768 + 768) + (768 * 3072 + 3072) + (3072 * 768 + 768) + 4 * 768
    widths = {192: 2, 384: 2, 768: 18, 1536: 2}
    pairs = sum(32 * width * depth for width, depth in widths.items())
    pairs += 2 * 8 * ((768 + 768) + (512 + 768))
    assert part.parameters - 2 * layer + pairs == 199_350_325
    assert 150e9 < part.macs < 175e9


@pytest.mark.slow
def test_the_table_shows_what_is_counted(capsys):
    assert main(["cost"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    counted = {
        "UNet, one step 865.91 M 402.1 G",
        "LoRA of the UNet 4.06 M",
        "LoRA of the VAE encoder 0.37 M",
        "OSEDiff, counted here at rank 4 1 8.49 M",
    }
    paper = {
        f"{name} {row.steps} {row.seconds:.2f} {row.trainable:.1f} M" for name, row in PAPER_TABLE_2.items()
    }
    assert len(paper) == 7
    assert counted | paper <= set(lines)


@pytest.mark.parametrize("options", ["--rank 0", "--rank x", "--size 100", "--size 0"])
def test_values_that_cannot_be(capsys, options):
    with pytest.raises(SystemExit) as stop:
        main(["cost", *options.split()])
    assert stop.value.code == 2


@pytest.mark.slow
def test_the_table_of_memory_is_what_the_readme_says(capsys):
    assert main(["cost", "--memory"]) == 0
    rows = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines() if " x " in line]
    assert len(rows) == 6
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    for size, *cells, _, seconds in rows:
        assert f"| {' | '.join([size.replace('x', '×'), *cells, seconds])} |" in text


@pytest.mark.slow
def test_a_smaller_card_takes_less_and_more_of_the_host():
    weights, (demand,) = demands([4096])
    assert weights == 2 * (34_163_664 + 865_910_724 + 49_490_199 + 340_387_840)
    taken = [plan.device_bytes + weights for plan in demand.cards]
    assert demand.whole > taken[0] > taken[1] > taken[2] == taken[3]
    assert all(plan.fits for plan in demand.cards)
    assert all(byte <= card * 2**30 for byte, card in zip(taken, CARDS, strict=True))
    hosts = [plan.host_bytes for plan in demand.cards]
    assert hosts == sorted(hosts)
