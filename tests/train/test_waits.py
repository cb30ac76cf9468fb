"""A card is waited for once per update of a network, to know that it does no harm, and for nothing else."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.step_cost import backbone_of, cost_of_a_step
from benchmarks.waits import CARD, Waits
from train.engine.interrupt import StopRequest
from train.engine.loop import Trainer
from train.networks.adapters import lora_layers
from train.objectives import binned


@pytest.fixture
def on_the_card(loaded):
    """The networks of a training on the card."""
    return backbone_of(copy.deepcopy(loaded).to(CARD))


def test_a_step_waits_for_its_two_verdicts_alone(on_the_card):
    cost = cost_of_a_step(on_the_card, 64)
    assert cost.waits == ["to host"] * 2
    assert cost.switches == 8
    assert cost.operations > 1000


def test_control_what_depends_on_values_is_seen():
    numbers = torch.zeros(3, dtype=torch.int64, device=CARD)
    asking = (
        lambda: numbers.bincount(),
        lambda: numbers.nonzero(),
        lambda: numbers.sum().item(),
        lambda: numbers[numbers > 0],
        lambda: torch.ones(3).to(CARD),
    )
    for ask in asking:
        with Waits() as waits:
            ask()
        assert len(waits.seen) == 1
    with Waits() as waits:
        assert numbers[numbers].sum().device == torch.ones(3).to(CARD, non_blocking=True).device
    assert waits.seen == []


def test_binned_sums_and_counts():
    sums, counts = binned(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 199, 999]), 5)
    assert (sums.tolist(), counts.tolist()) == ([3, 0, 0, 0, 4], [2, 0, 0, 0, 1])


@pytest.mark.parametrize(("processes", "seen"), [(1, []), (2, ["read"])])
def test_one_process_asks_nobody_whether_to_stop(processes, seen):
    accelerator = SimpleNamespace(
        num_processes=processes, is_main_process=False, reduce=lambda asked, reduction: asked
    )
    trainer = SimpleNamespace(accelerator=accelerator, device=CARD)
    with Waits() as waits:
        Trainer._stopped(trainer, StopRequest())  # pyright: ignore[reportArgumentType]
    assert waits.seen == seen


def test_a_switch_of_roles_touches_no_layer(backbone, monkeypatch):
    networks, touched = backbone(), []
    layer = next(iter(lora_layers(networks.model.unet).values()))
    monkeypatch.setattr(type(layer), "set_adapter", lambda *_: touched.append("layer"))
    monkeypatch.setattr(nn.Parameter, "requires_grad_", lambda *_: touched.append("tensor"))
    active = []
    for role in (networks.as_critic, networks.as_teacher, networks.as_generator):
        with role():
            active.append({name.partition("_")[0] for name in layer.active_adapters})
    assert active == [{"critic"}, set(), {"default"}]
    assert touched == []
