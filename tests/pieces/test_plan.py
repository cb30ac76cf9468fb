"""How the work is cut to the memory: by a plan from figures alone, and after memory really ran out."""

import copy
import gc
import logging
import re
from contextlib import suppress
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from osediff_core import OSEDiff, restore
from osediff_core.device import memory
from osediff_core.device.memory import NotEnoughMemoryError, first_that_fits, free_memory, is_out_of_memory
from osediff_core.errors import OSEDiffError
from osediff_core.pipeline import plan as planning
from osediff_core.pipeline import run
from osediff_core.pipeline.plan import CPU, MOST_TILES, SHARE, VAEPlan, make_plan
from osediff_core.pipeline.run import decode, denoise, encode, encode_prompt
from osediff_core.pipeline.runtime import Runtime, weight_bytes

from .vaes import Alive, uneven

GATE = 1e-4
TILES_GATE = 1e-5
GIB = 2**30
ROOMY = Runtime()


@pytest.fixture(scope="module")
def on_a_card(model):
    """The model on a device that knows shapes alone, which is enough for a plan."""
    return copy.deepcopy(model).to("meta")


@pytest.fixture(scope="module")
def offloaded(model):
    """The model with its parts away from their device, by another name of the same place: it can compute."""
    net = copy.deepcopy(model)
    net.offload_to = torch.device("cpu", 0)
    return net


def ways(plan):
    """How both halves of the VAE run, without figures; they are alike by `figures`."""
    encoded, decoded = ([(way.piece, way.keep) for way in half] for half in (plan.encode, plan.decode))
    assert encoded == decoded
    return decoded


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize(
    ("vae", "card", "host", "first"),
    [
        ("auto", None, None, (None, None)),
        ("auto", 40 * GIB, GIB, (None, None)),
        ("auto", 9 * GIB, GIB, (256, None)),
        ("auto", 2 * GIB, 8 * GIB, (256, CPU)),
        ("auto", GIB // 2, 8 * GIB, (128, CPU)),
        (64, 40 * GIB, GIB, (64, None)),
        (64, 2 * GIB, 8 * GIB, (64, CPU)),
        ("whole", 0, 0, (None, None)),
    ],
)
def test_the_vae_runs_whole_where_it_fits_and_else_in_pieces(on_a_card, machine, vae, card, host, first):
    assert ways(make_plan(on_a_card, 8, 8, vae=vae, runtime=machine(host, card)))[0] == first


@pytest.mark.usefixtures("figures")
def test_files_stand_in_for_host_memory(on_a_card, machine, tmp_path):
    little = machine(GIB, 2 * GIB)
    spilt = make_plan(on_a_card, 8, 8, spill=tmp_path, runtime=little)
    assert ways(spilt)[0] == (256, tmp_path)
    assert spilt.fits
    spilt.check()
    with pytest.raises(OSEDiffError, match=r"there is no folder .*disk to spill to"):
        make_plan(on_a_card, 8, 8, spill=tmp_path / "disk", runtime=little)
    with pytest.raises(OSEDiffError, match=r"4\.0 GiB of memory, of which 1\.0 GiB are free.*spill to files"):
        make_plan(on_a_card, 8, 8, runtime=little).check()


@pytest.mark.usefixtures("figures")
def test_each_way_to_go_on_needs_less(model, on_a_card, machine, tmp_path):
    plan = make_plan(on_a_card, 8, 8, runtime=machine())
    sides = [(side, CPU) for side in (256, 128, 64, 32)]
    assert ways(plan) == [(None, None), (256, None), *sides]
    assert [str(way) for way in plan.decode[:3]] == [
        "the VAE whole",
        "the VAE in pieces of 256 pixels",
        "the VAE in pieces of 256 pixels and host memory",
    ]
    taken = [way.device_bytes for way in plan.decode]
    assert taken == sorted(set(taken), reverse=True)
    there = make_plan(model, 8, 8, runtime=machine())  # on a processor the host's memory is no other
    assert ways(there) == [(None, None), *((side, None) for side in (256, 128, 64, 32))]
    files = make_plan(model, 8, 8, spill=tmp_path, runtime=machine())
    assert ways(files)[1:3] == [(256, None), (256, tmp_path)]
    assert str(files.decode[2]) == "the VAE in pieces of 256 pixels and files"


@pytest.mark.usefixtures("figures")
def test_where_nothing_fits_the_last_way_is_left_and_refused(on_a_card, machine):
    plan = make_plan(on_a_card, 8, 8, runtime=machine(GIB, GIB))
    assert ways(plan) == [(32, CPU)]
    assert not plan.fits
    with pytest.raises(OSEDiffError, match=re.escape(f"{plan};")):
        plan.check()


@pytest.mark.parametrize("vae", ["half", 8, 0, -1, True, 31.5])
def test_a_cut_that_is_none_is_refused(vae, model):
    with pytest.raises(OSEDiffError, match=r"VAE"):
        restore(model, torch.zeros(1, 3, 8, 8), vae=vae)


# ---- a plan ----------------------------------------------------------------------------------------


def test_a_plan_is_the_same_for_the_same_and_cannot_be_changed(model, machine):
    def made(**changes):
        return make_plan(model, **{"height": 30, "width": 50, "runtime": machine(GIB), **changes})

    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(0)
    plan = made()
    assert plan == made()
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(0))  # nothing was drawn
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for change in ({"width": 58}, {"scale": 2.0}, {"count": 2}, {"tile": 3, "overlap": 1}, {"vae": 32}):
        assert made(**change) != plan
    for part in (plan, plan.encode[0], plan.denoise[0], plan.decode[0]):
        with pytest.raises(FrozenInstanceError):
            part.device_bytes = 0


