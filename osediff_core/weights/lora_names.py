"""The names that programs give to the tensors of a LoRA, and this project's own for them.

unet.mid_block.attentions.0.proj_in.lora_A.weight                          this project, diffusers
base_model.model.mid_block.attentions.0.proj_in.lora_A.default.weight      peft, with an adapter's name
lora_unet_mid_block_attentions_0_proj_in.lora_down.weight                  kohya, with an ".alpha" beside
state_dict_unet.mid_block.attentions.0.proj_in.lora_A.default.weight       the published training
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..lora import A, B

PEFT = "base_model.model."
PARTS = {"state_dict_unet.": "unet", "state_dict_vae.": "vae", "unet.": "unet", "vae.": "vae"}
KOHYA = {"lora_unet_": "unet", "lora_vae_": "vae"}
ALPHA = ".alpha"
_PAIR = re.compile(r"\.(?:lora_(A|B|down|up)|lora(?:_linear_layer)?\.(down|up))(?:\.[^.]+)?\.weight$")
# Words with an underscore in the names of modules: in kohya's names the dots are underscores, too.
_WORDS = re.compile(
    "(?:down|up|mid|transformer)_blocks?|(?:post_)?quant_conv|time_emb_proj|time_embedding|linear_[12]"
    "|conv_(?:in|out|shortcut|norm_out)|to_(?:q|k|v|out)|proj_(?:in|out)|add_[kqv]_proj|[^_]+"
)


@dataclass(frozen=True)
class LoraName:
    """part: "unet", "vae" or "", where the name does not say it. module: of the network. kind: `A`, `B`,
    `ALPHA`, or "" where the tensor is a parameter itself, which is then `module`.
    """

    part: str
    module: str
    kind: str


def read_name(key: str) -> LoraName:
    """Return what the key of a tensor means, in whichever of the ways it is spelled."""
    name, part = key.removeprefix(PEFT), ""
    for prefix, meant in PARTS.items():
        if not part and name.startswith(prefix):
            name, part = name.removeprefix(prefix), meant
    name = name.removeprefix(PEFT)
    pair = _PAIR.search(name)
    if pair is not None:
        module, kind = name[: pair.start()], A if (pair[1] or pair[2]) in ("A", "down") else B
    else:
        module = name.removesuffix(ALPHA)
        kind = ALPHA if module != name else ""
    for prefix, meant in KOHYA.items():
        if module.startswith(prefix):
            flat, dot, rest = module.removeprefix(prefix).partition(".")
            module, part = ".".join(_WORDS.findall(flat)) + dot + rest, meant
    return LoraName(part, module.replace(".base_layer.", "."), kind)
