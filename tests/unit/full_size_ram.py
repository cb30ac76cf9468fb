"""Names and shapes of RAM's and DAPE's files at full size, as their code makes them; no weights."""

from osediff_core.ram import HEAD, SWIN, TagConfig, expected_shapes

FULL = TagConfig(
    embed=192,
    depths=(2, 2, 18, 2),
    heads=(6, 12, 24, 48),
    window=12,
    width=512,
    hidden=768,
    ffn=3072,
    layers=2,
    tags=4585,
)
VOCABULARY, BERT_LAYERS = 30524, 12
RANK = 8


def ram_shapes():
    """RAM: what tagging needs, the tables of its windows, and the two networks for captions."""
    return {
        **expected_shapes(FULL),
        **_tables(),
        **_bert("tag_encoder.", 512),
        **_bert("text_decoder.bert.", 768),
        "text_decoder.cls.predictions.bias": (VOCABULARY,),
        **_pair("text_decoder.cls.predictions.transform.dense", 768, 768),
        **_pair("text_decoder.cls.predictions.transform.LayerNorm", 768),
        **_pair("text_decoder.cls.predictions.decoder", VOCABULARY, 768),
    }


def dape_shapes():
    """DAPE: low-rank pairs on queries and keys, and in the Swin transformer on queries and values."""
    shapes = {}
    for stage, depth in enumerate(FULL.depths):
        dim = FULL.embed * 2**stage
        for block in range(depth):
            name = f"{SWIN}.layers.{stage}.blocks.{block}.attn.qkv"
            shapes |= {f"{name}.lora_A": (2 * RANK, dim), f"{name}.lora_B": (2 * dim, RANK)}
    for prefix, width in (("tag_encoder.", 512), ("text_decoder.bert.", 768)):
        for layer in range(BERT_LAYERS):
            shapes |= _lora(f"{prefix}encoder.layer.{layer}.attention.self", 768)
            shapes |= _lora(f"{prefix}encoder.layer.{layer}.crossattention.self", width)
    for layer in range(FULL.layers):
        shapes |= _lora(f"{HEAD}.{layer}.crossattention.self", 512)
    return shapes


def _pair(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _lora(name, key_width):
    return {
        f"{name}.query.lora_A": (RANK, 768),
        f"{name}.query.lora_B": (768, RANK),
        f"{name}.key.lora_A": (RANK, key_width),
        f"{name}.key.lora_B": (768, RANK),
    }


def _tables():
    tokens = FULL.window**2
    shapes = {}
    for stage, depth in enumerate(FULL.depths):
        windows = (FULL.image_size // 4 // 2**stage // FULL.window) ** 2
        for block in range(depth):
            name = f"{SWIN}.layers.{stage}.blocks.{block}"
            shapes[f"{name}.attn.relative_position_index"] = (tokens, tokens)
            if block % 2 and windows > 1:  # every second block shifts its windows
                shapes[f"{name}.attn_mask"] = (windows, tokens, tokens)
    return shapes


def _bert(prefix, key_width):
    shapes = {
        f"{prefix}embeddings.position_ids": (1, 512),
        f"{prefix}embeddings.word_embeddings.weight": (VOCABULARY, 768),
        f"{prefix}embeddings.position_embeddings.weight": (512, 768),
        **_pair(f"{prefix}embeddings.LayerNorm", 768),
    }
    for layer in range(BERT_LAYERS):
        name = f"{prefix}encoder.layer.{layer}"
        for attention, width in (("attention", 768), ("crossattention", key_width)):
            shapes |= _pair(f"{name}.{attention}.self.query", 768, 768)
            shapes |= _pair(f"{name}.{attention}.self.key", 768, width)
            shapes |= _pair(f"{name}.{attention}.self.value", 768, width)
            shapes |= _pair(f"{name}.{attention}.output.dense", 768, 768)
            shapes |= _pair(f"{name}.{attention}.output.LayerNorm", 768)
        shapes |= _pair(f"{name}.intermediate.dense", 3072, 768)
        shapes |= _pair(f"{name}.output.dense", 768, 3072)
        shapes |= _pair(f"{name}.output.LayerNorm", 768)
    return shapes
