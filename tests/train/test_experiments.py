"""What the configurations of the experiments switch on, each by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from osediff_core import OSEDiffError
from train.config import LossConfig, TrainConfig, read_config
from train.engine.loop import train
from train.engine.state import checksum, read_newest_state
from train.engine.steps import Stepper
from train.networks import Backbone
from train.objectives.batch import Batch
from train.objectives.draws import draw
from train.objectives.perceptual import gradient_loss
from train.objectives.registry import sees_pictures, uses_critic, uses_hq_latents

CONFIGS = Path(__file__).resolve().parents[2] / "train/configs"
CPU = torch.device("cpu")
PROMPT = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(1))
NEGATIVE = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def stepper(backbone, loaded):
    """Return a maker of steppers: settings of the loss, of the model, and more embeddings."""
    import copy

    def make(model=None, **loss):
        config = TrainConfig(loss=replace(LossConfig(perceptual="gradient"), **loss))
        config = replace(config, model=replace(config.model, **(model or {})))
        generator = torch.Generator().manual_seed(0)
        plain = sees_pictures(config.loss) or uses_hq_latents(config.loss)
        networks = Backbone(copy.deepcopy(loaded), config.model, generator, uses_critic(config.loss), plain)
        return Stepper(networks, config, gradient_loss, PROMPT, NEGATIVE)

    return make


def example(batch, loss: LossConfig, **more) -> Batch:
    return Batch(*batch, draw(0, [0, 1], (4, 8, 8), loss, CPU), **more)


def moved(parameters, before) -> bool:
    return any(not torch.equal(p, before[name]) for name, p in parameters.items())


def copied(parameters) -> dict:
    return {name: p.detach().clone() for name, p in parameters.items()}


# ---- VSD in the picture ------------------------------------------------------------------------------


def test_the_plain_encoder_is_the_bases_and_passes_gradients(stepper, loaded, batch):
    networks = stepper(vsd_space="image").backbone
    with torch.no_grad():
        for parameter in networks.generator_parameters().values():
            parameter.add_(0.1)  # so that the trained encoder is another
    image = batch[0].clone().requires_grad_()
    z = networks.encode_plain(image)
    z.square().sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(z, loaded.encode(batch[0]))
        assert (networks.model.encode(batch[0]) - z).abs().max() > 1e-3
    assert image.grad.abs().sum() > 0


@pytest.mark.slow
def test_in_the_image_domain_vsd_and_critic_see_the_picture_encoded_again(stepper, batch):
    made = {space: stepper(vsd_space=space) for space in ("latent", "image")}
    seen = {
        space: s.generator_losses(example(batch, s.loss))[0] for space, s in made.items()
    }  # the same start, and so the same picture
    torch.testing.assert_close(seen["latent"].sr, seen["image"].sr)
    again = made["image"].backbone.encode_plain((seen["image"].sr + 1) / 2)
    torch.testing.assert_close(seen["image"].z, again)
    assert (seen["image"].z - seen["latent"].z).abs().max() > 1e-2


# ---- the critic --------------------------------------------------------------------------------------


def test_the_critic_may_take_more_steps_than_the_generator(stepper, batch):
    thrice = stepper(critic_updates=3)
    thrice.step([example(batch, thrice.loss)])
    steps = [
        max(int(state["step"]) for state in updater.optimizer.state.values())
        for updater in (thrice.generator_optimizer, thrice.opponents["critic"].updater)
    ]
    assert steps == [1, 3]


def test_draws_of_the_critic():
    def drawn(**settings):
        return draw(0, [4, 5], (4, 8, 8), LossConfig(**settings), CPU)

    once, thrice, shared = drawn(), drawn(critic_updates=3), drawn(critic_draws="shared")
    assert torch.equal(once.critic_noise, thrice.critic_noise)
    noises = [thrice.critic_noise, *(noise for noise, _ in thrice.critic_more)]
    assert len({noise.sum().item() for noise in noises}) == 3
    assert torch.equal(shared.critic_noise, shared.vsd_noise)
    assert torch.equal(shared.critic_timesteps, shared.vsd_timesteps)
    assert not torch.equal(once.critic_noise, once.vsd_noise)
    late = draw(0, range(50), (1, 1, 1), LossConfig(critic_first_step=900, critic_last_step=910), CPU)
    assert set(late.critic_timesteps.tolist()) <= set(range(900, 910))
    assert len(set(late.critic_timesteps.tolist())) > 5


def test_the_published_slip_trains_the_middle_of_the_critic_alone(stepper, batch):
    slip, whole = stepper({"critic_layers": "middle"}), stepper()
    names = slip.backbone.critic_parameters()
    assert names
    assert all(".mid_block." in f".{name}" for name in names)
    assert names.keys() < whole.backbone.critic_parameters().keys()
    assert slip.backbone.generator_parameters().keys() == whole.backbone.generator_parameters().keys()
    before = copied(names)
    slip.step([example(batch, slip.loss)])
    assert moved(names, before)


def test_csd_needs_no_critic_and_a_prompt_that_differs(stepper, batch):
    made = stepper(lambda_vsd=0.0, lambda_csd=1.0)
    assert made.opponents == {}
    assert made.backbone.critic_parameters() == {}
    values = made.step([example(batch, made.loss)])
    assert values["loss/csd"] > 0
    with pytest.raises(OSEDiffError, match="lambda_csd"):
        TrainConfig(loss=LossConfig(lambda_csd=1.0), model=replace(TrainConfig().model, negative_prompt=""))


# ---- what of the VAE is trained ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "encodes_otherwise", "decodes_otherwise"),
    [("encoder", True, False), ("decoder", False, True), ("both", True, True), ("none", False, False)],
)
def test_the_halves_of_the_vae(stepper, loaded, batch, what, encodes_otherwise, decodes_otherwise):
    made = stepper({"train_vae": what, "posterior": "mode"})
    made.generator_optimizer.optimizer.param_groups[0]["lr"] = 1e-2
    made.step([example(batch, made.loss)])
    model, z = made.backbone.model, torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for changed, act in (
            (encodes_otherwise, lambda m: m.encode(batch[0])),
            (decodes_otherwise, lambda m: m.decode(z)),
        ):
            assert ((act(model) - act(loaded)).abs().max() > 1e-6) == changed


# ---- prompts and GAN ---------------------------------------------------------------------------------


def test_every_role_hears_the_batchs_prompts(stepper, batch):
    made = stepper()
    heard = {"prompt_embeds": torch.cat([PROMPT, NEGATIVE])}
    own, fixed = (made.generator_losses(example(batch, made.loss, **kind)) for kind in (heard, {}))
    torch.testing.assert_close(own[0].z[0], fixed[0].z[0], atol=1e-4, rtol=1e-4)
    assert (own[0].z[1] - fixed[0].z[1]).abs().max() > 1e-3
    other = replace(fixed[0], embeds=heard["prompt_embeds"])
    a, b = (made.opponents["critic"].loss(one, 0) for one in (fixed[0], other))
    assert abs(a - b) > 1e-6


def test_the_discriminator_learns_from_its_own_loss_alone(stepper, batch):
    made = stepper(lambda_vsd=0.0, lambda_gan=0.5)
    discriminator = made.opponents["discriminator"]
    restored, losses, _ = made.generator_losses(example(batch, made.loss))
    losses["gan"].backward()
    leftover = [p.grad for p in discriminator.parameters.values()]  # the step must not use these
    discriminator.step([restored.detach()])
    with_leftover = copied(discriminator.parameters)
    clean = stepper(lambda_vsd=0.0, lambda_gan=0.5).opponents["discriminator"]
    clean.step([restored.detach()])
    assert all(gradient is not None for gradient in leftover)
    assert not moved(clean.parameters, with_leftover)


def trained(run: Path) -> str:
    """The checksum of all that the newest state goes on from."""
    _, state = read_newest_state(run)
    return checksum({name: value for name, value in state.items() if name not in ("config", "random")})


def ends_the_same_from_its_first_state(made: TrainConfig) -> bool:
    """Train, take all states but the first away, and go on."""
    out = Path(made.run.out)
    train(made)
    first = trained(out)
    for path in [*out.glob("state_*3.pt"), *out.glob("state_*2.pt")]:
        path.unlink()
    train(replace(made, run=replace(made.run, resume=True)))
    return trained(out) == first


@pytest.mark.slow
def test_a_run_with_a_discriminator_goes_on_as_if_nothing_had_happened(config):
    every = {"steps": 3, "checkpoint_every": 1, "keep_last": 0}
    assert ends_the_same_from_its_first_state(config(loss={"lambda_vsd": 0.0, "lambda_gan": 0.5}, run=every))


@pytest.mark.parametrize("name", ["tsm", "diffusion_gan"])
def test_an_objective_trains_as_its_configuration_says_and_goes_on(config, name):
    """In the second step the head says something."""
    loss = vars(read_config(TrainConfig, CONFIGS / f"{name}.toml").loss)
    every = {"steps": 2, "checkpoint_every": 1, "keep_last": 0}
    made = config(loss=loss, run=every, optim={"learning_rate": 1e-2})
    assert ends_the_same_from_its_first_state(made)
    numbers = [json.loads(line) for line in (Path(made.run.out) / "numbers.jsonl").read_text().splitlines()]
    assert any(f"loss/{name}" in row for row in numbers)
