"""A small stand-in for the parts of ComfyUI that the nodes use. It is NOT ComfyUI.

It lets schemas, `execute`, sizes and errors be tested where ComfyUI is not installed. What it accepts is what
ComfyUI 0.3.64, the oldest supported version, accepts: a schema field or an input argument that came later
raises TypeError here as it does there. `tests/e2e` compares it with the real `comfy_api` and runs the nodes
in a real server.
"""

from __future__ import annotations

import copy
import enum
import importlib.machinery
import os
import sys
import types
import weakref
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


class Input:
    """An input; the named arguments are those of 0.3.64."""

    def __init__(self, id, display_name=None, optional=False, tooltip=None, lazy=None, extra_dict=None):
        self.id, self.display_name, self.optional, self.tooltip = id, display_name, optional, tooltip


class Output:
    """An output."""

    def __init__(self, id=None, display_name=None, tooltip=None, is_output_list=False):
        self.id, self.display_name, self.tooltip = id, display_name, tooltip


def widget(*extra: str) -> type[Input]:
    """An input class with a widget, that takes the arguments `extra` besides those of every widget."""
    common = {"id", "display_name", "optional", "tooltip", "lazy", "default", "socketless"}

    class WidgetInput(Input):
        ARGUMENTS = frozenset({*common, *extra})

        def __init__(self, id, **arguments):
            unknown = set(arguments) - self.ARGUMENTS
            if unknown:
                raise TypeError(f"unexpected arguments {sorted(unknown)}")
            super().__init__(id, optional=arguments.get("optional", False), tooltip=arguments.get("tooltip"))
            self.arguments = arguments

    return WidgetInput


def comfy_type(name: str, input_class: type[Input] = Input) -> type:
    """A type as `io.Image`: its own Input and Output classes carry its name."""
    own = {"io_type": name}
    return type(
        name,
        (),
        {
            "io_type": name,
            "Input": type("Input", (input_class,), own),
            "Output": type("Output", (Output,), own),
        },
    )


NUMBER = ("min", "max", "step", "display_mode", "force_input")
TYPES = {
    "Combo": ("COMBO", widget("options", "control_after_generate", "upload", "image_folder", "remote")),
    "Int": ("INT", widget(*NUMBER, "control_after_generate")),
    "Float": ("FLOAT", widget(*NUMBER, "round")),
    "Boolean": ("BOOLEAN", widget("label_on", "label_off")),
    "String": ("STRING", widget("multiline", "placeholder", "dynamic_prompts", "force_input")),
    "Image": ("IMAGE", Input),
    "Mask": ("MASK", Input),
    "Latent": ("LATENT", Input),
    "Conditioning": ("CONDITIONING", Input),
    "Model": ("MODEL", Input),
    "Vae": ("VAE", Input),
}


class Hidden(str, enum.Enum):
    """What a node may ask for besides its inputs."""

    unique_id = "UNIQUE_ID"


@dataclass
class Schema:
    """The fields of 0.3.64, so that a later one raises TypeError."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_api_node: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False

    def validate(self) -> None:
        """Ids are unique."""
        twice = [name for name, count in Counter(put.id for put in self.inputs).items() if count > 1]
        if twice:
            raise ValueError(f"Input ids must be unique, but {twice} are not.")


class NodeOutput:
    """What `execute` returns."""

    def __init__(self, *args, ui=None, expand=None, block_execution=None):
        self.args, self.ui = args, ui


class ComfyNode:
    """A node class: `run` is how ComfyUI calls it, on a copy with the hidden inputs set."""

    hidden = None

    @classmethod
    def run(cls, **inputs: Any) -> NodeOutput:
        schema = cls.define_schema()
        schema.validate()
        unknown = set(inputs) - {put.id for put in schema.inputs}
        missing = {put.id for put in schema.inputs if not put.optional} - set(inputs)
        if unknown or missing:
            raise TypeError(f"unknown {unknown}, missing {missing}")
        copy = type(cls.__name__, (cls,), {"hidden": types.SimpleNamespace(unique_id="7")})
        with torch.inference_mode():  # as ComfyUI does
            return copy.execute(**inputs)


class PreviewText:
    """`ui.PreviewText`."""

    def __init__(self, value, **kwargs):
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        return {"text": (self.value,)}


class ComfyExtension:
    """The base class of packs."""


class InterruptProcessingException(BaseException):
    """As in current ComfyUI; in 0.3.64 it is an Exception."""


class ModelPatcher:
    """Stores what the real one is given, and needs a writable `device` on the model, as the real one does."""

    def __init__(self, model, load_device, offload_device, size=0, weight_inplace_update=False):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.size = size
        model.device = getattr(model, "device", None) or offload_device
        if not hasattr(model, "model_loaded_weight_memory"):
            model.model_loaded_weight_memory = 0

    def model_size(self):
        """The bytes of all weights."""
        self.size = self.size or sum(tensor.nbytes for tensor in self.model.state_dict().values())
        return self.size

    def loaded_size(self):
        """The bytes of those that are on the device now."""
        return self.model.model_loaded_weight_memory


def layers() -> types.SimpleNamespace:
    """Layers as ComfyUI's: they cast their weights to what they are given, if they are told to."""

    def casting(kind: type[torch.nn.Module]) -> type[torch.nn.Module]:
        class Casting(kind):
            comfy_cast_weights = False

            def forward(self, x):
                if not self.comfy_cast_weights:
                    return super().forward(x)
                plain = copy.copy(self)
                plain.__class__ = kind
                cast = {name: parameter.to(x.dtype) for name, parameter in self.named_parameters()}
                return torch.func.functional_call(plain, cast, x)

        return Casting

    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm)
    return types.SimpleNamespace(**{kind.__name__: casting(kind) for kind in kinds})


