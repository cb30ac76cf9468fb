"""What of OSEDiff Apply can be looked at without ComfyUI; tests/e2e/test_native.py has the rest."""

from __future__ import annotations

import copy
import sys
from types import SimpleNamespace

import pytest
import torch

VAE = SimpleNamespace(latent_channels=4)


class Sampling(torch.nn.Module):
    """As ComfyUI's own: a schedule in a buffer, and how sampling starts."""

    def __init__(self):
        super().__init__()
        self.register_buffer("sigmas", torch.linspace(0.03, 14.61464, 1000))

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        return noise * sigma + latent_image


class Model:
    """The parts of ComfyUI's patcher that are used; `model` is what it moves."""

    def __init__(self, width=1024, kind="EPS"):
        config = SimpleNamespace(unet_config={"context_dim": width})
        self.model = SimpleNamespace(model_type=SimpleNamespace(name=kind), model_config=config)
        self.sampling, self.model_options = Sampling(), {}

    def get_model_object(self, name):
        return self.sampling

    def add_object_patch(self, name, obj):
        self.sampling = obj

    def set_model_unet_function_wrapper(self, wrapper):
        self.model_options["model_function_wrapper"] = wrapper

    def clone(self):
        return copy.copy(self)


@pytest.fixture
def native(pack):
    return sys.modules[f"{pack.__name__}.nodes.native"]


@pytest.fixture
def error(pack):
    return sys.modules[f"{pack.__name__}.osediff_core.errors"].OSEDiffError


def test_the_step_starts_from_the_latent_and_keeps_the_schedule(native):
    model = Model()
    original = model.sampling
    native.start_from_the_latent(model)
    z, sigma = torch.randn(2, 4, 3, 5), torch.tensor([14.61464])
    start = model.sampling.noise_scaling(sigma, torch.randn(2, 4, 3, 5), z, True)
    torch.testing.assert_close(start / (1 + sigma**2).sqrt(), z)  # what the UNet gets of it
    assert model.sampling.sigmas is original.sigmas
    noise = torch.ones(1)
    assert torch.equal(original.noise_scaling(sigma, noise, noise), noise * sigma + noise)


def test_tiles_are_blended_and_other_wrappers_are_called_for_each(native):
    model, seen = Model(), []
    model.model_options["model_function_wrapper"] = lambda apply, args: (
        seen.append(args["input"].shape) or apply(args["input"], args["timestep"], **args["c"])
    )
    native.run_in_tiles(model, 48)
    x = torch.randn(2, 4, 60, 70)
    wrapper = model.model_options["model_function_wrapper"]
    out = wrapper(lambda part, t, **c: 3 * part, {"input": x, "timestep": torch.ones(2), "c": {}})
    torch.testing.assert_close(out, 3 * x)
    assert {shape[-2:] for shape in seen} == {(48, 48)}
    assert len(seen) > 1


def test_a_controlnet_is_refused_where_there_are_tiles_and_only_there(native, error):
    model = Model()
    native.run_in_tiles(model, 48)
    wrapper = model.model_options["model_function_wrapper"]
    args = {"timestep": torch.ones(1), "c": {"control": {"output": []}}}
    with pytest.raises(error, match="ControlNet"):
        wrapper(lambda part, t, **c: part, {**args, "input": torch.zeros(1, 4, 60, 70)})
    small = torch.zeros(1, 4, 20, 20)
    assert torch.equal(wrapper(lambda part, t, **c: part, {**args, "input": small}), small)


@pytest.mark.parametrize(
    ("model", "said"),
    [(Model(768), "width 768"), (Model(None), "another family"), (Model(kind="V_PREDICTION"), "EPS")],
)
def test_models_of_another_kind_are_refused(nodes, error, model, said):
    with pytest.raises(error, match=said):
        nodes["OSEDiffApply"].run(model=model, vae=VAE, weights="none (merged)", tile="auto")


def test_what_goes_in_stays_as_it_is(nodes, native, error):
    model = Model()
    before = model.sampling
    applied, vae = nodes["OSEDiffApply"].run(model=model, vae=VAE, weights="none (merged)", tile="auto").args
    assert (vae, model.sampling is before, isinstance(applied.sampling, native.OneStep)) == (
        VAE,
        True,
        True,
    )
    with pytest.raises(error, match="already"):
        nodes["OSEDiffApply"].run(model=applied, vae=vae, weights="none (merged)", tile="auto")


def test_the_demo_is_not_offered_for_it(nodes):
    weights = next(put for put in nodes["OSEDiffApply"].define_schema().inputs if put.id == "weights")
    assert weights.arguments["options"] == ["osediff.pkl", "none (merged)"]


def test_a_vae_of_other_latents_is_refused(nodes, error):
    vae = SimpleNamespace(latent_channels=16)
    with pytest.raises(error, match="got one of 16"):
        nodes["OSEDiffApply"].run(model=Model(), vae=vae, weights="none (merged)", tile="auto")
