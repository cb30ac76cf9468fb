"""One UNet in three roles: what each sees, and what each may change."""

import pytest
import torch
import torch.nn.functional as F

from osediff_core import OSEDiffError
from osediff_core.weights.checkpoint import read_checkpoint
from train.config import TrainConfig
from train.engine.steps import Stepper
from train.objectives import critic_loss
from train.objectives.batch import Batch
from train.objectives.draws import draw
from train.objectives.perceptual import gradient_loss

PROMPT = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(1))
NEGATIVE = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(2))
Z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
T = torch.tensor([20, 900])


def randomize(parameters, seed=0):
    """Give every trained tensor values that it could have after a while."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


@torch.no_grad()
def roles(networks):
    """What each of the roles predicts for the same latent."""
    generator = networks.model.predict_noise(Z, PROMPT)
    critic = networks.critic(Z, T, PROMPT)
    teacher = networks.teacher(Z, T, PROMPT, NEGATIVE, 1.0)
    return generator, critic, teacher


@torch.no_grad()
def test_all_roles_start_as_the_base(backbone, loaded):
    generator, critic, teacher = roles(backbone())
    expected = loaded.unet(Z, T, PROMPT.expand(2, -1, -1))
    torch.testing.assert_close(teacher, expected)
    torch.testing.assert_close(critic, expected)
    torch.testing.assert_close(generator, loaded.predict_noise(Z, PROMPT))


@pytest.mark.parametrize("role", ["generator", "critic"])
def test_training_one_role_leaves_the_others_alone(backbone, role):
    networks = backbone()
    before = roles(networks)
    randomize(networks.generator_parameters() if role == "generator" else networks.critic_parameters())
    after = roles(networks)
    changed = [not torch.equal(a, b) for a, b in zip(after, before, strict=True)]
    assert changed == [role == "generator", role == "critic", False]


@pytest.mark.parametrize("name", ["unet.conv_in.weight", "unet.conv_in.bias"])
def test_conv_in_is_the_generators_own(backbone, name):
    networks = backbone()
    before = roles(networks)
    networks.generator_parameters()[name].data.add_(0.1)
    after = roles(networks)
    assert [torch.equal(a, b) for a, b in zip(after, before, strict=True)] == [False, True, True]


def test_without_conv_in_its_adapter_is_still_trained(backbone):
    names = backbone(train_conv_in=False).generator_parameters()
    assert "unet.conv_in.lora_A.weight" in names
    assert "unet.conv_in.weight" not in names


def test_the_teacher_is_guided_away_from_the_negative_prompt(backbone):
    networks = backbone()
    negative, positive = (networks.teacher(Z, T, p, NEGATIVE, 1.0) for p in (NEGATIVE, PROMPT))
    torch.testing.assert_close(
        networks.teacher(Z, T, PROMPT, NEGATIVE, 7.5),
        negative + 7.5 * (positive - negative),
        atol=1e-4,
        rtol=1e-4,
    )


def test_roles_are_restored_also_after_an_error(backbone):
    networks, seen = backbone(), []

    def fail():
        with networks.as_critic(), networks.as_teacher():
            seen.append(networks.role)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [*seen, networks.role] == ["teacher", "generator"]


def test_only_the_named_tensors_are_trained_and_none_twice(backbone):
    networks = backbone()
    generator, critic = networks.generator_parameters(), networks.critic_parameters()
    named = [id(p) for p in [*generator.values(), *critic.values()]]
    assert len(named) == len(set(named))
    with networks.as_teacher():
        trainable = {id(p) for p in networks.model.parameters() if p.requires_grad}
    assert trainable == set(named)
    stepper = Stepper(networks, TrainConfig(), None, PROMPT, NEGATIVE)
    for updater, parameters in (
        (stepper.generator_optimizer, generator),
        (stepper.opponents["critic"].updater, critic),
    ):
        groups = updater.optimizer.param_groups
        assert sorted(id(p) for g in groups for p in g["params"]) == sorted(map(id, parameters.values()))


def test_names_are_those_of_the_published_checkpoint(backbone, micro):
    networks, published = backbone(), read_checkpoint(micro / "osediff.pkl")
    expected = {f"unet.{key}" for key in published.unet} | {f"vae.{key}" for key in published.vae}
    assert networks.generator_parameters().keys() == expected
    adapters = {key for key in expected if key.startswith("unet.") and "lora" in key}
    assert networks.critic_parameters().keys() == adapters


def test_adapters_start_normal_and_zero_whoever_else_is_there(backbone):
    both, alone, other = backbone(), backbone(with_critic=False), backbone(seed=1)
    a = {k: p for k, p in both.generator_parameters().items() if "lora_A" in k}
    values = torch.cat([p.flatten() for p in a.values()])
    assert values.std().item() == pytest.approx(1 / 4, rel=0.05)
    assert all(p.abs().max() == 0 for k, p in both.generator_parameters().items() if "lora_B" in k)
    assert all(torch.equal(p, alone.generator_parameters()[k]) for k, p in a.items())
    assert not all(torch.equal(p, other.generator_parameters()[k]) for k, p in a.items())
    assert alone.critic_parameters() == {}


def trained_by_critic(networks):
    """The tensors of the critic that its loss moves."""
    randomize(networks.critic_parameters())  # with B = 0, A has no gradient yet
    z = torch.randn(2, 4, 16, 16)  # 2 x 2 in the middle: one token would leave attention nothing to choose
    loss = critic_loss(
        z, z.flip(0), T, networks.model.alphas_cumprod, lambda z_t, t: networks.critic(z_t, t, PROMPT)
    )
    loss.backward()
    found = networks.critic_parameters().items()
    return {name for name, p in found if p.grad is not None and p.grad.abs().max() > 0}


def test_every_tensor_of_the_critic_is_trained(backbone):
    networks = backbone()
    assert trained_by_critic(networks) == networks.critic_parameters().keys()


def test_control_the_published_critic_trains_its_middle_only(backbone):
    networks = backbone()
    for group in ("default_encoder", "default_decoder"):
        networks._targets.pop(group)
    trained = trained_by_critic(networks)
    assert trained
    assert all(name.startswith("unet.mid_block.") for name in trained)


def test_every_tensor_of_the_generator_is_trained(backbone, batch):
    networks = backbone()
    randomize(networks.generator_parameters())
    lq, hq = (F.interpolate(x[:1], scale_factor=2) for x in batch)
    sr, _ = networks.generate(lq, PROMPT, None)
    (sr - hq).square().mean().backward()
    assert [
        k for k, p in networks.generator_parameters().items() if p.grad is None or p.grad.abs().max() == 0
    ] == []
    assert all(p.grad is None for p in networks.critic_parameters().values())
    assert all(p.grad is None for p in networks.model.parameters() if not p.requires_grad)


def test_generator_round_trip_and_misfits(backbone, micro):
    networks, published = backbone(), read_checkpoint(micro / "osediff.pkl")
    parts = (("unet", published.unet), ("vae", published.vae))
    tensors = {f"{part}.{key}": t for part, ts in parts for key, t in ts.items()}
    networks.load_generator(tensors)
    written = networks.checkpoint({"steps": "7"})
    assert all(torch.equal(written.unet[key], t) for key, t in published.unet.items())
    assert all(torch.equal(written.vae[key], t) for key, t in published.vae.items())
    assert (written.rank_unet, written.alpha_unet, written.metadata) == (4, 8.0, {"steps": "7"})
    tensors.pop("unet.conv_in.bias")
    with pytest.raises(OSEDiffError, match=r"unet\.conv_in\.bias"):
        networks.load_generator(tensors)
    with pytest.raises(OSEDiffError, match="do not fit"):
        backbone(rank_unet=2).load_generator(tensors | {"unet.conv_in.bias": published.unet["conv_in.bias"]})


# ---- bfloat16 -----------------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
def test_bf16_stays_near_float32(backbone, batch):
    exact, half = backbone(), backbone()
    for networks in (exact, half):
        randomize(networks.generator_parameters())
    half.use_half(torch.bfloat16)
    (_, expected), (_, ours) = (networks.generate(batch[0], PROMPT, None) for networks in (exact, half))
    assert ours.dtype == torch.float32
    assert 0 < (ours - expected).norm() / expected.norm() < 0.1


@torch.no_grad()
def test_bf16_does_not_round_what_x0_amplifies(backbone, batch):
    """At t = 999 a rounded latent or eps would come out 14.65 times coarser."""
    networks = backbone()
    networks.use_half(torch.bfloat16)
    with networks._autocast():
        z = networks.model.encode(batch[0])
        eps = networks.model.predict_noise(z, PROMPT)
        half = torch.randn(1, 16, 2, 2).bfloat16(), torch.randn(1, 32).bfloat16()
        inside = networks.model.unet.mid_block.resnets[0](*half)
    for tensor in (z, eps):
        assert tensor.dtype == torch.float32
        assert (tensor.bfloat16().float() != tensor).float().mean() > 0.9
    assert inside.bfloat16().float().equal(inside.float()), "control: the blocks do round"


def test_bf16_keeps_adapters_in_float32_and_trains_them(backbone, batch):
    networks = backbone()
    before = {k: p.detach().clone() for k, p in networks.generator_parameters().items()}
    networks.use_half(torch.bfloat16)
    for name, parameter in networks.generator_parameters().items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name]), "rounded on the way"
    frozen = [p for p in networks.model.unet.down_blocks.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    stepper = Stepper(networks, TrainConfig(), gradient_loss, PROMPT, NEGATIVE)
    draws = draw(0, [0, 1], (4, 8, 8), TrainConfig().loss, torch.device("cpu"))
    values = stepper.step([Batch(*batch, draws)])
    assert all(value.isfinite() for value in values.values())
    assert any(not torch.equal(p, before[k]) for k, p in networks.generator_parameters().items())


@torch.no_grad()
def test_channels_last_changes_the_layout_only(backbone, batch):
    plain, turned = backbone(), backbone()
    turned.use_channels_last()
    weight = turned.model.unet.conv_out.base_layer.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(
        plain.generate(batch[0], PROMPT, None), turned.generate(batch[0], PROMPT, None), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


# ---- merged adapters ------------------------------------------------------------------------------------


def trained_alike(backbone, merged):
    """Networks whose every adapter has the same random values, in float32."""
    networks = backbone(rank_unet=6, rank_vae=3)
    randomize(networks.generator_parameters())
    randomize(networks.critic_parameters(), seed=1)  # of the same names
    if merged:
        networks.merge_adapters()
    return networks


@pytest.mark.slow
def test_merged_adapters_are_the_same_function_in_every_role(backbone, loaded):
    beside, merged = (trained_alike(backbone, way) for way in (False, True))
    for ours, expected in zip(roles(merged), roles(beside), strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-4, rtol=2e-4)
    base = loaded.unet(Z, T, PROMPT.expand(2, -1, -1))
    torch.testing.assert_close(roles(merged)[2], base)
    assert not torch.allclose(roles(merged)[1], base, atol=1e-2), "control: the adapters do something"


def test_merged_adapters_get_the_same_gradients(backbone, batch):
    found = []
    for way in (False, True):
        networks = trained_alike(backbone, way)
        _, z = networks.generate(F.interpolate(batch[0][:1], scale_factor=2), PROMPT, None)
        z.square().mean().backward()
        found.append({name: p.grad for name, p in networks.generator_parameters().items()})
    for name, expected in found[0].items():
        distance = (found[1][name] - expected).norm() / expected.norm()
        assert distance < 1e-3, name


def test_merged_adapters_in_bf16_end_in_float32(backbone, batch):
    exact, networks = (trained_alike(backbone, True) for _ in range(2))
    networks.use_half(torch.bfloat16)
    with torch.no_grad():
        (_, expected), (_, z) = (one.generate(batch[0], PROMPT, None) for one in (exact, networks))
    assert z.dtype == torch.float32
    assert 0 < (z - expected).norm() / expected.norm() < 0.1