class Comfy:
    """The state that a test can set and read: where models are, what was loaded, shown and cancelled."""

    def __init__(self, models: Path) -> None:
        self.models = models
        self.folders: dict[str, tuple[list[str], set[str]]] = {}
        self.reset()

    def reset(self) -> None:
        """Forget what happened, and what a test changed."""
        self.loads: list[tuple[str, float]] = []  # what was brought in, and the room for it
        self.loaded: list[weakref.ref[ModelPatcher]] = []  # what is there now; the real one keeps no more
        self.device = torch.device("cpu")
        self.free = 8 * 2**30  # bytes on any device
        self.progress: list[tuple[int, int]] = []
        self.said: list[tuple[str, str]] = []
        self.cancel_after: int | None = None  # progress reports before Cancel is pressed
        self.folders.clear()  # the same dictionary, as the pack holds it
        self.folders["diffusers"] = ([str(self.models / "diffusers")], set())
        self.folders["checkpoints"] = ([str(self.models / "checkpoints")], {".safetensors", ".ckpt", ".pt"})

    def throw_if_interrupted(self) -> None:
        if self.cancel_after is not None and len(self.progress) >= self.cancel_after:
            raise InterruptProcessingException

    def modules(self) -> dict[str, types.ModuleType]:
        """The stand-ins by module name."""
        found = {
            "comfy": {},
            "comfy.lora": {},
            "comfy.model_management": self._model_management(),
            "comfy.model_patcher": {"ModelPatcher": ModelPatcher},
            "comfy.ops": {"pick_operations": lambda weight_dtype, compute_dtype: layers()},
            "comfy.utils": {"ProgressBar": self._progress_bar()},
            "comfy_api": {},
            "comfy_api.latest": {
                "ComfyExtension": ComfyExtension,
                "io": _io(),
                "ui": _namespace(PreviewText),
            },
            "folder_paths": self._folder_paths(),
            "server": {"PromptServer": types.SimpleNamespace(instance=self)},
        }
        return {name: _module(name, content) for name, content in found.items()}

    def send_progress_text(self, text: str, node_id: str) -> None:
        self.said.append((node_id, text))

    def _model_management(self) -> dict[str, Any]:
        cpu = torch.device("cpu")

        def load_models_gpu(models, memory_required=0, force_full_load=False) -> None:
            model = models[0].model
            self.loads.append((type(getattr(model, "held", model)).__name__, memory_required))
            for patcher in models:
                self.loaded = [ref for ref in self.loaded if ref() is not patcher]
                self.loaded.insert(0, weakref.ref(patcher))
                patcher.model.model_loaded_weight_memory = patcher.model_size()

        def loaded_models(only_currently_used=False) -> list[ModelPatcher | None]:
            return [ref() for ref in self.loaded]  # as there, None for one that is gone and left its weights

        def unet_dtype(device=None, model_params=0, supported_dtypes=(), weight_dtype=None) -> torch.dtype:
            return torch.float32

        return {
            "get_torch_device": lambda: self.device,
            "unet_offload_device": lambda: cpu,
            "text_encoder_device": lambda: self.device,
            "text_encoder_offload_device": lambda: cpu,
            "vae_device": lambda: self.device,
            "vae_offload_device": lambda: cpu,
            "get_free_memory": lambda device: self.free,
            "intermediate_device": lambda: cpu,
            "unet_dtype": unet_dtype,
            "unet_manual_cast": lambda weight_dtype, inference_device, supported_dtypes=(): None,
            "load_models_gpu": load_models_gpu,
            "loaded_models": loaded_models,
            "throw_exception_if_processing_interrupted": self.throw_if_interrupted,
        }

    def _progress_bar(self) -> type:
        comfy = self

        class ProgressBar:
            def __init__(self, total, node_id=None):
                self.total = total

            def update_absolute(self, value, total=None, preview=None):
                comfy.progress.append((value, total))

        return ProgressBar

    def _folder_paths(self) -> dict[str, Any]:
        def get_full_path(folder: str, name: str) -> str | None:
            places = (os.path.join(root, name) for root in self.folders[folder][0])
            return next((place for place in places if os.path.isfile(place)), None)

        def get_full_path_or_raise(folder: str, name: str) -> str:
            path = get_full_path(folder, name)
            if path is None:
                raise FileNotFoundError(f"Model in folder '{folder}' with filename '{name}' not found.")
            return path

        def get_filename_list(folder: str) -> list[str]:
            roots, suffixes = self.folders[folder]
            files = [path.relative_to(root) for root in map(Path, roots) for path in root.rglob("*")]
            return sorted({str(file) for file in files if file.suffix in suffixes})

        return {
            "models_dir": str(self.models),
            "folder_names_and_paths": self.folders,
            "get_folder_paths": lambda folder: self.folders[folder][0][:],
            "get_filename_list": get_filename_list,
            "get_full_path": get_full_path,
            "get_full_path_or_raise": get_full_path_or_raise,
        }


def _namespace(*members: type) -> types.SimpleNamespace:
    return types.SimpleNamespace(**{member.__name__: member for member in members})


def _io() -> types.SimpleNamespace:
    io = _namespace(Schema, NodeOutput, ComfyNode, Hidden)
    io.Custom = comfy_type
    for name, (io_type, input_class) in TYPES.items():
        setattr(io, name, comfy_type(io_type, input_class))
    return io


def _module(name: str, content: dict[str, Any]) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    module.__dict__.update(content)
    return module


def load_pack(root: Path, name: str = "osediff_pack") -> types.ModuleType:
    """Import the repository as ComfyUI imports a folder of custom_nodes: under a name of its own."""
    place = root / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, place, submodule_search_locations=[str(root)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
