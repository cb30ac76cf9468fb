"""Kill a run again and again, resume it each time, and compare its end with one that was never interrupted.

python tests/train/kill_and_resume.py --processes 2 --workers 2 --kills 3
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
CONFIG = """
[model]
base = "{root}/tests/golden_micro/tiny_sd"
[data]
sources = ["{folder}/pictures"]
crop = 64
[loss]
perceptual = "gradient"
[optim]
learning_rate = 1e-3
warmup_steps = 5
ema_decay = 0.9
[run]
out = "{out}"
steps = {steps}
batch_size = 1
workers = {workers}
checkpoint_every = 2
sample_every = 0
tracker = "none"
device = "cpu"
"""


def leaves(value, name=""):
    """Flatten nested dictionaries and lists to (name, leaf)."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from leaves(inner, f"{name}/{key}")
    else:
        yield name, value


def differences(one, other, but=("config", "random", "checksum")):
    """Name what differs, to the bit, between two states; places and the global random states aside."""

    def flat(state):
        return dict(leaves({key: value for key, value in state.items() if key not in but}))

    def same(x, y):
        return torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y

    a, b = flat(one), flat(other)
    return sorted(k for k in a.keys() | b.keys() if k not in a or k not in b or not same(a[k], b[k]))


def write_pictures(folder):
    """Make three random pictures, 80 x 96 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(3):
        levels = torch.randint(256, (80, 96, 3), generator=torch.Generator().manual_seed(seed))
        Image.fromarray(levels.byte().numpy()).save(folder / f"{seed}.png")


def command(config, processes, *more):
    """Give the command line of a run."""
    launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
    return [sys.executable, *launch, "-m", "train", str(config), *more]


def environment():
    """Let every process compute on one thread, wherever we are."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def kill_after(arguments, out, steps, chance):
    """Run until a state later than now is there and a random while longer, then kill every process of it."""
    had = {path.name for path in out.glob("state_*.pt")}
    run = subprocess.Popen(
        arguments, cwd=ROOT, env=environment(), start_new_session=True, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    last = f"state_{steps:07d}.pt"
    while run.poll() is None and not {p.name for p in out.glob("state_*.pt")} - had:
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 1.5))
    children = subprocess.run(
        ["pgrep", "-s", str(run.pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
        for child in map(int, children):  # the launcher's workers have groups of their own
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
    run.wait()
    return (out / last).exists()


def main(argv=None):
    """Do it, and return 0 if the ends are equal to the bit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("processes", 1), ("workers", 1), ("steps", 12), ("kills", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args(argv)
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder, ends = Path(name), []
        write_pictures(folder / "pictures")
        for which in ("whole", "killed"):
            out, config = folder / which, folder / f"{which}.toml"
            config.write_text(
                CONFIG.format(root=ROOT, folder=folder, out=out, steps=args.steps, workers=args.workers)
            )
            arguments = command(config, args.processes, "--run.resume", "True")
            kills = 0
            while (
                which == "killed"
                and kills < args.kills
                and not kill_after(arguments, out, args.steps, chance)
            ):
                kills += 1
                steps = sorted(path.stem for path in out.glob("state_*.pt"))
                print(f"killed, the newest state is {steps[-1] if steps else 'none'}", flush=True)
            subprocess.run(arguments, cwd=ROOT, env=environment(), check=True, capture_output=True)
            ends.append(torch.load(out / f"state_{args.steps:07d}.pt", weights_only=True))
        different = differences(*ends)
        print(f"killed {kills} times; {len(list(leaves(ends[0])))} values compared, {len(different)} differ")
        return int(bool(different) or kills == 0)


if __name__ == "__main__":
    sys.exit(main())
