"""One UNet in three roles does what three separate copies do: the same losses, the same gradients."""

import copy
import re

import peft
import pytest
import torch
import torch.nn.functional as F

from osediff_core.lora import unet_targets, vae_targets
from train.config import RunConfig, TrainConfig
from train.engine.steps import Stepper
from train.objectives.batch import Batch
from train.objectives.draws import draw
from train.objectives.perceptual import gradient_loss

CPU = torch.device("cpu")
PROMPT, NEGATIVE = (torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(n)) for n in (1, 2))


def with_lora(module, targets):
    """Return a copy with LoRA as peft puts it there, and its trained tensors by our names."""
    module = copy.deepcopy(module).requires_grad_(False)
    config = peft.LoraConfig(r=4, lora_alpha=8.0, target_modules=list(targets), lora_dropout=0.0)
    peft.inject_adapter_in_model(config, module, "default")
    return module


def named(module, part, also=()):
    found = {}
    for key, parameter in module.named_parameters():
        if "lora_" in key or key in also:
            parameter.requires_grad_(True)
            name = re.sub(r"\.default\.weight$", ".weight", key).replace(".base_layer.", ".")
            found[f"{part}.{name}"] = parameter
    return found


class ThreeCopies:
    """Generator, teacher and critic as networks of their own, with a step written out."""

    def __init__(self, loaded, start):
        targets = [name for names in unet_targets(loaded.unet).values() for name in names]
        self.alphas, self.scaling = loaded.alphas_cumprod, loaded.scaling_factor
        self.unet, self.vae = with_lora(loaded.unet, targets), with_lora(loaded.vae, vae_targets(loaded.vae))
        self.teacher, self.critic = copy.deepcopy(loaded.unet), with_lora(loaded.unet, targets)
        conv_in = ("conv_in.base_layer.weight", "conv_in.base_layer.bias")
        self.generator_tensors = named(self.unet, "unet", conv_in) | named(self.vae, "vae")
        self.critic_tensors = named(self.critic, "unet")
        for tensors, values in zip((self.generator_tensors, self.critic_tensors), start, strict=True):
            assert tensors.keys() == values.keys()
            for key, tensor in tensors.items():
                tensor.data.copy_(values[key])

    def generate(self, lq, noise):
        mean, log_variance = self.vae.encode(lq * 2 - 1).chunk(2, 1)
        z = (mean + (log_variance.clamp(-30, 20) / 2).exp() * noise) * self.scaling
        eps = self.unet(z, torch.full((len(z),), 999), PROMPT.expand(len(z), -1, -1))
        z_hq = self.clean(z, eps, torch.full((len(z),), 999))
        return self.vae.decode(z_hq / self.scaling).clamp(-1, 1), z_hq

    def clean(self, z_t, eps, t):
        a = self.alphas[t].view(-1, 1, 1, 1)
        return (z_t - (1 - a).sqrt() * eps) / a.sqrt()

    def noised(self, z, noise, t):
        a = self.alphas[t].view(-1, 1, 1, 1)
        return a.sqrt() * z + (1 - a).sqrt() * noise

    @torch.no_grad()
    def distil(self, z, draws):
        """Return where VSD wants the latent to be."""
        z_t, t = self.noised(z, draws.vsd_noise, draws.vsd_timesteps), draws.vsd_timesteps
        fake = self.clean(z_t, self.critic(z_t, t, PROMPT.expand(len(z), -1, -1)), t)
        negative = self.teacher(z_t, t, NEGATIVE.expand(len(z), -1, -1))
        positive = self.teacher(z_t, t, PROMPT.expand(len(z), -1, -1))
        real = self.clean(z_t, negative + 7.5 * (positive - negative), t)
        return z - (fake - real) / (z - real).abs().mean((1, 2, 3), keepdim=True)

    def losses(self, lq, hq, draws):
        """Return losses and gradients of generator and critic."""
        sr, z_hq = self.generate(lq, draws.posterior)
        hq = hq * 2 - 1
        vsd = F.mse_loss(z_hq, self.distil(z_hq.detach(), draws))
        total = F.mse_loss(sr, hq) + 2 * gradient_loss(sr, hq).mean() + vsd
        total.backward()
        z, t = z_hq.detach(), draws.critic_timesteps
        z_t = self.noised(z, draws.critic_noise, t)
        critic = F.mse_loss(self.critic(z_t, t, PROMPT.expand(len(z), -1, -1)), draws.critic_noise)
        critic.backward()
        return (total.detach(), vsd.detach(), critic.detach()), *self.gradients()

    def gradients(self):
        return [{k: p.grad for k, p in ts.items()} for ts in (self.generator_tensors, self.critic_tensors)]


def ours(backbone, batch):
    """Losses and gradients of the one backbone."""
    stepper = Stepper(backbone, TrainConfig(), gradient_loss, PROMPT, NEGATIVE)
    made, total, values = stepper.generator_loss(batch)
    with backbone.as_generator():
        total.backward()
    critic = stepper.opponents["critic"].loss(made.detach(), 0)
    with backbone.as_critic():
        critic.backward()
    both = backbone.generator_parameters(), backbone.critic_parameters()
    losses = total.detach(), values["loss/vsd"], critic.detach()
    return losses, *({k: p.grad for k, p in tensors.items()} for tensors in both)


