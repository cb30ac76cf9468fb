"""The names of the original training code, changed by ours and by diffusers' conversion: the same tensors.

The names themselves come from `benchmarks.random_base`, which neither of the two uses.
"""

import pytest
import torch

from benchmarks.random_base import PARTS, PREFIXES, empty, single_file
from osediff_core.base.original_names import rename_text_encoder, rename_unet, rename_vae
from osediff_core.base.single_file import SD21, Architecture

OURS = {"unet": rename_unet, "vae": rename_vae, "text_encoder": rename_text_encoder}
COUNTS = {"unet": 686, "vae": 248, "text_encoder": 23 * 16 + 4}
LEFT_OVER = {  # what a training leaves in the file besides
    "model_ema.decay": (),
    "model_ema.diffusion_modelout2weight": (4, 8, 3, 3),
    "alphas_cumprod": (1000,),
    "first_stage_model.loss.logvar": (),
    "cond_stage_model.model.attn_mask": (77, 77),
}


def tiny(widths, attends, layers, linear, vae_widths, vae_layers):
    """Return the configs of a small model; attends: one letter per level of the UNet, "a" where it does."""
    kinds = ["CrossAttn" * (letter == "a") for letter in attends]
    unet = {
        "block_out_channels": widths,
        "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        "layers_per_block": layers,
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
        "use_linear_projection": linear,
    }
    vae = {
        "block_out_channels": vae_widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(vae_widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(vae_widths),
        "layers_per_block": vae_layers,
        "norm_num_groups": 4,
    }
    sizes = {"vocab_size": 99, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    return Architecture(unet, vae, {**sizes, "num_hidden_layers": layers + 1}, {})


TINY = {
    "as Stable Diffusion 2": tiny((8, 8, 16, 16), "aaa-", 2, True, (8, 8, 16, 16), 2),
    "as Stable Diffusion 1": tiny((8, 16, 24, 24), "aaa-", 2, False, (8, 16, 16, 16), 2),
    "one resnet per level": tiny((8, 8, 16, 16), "aaa-", 1, True, (8, 16), 1),
    "attention at the middle level": tiny((8, 16, 24), "-a-", 3, True, (8, 8, 16), 3),
    "attention at every level": tiny((16, 8), "aa", 1, True, (8,), 1),
    # Blocks and levels of two digits; none in the VAE, where diffusers takes level 10 for level 1.
    "many levels": tiny((8,) * 11, "-a" * 5 + "a", 1, True, (8,) * 10, 1),
}


def original(architecture, device):
    """Return a single file's tensors, random ones unless they are on the meta device."""
    state = {part: dict(empty(part, getattr(architecture, part)).state_dict()) for part in PARTS}
    levels = len(architecture.vae["down_block_types"])
    layers = architecture.unet["layers_per_block"]
    if device != "meta":
        generator = torch.Generator().manual_seed(0)
        for part in state.values():
            part.update({k: torch.randn(t.shape, generator=generator) for k, t in part.items()})
    left_over = {key: torch.empty(shape, device=device) for key, shape in LEFT_OVER.items()}
    return dict(single_file(state, layers, levels)) | left_over


def by_ours(part, tensors, architecture, **changed):
    return OURS[part](tensors, {**getattr(architecture, part), **changed})


def by_diffusers(part, tensors, architecture):
    from diffusers.loaders import single_file_utils

    config = dict(getattr(architecture, part))
    own = {key: tensor for key, tensor in tensors.items() if key.startswith(PREFIXES[part])}
    if part == "unet":
        return single_file_utils.convert_ldm_unet_checkpoint(own, config)
    if part == "vae":
        return single_file_utils.convert_ldm_vae_checkpoint(own, config)
    network = empty(part, config)
    return single_file_utils.convert_open_clip_checkpoint(network, own, prefix=PREFIXES[part])


def differing(ours, theirs):
    """Return the names that one side lacks or that differ in shape, format or a single bit."""
    both = ours.keys() & theirs.keys()
    return (ours.keys() ^ theirs.keys()) | {name for name in both if not equal(ours[name], theirs[name])}


def equal(a, b):
    same = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    return same and (a.is_meta or torch.equal(a, b))


SHIFTED = {
    "unet": {"layers_per_block": 4},
    "vae": {"down_block_types": ("DownEncoderBlock2D",) * 12},
    "text_encoder": {"num_hidden_layers": 1},
}
EXCHANGED = {  # tensors of queries and keys, and what diffusers calls the attention that they belong to
    "unet": ("middle_block.1.transformer_blocks.0.attn1.to_{}.weight", "mid_block.attentions.0"),
    "vae": ("decoder.mid.attn_1.{}.weight", "decoder.mid_block.attentions.0"),
    "text_encoder": ("transformer.resblocks.1.attn.in_proj_weight", "text_model.encoder.layers.1.self_attn"),
}


@pytest.fixture(scope="module")
def full_size():
    return original(SD21, "meta")


@pytest.fixture(scope="module", params=TINY)
def small(request):
    """One small architecture after the other, and a single file of it."""
    return TINY[request.param], original(TINY[request.param], "cpu")


@pytest.mark.parametrize("part", PARTS)
def test_full_size_names_and_shapes(full_size, part):
    ours = by_ours(part, full_size, SD21)
    assert len(ours) == COUNTS[part]
    assert not differing(ours, by_diffusers(part, full_size, SD21))
    prefix = "text_model."  # transformers has it or not, as its version is
    network = {name.removeprefix(prefix): t.shape for name, t in empty(part).state_dict().items()}
    assert network == {name.removeprefix(prefix): tensor.shape for name, tensor in ours.items()}
    assert differing(by_ours(part, full_size, SD21, **SHIFTED[part]), ours), "the control went unnoticed"


@pytest.mark.parametrize("part", PARTS)
def test_the_same_bits(small, part):
    architecture, tensors = small
    assert not differing(by_ours(part, tensors, architecture), by_diffusers(part, tensors, architecture))


@pytest.mark.parametrize("part", PARTS)
def test_a_shifted_level_is_noticed(small, part):
    architecture, tensors = small
    shifted = by_ours(part, tensors, architecture, **SHIFTED[part])
    assert differing(shifted, by_diffusers(part, tensors, architecture))


@pytest.mark.parametrize("part", PARTS)
def test_queries_in_the_place_of_keys_are_noticed(small, part):
    architecture, tensors = small
    name, attention = EXCHANGED[part]
    q, k = (PREFIXES[part] + name.format(side) for side in "qk")
    exchanged = {q: tensors[k], k: tensors[q]}
    if part == "text_encoder":
        exchanged = {q: torch.cat([tensors[q].tensor_split(3)[i] for i in (1, 0, 2)])}
    found = differing(
        by_ours(part, tensors | exchanged, architecture), by_diffusers(part, tensors, architecture)
    )
    assert len(found) == 2
    assert all(found_name.startswith(attention) for found_name in found)


@pytest.mark.parametrize("part", PARTS)
def test_nothing_is_copied(small, part):
    architecture, tensors = small
    places = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    renamed = by_ours(part, tensors, architecture).values()
    assert all(tensor.untyped_storage().data_ptr() in places for tensor in renamed)


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_attention_of_the_vae_however_it_is_stored(small, dimensions):
    architecture, tensors = small
    ones = (1,) * (dimensions - 2)
    attention = {
        k: t.reshape(*t.shape[:2], *ones) for k, t in tensors.items() if ".attn_1." in k and t.ndim > 1
    }
    assert len(attention) == 8
    stored = tensors | attention
    assert not differing(by_ours("vae", stored, architecture), by_diffusers("vae", stored, architecture))