@pytest.mark.parametrize("tile", ["auto", 16, "off"])
def test_the_tiles_of_the_unet_do_not_depend_on_free_memory(offloaded, machine, tile):
    plans = [
        make_plan(offloaded, 900, 1000, tile=tile, overlap=4, runtime=machine(free, free))
        for free in (None, 0, 10**7, 10**15)
    ]
    assert len({str(plan.denoise[0].boxes) for plan in plans}) == 1
    if tile != "off":
        assert len(plans[0].denoise[0].boxes) > 1
        assert len({plan.denoise[0].at_once for plan in plans}) > 1  # how many at once is another matter


@pytest.mark.parametrize("part", ["encoder_part", "unet", "decoder_part"])
def test_weights_that_come_later_are_taken_off_what_is_free(model, offloaded, machine, part):
    modules = (offloaded.unet,) if part == "unet" else getattr(offloaded, part)
    weights = weight_bytes(modules)
    assert weights == sum(p.nbytes for module in modules for p in module.parameters()) > 0
    there = machine(card=GIB)
    assert there.free_beside(offloaded, modules) == GIB - weights
    assert machine(GIB).free_beside(model, modules) == GIB  # they are there already
    assert machine().free_beside(offloaded, modules) is None


def test_a_plan_is_made_for_what_the_largest_part_leaves(model, offloaded, machine):
    parts = offloaded.encoder_part, (offloaded.unet,), offloaded.decoder_part
    largest = max(weight_bytes(part) for part in parts)
    assert make_plan(offloaded, 8, 8, runtime=machine(GIB, GIB)).device_free == GIB - largest
    assert make_plan(model, 8, 8, runtime=machine(GIB)).device_free == GIB


@pytest.mark.parametrize("largest", ["encode_bytes", "decode_bytes", "unet", None])
def test_a_plan_takes_what_its_largest_part_takes(model, machine, monkeypatch, largest):
    """Where no part takes anything there are still the pictures, most of them while colours are matched."""
    for name in ("encode_bytes", "decode_bytes"):
        size = 7 * GIB if name == largest else 0
        monkeypatch.setattr(planning, name, lambda *rest, size=size, **also: (size, 0))
    for name in ("ATTENDING_VALUES", "PLAIN_VALUES"):
        monkeypatch.setattr(planning, name, 7 * GIB if largest == "unet" else 0)
    plan = make_plan(model, 10000, 1000, runtime=machine(GIB))
    copy_of_it = 3 * 10000 * 1000 * 4
    assert plan.device_bytes >= (planning.KEPT_COPIES + planning.COLOR_COPIES) * copy_of_it
    assert (plan.device_bytes >= 7 * GIB + planning.KEPT_COPIES * copy_of_it) == (largest is not None)
    another = make_plan(model, 10000, 1000, count=2, runtime=machine(GIB))
    assert another.device_bytes >= plan.device_bytes + copy_of_it  # its result


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize(
    ("card", "host", "there"), [(40, 40, True), (9, 40, True), (2, 40, False), (None, None, True)]
)
def test_pictures_lie_on_the_card_unless_something_has_to_leave_it(on_a_card, machine, card, host, there):
    runtime = machine(*(None if size is None else size * GIB for size in (host, card)))
    plan = make_plan(on_a_card, 8, 8, runtime=runtime)
    assert plan.on_device == there
    assert plan.fits
    assert (plan.host_bytes >= 4 * GIB) == (not there)