def started(backbone, **settings):
    """Return networks some way into their training, and their tensors."""
    networks = backbone(**settings)
    generator = torch.Generator().manual_seed(4)
    both = networks.generator_parameters(), networks.critic_parameters()
    for parameter in (p for tensors in both for p in tensors.values()):
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return networks, [{k: p.detach().clone() for k, p in tensors.items()} for tensors in both]


def distance(a, b):
    """The relative distance of all tensors together, and the largest of any loss."""
    losses = max(((x - y).abs() / y.abs()).item() for x, y in zip(a[0], b[0], strict=True))
    gradients = []
    for mine, theirs in zip(a[1:], b[1:], strict=True):
        assert mine.keys() == theirs.keys()
        mine, theirs = (torch.cat([g[k].flatten() for k in theirs]).double() for g in (mine, theirs))
        gradients.append(((mine - theirs).norm() / theirs.norm()).item())
    return losses, *gradients


@pytest.fixture
def example(batch):
    """One batch with its noise."""
    return Batch(*batch, draw(0, [0, 1], (4, 8, 8), TrainConfig().loss, CPU))


@pytest.mark.parametrize("recompute", ["none", pytest.param("decoder", marks=pytest.mark.slow), "all"])
def test_one_backbone_equals_three_copies(backbone, loaded, example, recompute):
    networks, start = started(backbone)
    networks.recompute(recompute)
    copies = ThreeCopies(loaded, start)
    expected = copies.losses(example.lq, example.hq, example.draws)
    assert max(distance(ours(networks, example), expected)) <= 1e-5


def test_control_a_teacher_with_the_generators_conv_in_is_seen(backbone, loaded, example):
    networks, start = started(backbone)
    copies = ThreeCopies(loaded, start)
    copies.teacher.conv_in.weight.data.copy_(start[0]["unet.conv_in.weight"])
    expected = copies.losses(example.lq, example.hq, example.draws)
    assert distance(ours(networks, example), expected)[0] > 1e-3


def test_control_a_critic_without_its_adapters_is_seen(backbone, loaded, example):
    networks, start = started(backbone)
    copies = ThreeCopies(loaded, start)
    for key, tensor in copies.critic_tensors.items():
        if key.endswith("lora_B.weight") and ".mid_block." not in key:
            tensor.data.zero_()
    expected = copies.losses(example.lq, example.hq, example.draws)
    assert min(distance(ours(networks, example), expected)[::2]) > 1e-3


def test_control_activations_computed_again_in_another_role_are_wrong(backbone, example):
    networks, _ = started(backbone)
    right = ours(networks, example)[2]
    networks.recompute("all")
    stepper = Stepper(networks, TrainConfig(), gradient_loss, PROMPT, NEGATIVE)
    networks.generator_parameters()  # the role outside of `as_critic` is the generator's
    for parameter in networks.critic_parameters().values():
        parameter.grad = None
    with torch.no_grad():
        restored = stepper.restore(example)
    loss = stepper.opponents["critic"].loss(restored, 0)
    try:
        loss.backward()
    except RuntimeError:
        return  # recomputation saw that other tensors came out
    wrong = {k: p.grad for k, p in networks.critic_parameters().items()}
    assert any(wrong[k] is None or not torch.allclose(wrong[k], g, rtol=1e-3) for k, g in right.items())


def test_recomputing_changes_no_bit(backbone, example):
    plain, again = started(backbone)[0], started(backbone)[0]
    again.recompute("all")
    for a, b in zip(ours(plain, example)[1:], ours(again, example)[1:], strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("what", [pytest.param("decoder", marks=pytest.mark.slow), "all"])
def test_recomputing_keeps_less(backbone, example, what):
    def kept(networks):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        stepper = Stepper(networks, TrainConfig(), gradient_loss, PROMPT, NEGATIVE)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            stepper.generator_loss(example)
        return sum(sizes.values())

    plain, again = started(backbone)[0], started(backbone)[0]
    again.recompute(what)
    assert kept(again) < (0.9 if what == "decoder" else 0.5) * kept(plain)


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), pytest.param("fp16", torch.float16, marks=pytest.mark.slow)]
)
def test_frozen_parts_are_half_and_trained_parts_are_not(backbone, example, name, dtype):
    exact, _ = started(backbone)
    networks, _ = started(backbone)
    networks.use_half(dtype)
    trained = [*networks.generator_parameters().values(), *networks.critic_parameters().values()]
    frozen = [p for p in networks.model.unet.mid_block.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {dtype}
    config = TrainConfig(run=RunConfig(mixed_precision=name))
    stepper = Stepper(networks, config, gradient_loss, PROMPT, NEGATIVE)
    reference = Stepper(exact, TrainConfig(), gradient_loss, PROMPT, NEGATIVE)
    values, expected = stepper.step([example]), reference.step([example])
    assert {p.dtype for p in trained} == {torch.float32}
    moments = [s["exp_avg"].dtype for s in stepper.generator_optimizer.optimizer.state.values()]
    assert set(moments) == {torch.float32}
    assert len(moments) == len(networks.generator_parameters())
    assert values["skipped"] == 0
    for key in ("loss/total", "loss/critic", "norm/generator", "norm/critic"):
        assert values[key].item() == pytest.approx(expected[key].item(), rel=0.1)
