"""Fuzz the readers of a base's configs: UNet, VAE, text encoder, schedule, and the mark of a merged one."""

from pathlib import Path

from target import refusable, run, watched

with watched():
    from osediff_core.base.load import DEMO_BASE
    from osediff_core.base.marker import read_marker
    from osediff_core.base.network import NetworkFiles, text_settings
    from osediff_core.diffusion import alphas_cumprod
    from osediff_core.network.config import UNetConfig, VAEConfig, read_config
    from osediff_core.text_files import read_settings
    from osediff_core.weights.recognise import name_of_config


def read(path: Path) -> None:
    """Read one file as each kind of config."""
    path.with_name("osediff.json").write_bytes(path.read_bytes())
    settings = read_settings(path)
    readers = (
        lambda: name_of_config(settings),
        lambda: read_config(UNetConfig, settings),
        lambda: read_config(VAEConfig, settings),
        lambda: text_settings(NetworkFiles("text_encoder", "it", settings, [])),
        lambda: alphas_cumprod(settings),
        lambda: read_marker(path.parent),
    )
    for reader in readers:
        refusable(reader)


if __name__ == "__main__":
    run(read, [file.read_bytes() for file in DEMO_BASE.glob("*/*config.json")], "config.json")