def test_on_a_processor_there_is_one_memory(model, machine):
    plan = make_plan(model, 40, 40, runtime=machine(GIB))
    assert (plan.on_device, plan.host_bytes, plan.host_free) == (False, 0, None)
    assert plan.device_bytes > 0


def test_results_of_a_batch_do_not_push_it_off_the_card(on_a_card, machine):
    """They lie where the input lies, in the host's memory; on the card is one picture after the other."""
    one, many = (
        make_plan(on_a_card, 64, 64, scale=4, count=n, runtime=machine(2**40, GIB)) for n in (1, 10000)
    )
    assert one.on_device
    assert many.on_device
    assert many.host_bytes > one.host_bytes


WORDS = {
    "one picture": ({}, "40 x 24 in one tile, encoded whole, decoded whole"),
    "several": (
        {"count": 3, "vae": 64},
        "3 pictures of 40 x 24 in one tile, encoded in pieces of 64, decoded in pieces of 64",
    ),
    "tiles": ({"tile": 3, "overlap": 1, "scale": 2}, "80 x 48 in 15 tiles, encoded whole, decoded whole"),
}


@pytest.mark.parametrize("which", WORDS)
def test_a_plan_is_a_sentence(model, machine, which):
    choices, words = WORDS[which]
    text = str(make_plan(model, 24, 40, runtime=machine(GIB), **choices))
    assert re.fullmatch(rf"{words}, takes \d+\.\d GiB of memory, of which 1\.0 GiB are free: fits", text)
    assert "free" not in str(make_plan(model, 24, 40, runtime=machine(), **choices))


@pytest.mark.usefixtures("figures")
def test_the_sentence_says_of_each_memory_what_is_needed_and_free(on_a_card, machine):
    text = str(make_plan(on_a_card, 24, 40, runtime=machine(8 * GIB, 2 * GIB)))
    assert "encoded in pieces of 256, decoded in pieces of 256" in text
    assert text.endswith(
        "takes 1.0 GiB of memory on meta, of which 2.0 GiB are free and 4.0 GiB of memory, of which 8.0 GiB "
        "are free: fits"
    )
    lacking = make_plan(on_a_card, 24, 40, runtime=machine(GIB, 2 * GIB))
    assert str(lacking).endswith("of which 1.0 GiB are free: does not fit")


def test_what_does_not_fit_is_refused_and_what_the_user_wants_whole_is_not(model, machine):
    lq = image(20, 12)
    for vae in ("auto", 32):
        plan = make_plan(model, 20, 12, scale=4, vae=vae, runtime=machine(1000))
        assert not plan.fits
        assert str(plan).endswith(": does not fit")
        with pytest.raises(OSEDiffError, match=r"does not fit; take a smaller scale"):
            restore(model, lq, vae=vae, runtime=machine(1000))
    forced = make_plan(model, 20, 12, scale=4, vae="whole", runtime=machine(1000))
    assert not forced.fits
    forced.check()
    assert torch.equal(restore(model, lq, vae="whole", runtime=machine(1000)), restore(model, lq))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("cut", [{}, {"vae": 32, "tile": 4, "overlap": 1}])
def test_progress_ends_with_the_steps_of_the_plan(model, machine, count, cut):
    seen = []
    runtime = machine(progress=lambda *at: seen.append(at))
    restore(model, image(8, 14, batch=count), **cut, runtime=runtime)
    steps = make_plan(model, 8, 14, scale=4, count=count, **cut, runtime=ROOMY).steps
    assert {total for _, total in seen} == {steps}
    assert seen[-1] == (steps, steps)


def test_a_compiled_half_that_runs_whole_is_one_step(model, machine):
    net, seen = copy.copy(model), []
    net.compiled = True  # or so it says: nothing else differs
    plan = make_plan(net, 8, 14, scale=4, runtime=ROOMY)
    assert (plan.encode_steps, plan.decode_steps, plan.steps) == (1, 1, 3)
    out = restore(net, image(8, 14), progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert (out - restore(model, image(8, 14))).abs().max() <= GATE
    seen.clear()
    restore(net, image(8, 14), vae=32, progress=lambda *at: seen.append(at))
    assert seen[-1] == (3, 3)


def test_the_plan_is_shown_before_the_work(model, machine):
    shown = []

    class Shows(machine):
        def show_plan(self, plan):
            shown.append(plan)

        def load(self, *rest):
            assert shown
            return super().load(*rest)

    runtime = Shows(GIB)
    restore(model, image(8, 14, batch=2), runtime=runtime)
    assert shown == [make_plan(model, 8, 14, scale=4, count=2, runtime=runtime)]


# ---- memory that runs out --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (OSEDiffError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_an_out_of_memory_error_is(error, is_one):
    assert is_out_of_memory(error) == is_one
    by_a_library = ValueError("the features have excessive nesting")
    by_a_library.__cause__ = error
    assert is_out_of_memory(by_a_library) == is_one


def test_only_out_of_memory_leads_to_the_next_attempt(caplog):
    def run(size):
        if size > 2:
            raise MemoryError
        return size

    with caplog.at_level(logging.WARNING):
        assert first_that_fits([8, 4, 2, 1], run) == 2
    assert [r.getMessage() for r in caplog.records] == [
        "memory ran out with 8; going on with 4",
        "memory ran out with 4; going on with 2",
    ]
    with pytest.raises(NotEnoughMemoryError, match=r"tried: 8, then 4. Remedy: take a smaller scale"):
        first_that_fits([8, 4], run)
    with pytest.raises(ZeroDivisionError):
        first_that_fits([0, 1], lambda size: 1 // size)


def test_what_failed_is_freed_before_the_next_attempt():
    seen = []

    def run(size):
        taken = torch.empty(size)
        seen.append(alive.now)
        if size > 10:
            raise MemoryError
        return taken

    with Alive() as alive:
        first_that_fits([1000, 10], run)
    assert seen == [4000, 40]


def test_free_host_memory_is_the_systems_or_the_groups(tmp_path):
    proc = tmp_path / "meminfo"
    proc.write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    group = tmp_path / "group"
    group.mkdir()
    assert memory._free_host_memory(proc, group) == 500 * 1024
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert memory._free_host_memory(proc, group) == 500 * 1024
    (group / "memory.max").write_text("300000\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 700\n")
    assert memory._free_host_memory(proc, group) == 300000 - 1000 + 700
    assert memory._free_host_memory(tmp_path / "none", group) is None


def test_the_free_memory_of_this_machine_is_a_sensible_number():
    free = free_memory(CPU)
    assert free is None or 2**20 < free < 2**50
    assert ROOMY.free_memory(CPU) is None or 2**20 < ROOMY.free_memory(CPU) < 2**50


def starve(monkeypatch, owner, name, fits):
    """Let a function run out of memory unless `fits` is content with its arguments; return the calls."""
    true, calls = getattr(owner, name), []

    def starved(*args, **options):
        good = fits(*args, **options)
        calls.append(good)
        if not good:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return true(*args, **options)

    monkeypatch.setattr(owner, name, starved)
    return calls


def image(height, width, batch=1):
    return (uneven(batch, 3, height, width) + 1) / 2


def just_enough(model, lq, **cut):
    """How many bytes have to be free on a processor so that 4x images fit, cut like this."""
    plan = make_plan(model, *lq.shape[-2:], count=len(lq), scale=4, **cut, runtime=ROOMY)
    return int(plan.device_bytes / SHARE) + 1


@pytest.mark.usefixtures("figures")
def test_pieces_are_the_same_picture(model, machine, tmp_path):
    lq = image(25, 33)
    whole = restore(model, lq, vae="whole")
    little = machine(int(4.7 * GIB))  # by `figures` enough for pieces of 64
    least = machine(GIB // 5)  # and for them where what is kept lies in files
    assert make_plan(model, 25, 33, scale=4, runtime=little).decode[0].piece == 64
    assert make_plan(model, 25, 33, scale=4, spill=tmp_path, runtime=least).decode[0].keep == tmp_path
    for options in (
        {"vae": 32},
        {"vae": 64},
        {"runtime": little},
        {"runtime": least, "spill": tmp_path},
        {"runtime": least, "spill": tmp_path, "vae": 32},
    ):
        pieces = restore(model, lq, **options)
        assert not torch.equal(pieces, whole)  # or it was not cut
        assert (pieces - whole).abs().max() <= GATE


def test_where_the_whole_fits_nothing_changes_by_a_bit(model, machine):
    lq = image(20, 12)
    assert torch.equal(restore(model, lq), restore(model, lq, vae="whole"))
    for runtime in (machine(None), machine(just_enough(model, lq, vae="whole"))):
        assert torch.equal(restore(model, lq, runtime=runtime), restore(model, lq, vae="whole"))


@pytest.mark.parametrize("step", ["encode", "decode"])
def test_a_vae_that_runs_out_of_memory_goes_on_in_pieces(model, monkeypatch, caplog, step):
    lq = image(24, 24, batch=2)
    expected = restore(model, lq)
    channels = {"encode": 3, "decode": model.latent_channels}[step]
    whole = starve(monkeypatch, run, "run_whole", lambda layers, x, on_step: x.shape[1] != channels)
    cut = starve(monkeypatch, run, f"{step}_in_pieces", lambda *args, piece, **rest: piece <= 64)
    seen = []
    with caplog.at_level(logging.WARNING):
        out = restore(model, lq, progress=lambda *at: seen.append(at))
    assert (out - expected).abs().max() <= GATE
    assert whole == ([False, True] if step == "encode" else [True, False]) * 2  # once for each image
    assert cut == [False, False, True] * 2  # 256, 128, 64
    assert len(caplog.records) == 6
    assert seen[-1][0] == seen[-1][1] == seen[0][1]


def test_memory_that_runs_out_in_the_middle_of_a_half_begins_it_anew(model, monkeypatch):
    lq, calls = image(24, 24), []
    expected, block = restore(model, lq), model.vae.decoder.mid_block.resnets[0]

    def full_once(layer, args):
        calls.append(args[0].shape)
        if len(calls) == 1:
            raise MemoryError

    hook, seen = block.register_forward_pre_hook(full_once), []
    try:
        out = restore(model, lq, progress=lambda *at: seen.append(at))
    finally:
        hook.remove()
    assert calls == [(1, 16, 12, 12)]  # in pieces the block's layers are called one by one
    assert (out - expected).abs().max() <= GATE
    assert not torch.equal(out, expected)
    assert seen[-1][0] == seen[-1][1]


def test_results_before_a_failure_are_kept(model, monkeypatch):
    x, plan = image(32, 32, batch=3), make_plan(model, 32, 32, count=3, runtime=ROOMY)
    expected = encode(model, x, plan, Runtime())
    done = starve(monkeypatch, run, "run_whole", lambda *args: len(done) != 1)
    z = encode(model, x, plan, Runtime())
    assert done == [True, False, True]  # the first is not made again
    assert torch.equal(z[0], expected[0])
    assert (z - expected).abs().max() <= GATE


def batches(monkeypatch, model, fits):
    """The sizes of the tiles (batch, height, width) that the UNet gets."""
    sizes = []

    def note(self, z, prompt_embeds):
        sizes.append((len(z), *z.shape[-2:]))
        return fits(len(z), z.shape[-1])

    starve(monkeypatch, type(model), "predict_noise", note)
    return sizes


def latent(side, batch=1):
    return torch.randn(batch, 4, side, side, generator=torch.manual_seed(0))


def planned(model, side, runtime, **cut):
    """The plan for a square latent."""
    return make_plan(model, side * model.reduction, side * model.reduction, runtime=runtime, **cut)


def room_for(model, tiles, side, latent):
    """How much memory the card must have for so many tiles of a latent at once, and half of one more."""
    each = planned(model, side, ROOMY, tile="off").denoise[0].device_bytes
    whole = planned(model, latent, ROOMY, tile="off")
    beside = whole.unet_bytes - whole.denoise[0].device_bytes
    return int(weight_bytes((model.unet,)) + (beside + (tiles + 0.5) * each) / SHARE)


def test_the_unet_takes_as_many_tiles_as_fit(model, offloaded, machine, monkeypatch):
    def at_once(card, side=200):
        return planned(offloaded, side, machine(2**50, card), tile=16, overlap=4).denoise[0].at_once

    room = room_for(offloaded, 4, 16, 200)
    assert [at_once(size) for size in (room, 0, 10**15)] == [4, 1, MOST_TILES]
    assert at_once(10**15, side=40) == 9  # that is all there are
    assert at_once(None) == 1
    assert planned(model, 200, machine(10**15), tile=16, overlap=4).denoise[0].at_once == 1  # no faster
    z, embeds = latent(40), encode_prompt(model, [""], ROOMY)
    one_by_one = denoise(model, z, embeds, planned(model, 40, ROOMY, tile=16, overlap=4), Runtime())
    room = room_for(offloaded, 4, 16, 40)
    plan = planned(offloaded, 40, machine(2**50, room), tile=16, overlap=4)
    assert plan.unet_bytes <= SHARE * plan.device_free  # as many as fit with what lies beside them
    sizes = batches(monkeypatch, model, lambda count, side: True)
    out = denoise(offloaded, z, embeds, plan, Runtime())
    assert sizes == [(4, 16, 16), (4, 16, 16), (1, 16, 16)]
    assert (out - one_by_one).abs().max() <= TILES_GATE * (1 + one_by_one.abs().max())


def test_running_out_with_several_tiles_begins_again_with_half_as_many(
    model, offloaded, machine, monkeypatch, caplog
):
    z, embeds = latent(40, batch=2), encode_prompt(model, [""], ROOMY)
    one_by_one = denoise(model, z, embeds, planned(model, 40, ROOMY, tile=16, overlap=4), Runtime())
    plan = planned(offloaded, 40, machine(2**50, room_for(offloaded, 4, 16, 40)), tile=16, overlap=4)
    sizes = batches(monkeypatch, model, lambda count, side: count <= 2 or len(sizes) == 1)
    seen = []
    with caplog.at_level(logging.WARNING):
        out = denoise(offloaded, z, embeds, plan, machine(progress=lambda *at: seen.append(at)))
    again = [2, 2, 2, 2, 1]
    assert [count for count, *_ in sizes] == [4, 4, *again, 4, *again]  # once for each image
    assert {tuple(shape) for _, *shape in sizes} == {(16, 16)}
    assert (out - one_by_one).abs().max() <= TILES_GATE * (1 + one_by_one.abs().max())
    assert [r.getMessage() for r in caplog.records] == [
        "memory ran out with tiles of 16 latent pixels for the UNet, 4 at once; going on with tiles of 16 "
        "latent pixels for the UNet, 2 at once"
    ] * 2
    first, second = [*range(1, 5), *range(1, 10)], [*range(10, 19)]
    assert [done for done, _ in seen] == first + second
    assert seen[-1] == (18, 18)


def test_a_tile_that_does_not_fit_is_halved_down_to_a_floor(model, machine, monkeypatch, caplog):
    z, embeds = latent(70, batch=2), encode_prompt(model, [""], ROOMY)
    sizes = batches(monkeypatch, model, lambda count, side: side <= 35)
    seen, plan = [], planned(model, 70, ROOMY, tile=70, overlap=4)
    with caplog.at_level(logging.WARNING):
        out = denoise(model, z, embeds, plan, machine(progress=lambda *at: seen.append(at)))
    assert out.shape == z.shape
    assert out.isfinite().all()
    assert sizes[0][1:] == (70, 70)
    assert sizes[1][1:] == (35, 35)
    assert caplog.records[0].getMessage() == (
        "memory ran out with tiles of 70 latent pixels for the UNet; going on with tiles of 35 latent pixels "
        "for the UNet"
    )
    assert max(done for done, _ in seen) == seen[-1][1] == 2
    batches(monkeypatch, model, lambda count, side: False)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        denoise(model, z, embeds, plan, Runtime())


@pytest.mark.parametrize(
    ("cut", "sides"), [({"tile": "off"}, [None, 100, 50]), ({"tile": 96}, [96, 48]), ({"tile": 40}, [40])]
)
def test_smaller_tiles_overlap_by_a_third_at_most(model, cut, sides):
    tiles = planned(model, 200, ROOMY, overlap=32, **cut).denoise
    assert [way.side for way in tiles] == sides
    assert tiles[0].overlap == 32
    assert all(way.overlap == min(32, way.side // 3) for way in tiles[1:])


def test_parts_of_a_batch_are_the_single_run(model):
    lq, seen = image(8, 10, batch=5), []
    whole = restore(model, lq, scale=2, progress=lambda *at: seen.append(at))
    assert seen == [(i, len(seen)) for i in range(1, len(seen) + 1)]
    for count in (1, 2):
        assert torch.equal(torch.cat([restore(model, part, scale=2) for part in lq.split(count)]), whole)


def test_a_batch_takes_the_memory_of_one_image_beside_its_result(model):
    peaks = []
    for count in (2, 6):
        lq = image(16, 16, batch=count)
        with Alive() as alive:
            out = restore(model, lq)
        peaks.append(alive.peak - out.nbytes)
    assert peaks[1] <= 1.02 * peaks[0] + image(16, 16, batch=4).nbytes


def test_an_interrupted_run_frees_what_it_took(model):
    class CancelError(Exception):
        pass

    def cancel(done, total):
        if done == total - 2:  # where pictures are at their largest
            raise CancelError

    lq = image(24, 24)
    with Alive() as alive:
        with suppress(CancelError):  # pytest.raises would hold the frames
            restore(model, lq, vae=32, progress=cancel)
            pytest.fail("it was not interrupted")
        gc.collect()
        assert alive.peak > 20 * alive.now


@pytest.mark.parametrize(("height", "width"), [(20000, 20000), (100000, 3000)])
def test_what_no_machine_holds_is_refused_with_the_memory_it_takes(model, machine, height, width):
    huge = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(1, 3, height, width)
    words = r"takes \d+\.\d GiB of memory, of which 8\.0 GiB are free: does not fit; take a smaller scale"
    with Alive() as alive, pytest.raises(OSEDiffError, match=words):
        restore(model, huge, runtime=machine(8 * GIB))
    assert alive.peak < 2**20


@pytest.mark.parametrize(("height", "width"), [(1, 900), (900, 1)])
def test_a_line_of_pixels_is_restored(model, height, width):
    out = restore(model, image(height, width), scale=1)
    assert out.shape == (1, 3, height, width)
    assert out.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(1, 20000), (20000, 1)])
def test_the_demo_restores_a_line_of_20000_pixels(height, width):
    demo = OSEDiff.from_pretrained(device="cpu", dtype="float32")
    lq = image(height, width)
    out = restore(demo, lq, vae=256)
    assert out.shape == (1, 3, 4 * height, 4 * width)
    assert (out.mean() - lq.mean()).abs() < 0.02  # a picture, and the right one


def test_20000_by_20000_is_refused_by_the_memory_of_this_machine(model):
    huge = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(1, 3, 20000, 20000)
    free = free_memory(CPU)
    if free is None or free > 2**40:
        pytest.skip("this machine does not say what is free, or could hold it")
    with pytest.raises(OSEDiffError) as refused:
        restore(model, huge)
    said = re.match(r"80000 x 80000 in \d+ tiles, .*, takes (\d+\.\d) GiB of memory, of", str(refused.value))
    assert float(said[1]) > 4 * 3 * 80000**2 / GIB  # the result alone


def test_steps_take_the_plan_too(model, machine):
    x, embeds = image(32, 40), encode_prompt(model, [""], ROOMY)
    cut, whole = (make_plan(model, 32, 40, vae=vae, runtime=ROOMY) for vae in (32, "whole"))
    z = encode(model, x, cut, Runtime())
    assert (z - encode(model, x, whole, Runtime())).abs().max() <= GATE
    assert not torch.equal(z, encode(model, x, whole, Runtime()))
    assert (decode(model, z, cut, Runtime()) - decode(model, z, whole, Runtime())).abs().max() <= GATE
    beats = []
    runtime = machine(progress=lambda *at: beats.append(at))
    runtime.total = cut.steps
    for step in (encode, lambda *rest: denoise(*rest[:2], embeds, *rest[2:]), decode):
        x = step(model, x, cut, runtime)
    assert set(beats) == {(done, cut.steps) for done in range(cut.steps + 1)}
    assert len(beats) > 1.5 * cut.steps  # some stages have several pieces
    assert beats[-1] == (cut.steps, cut.steps)


def test_a_step_goes_by_its_plan_and_not_by_what_is_free(model, machine):
    """What was decided and shown is what is done."""
    x, plan = image(32, 40), make_plan(model, 32, 40, runtime=machine(GIB))
    whole = encode(model, x, plan, machine(GIB))
    assert torch.equal(encode(model, x, plan, machine(0)), whole)
    pieces = replace(plan, encode=[VAEPlan(32)])
    cut = encode(model, x, pieces, machine(GIB))
    assert not torch.equal(cut, whole)
    assert (cut - whole).abs().max() <= GATE
