"""Descriptions by a vision-language model: a tiny random one, made here and read from its folder."""

import pytest
import torch
import transformers

from osediff_core import OSEDiffError
from osediff_core.prompts.captioner import Captioner

pytestmark = pytest.mark.skipif(
    not hasattr(transformers, "AutoModelForImageTextToText"),
    reason="transformers before 4.46 knows none",
)
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %} answer"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """LLaVA's classes, as the paper's Table 4 uses them, with two layers of width 16."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "answer", *(f"word{i}" for i in range(26))]
    model = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, additional_special_tokens=["<image>"], **special
    )
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**small, image_size=28, patch_size=14, projection_dim=16)
    text = LlamaConfig(**small, vocab_size=len(words), pad_token_id=0, bos_token_id=1, eos_token_id=2)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, vision_feature_layer=-1)
    size = {"height": 28, "width": 28}
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)
    processor = LlavaProcessor(
        images, tokenizer, patch_size=14, chat_template=TEMPLATE, vision_feature_select_strategy="default"
    )
    processor.num_additional_image_tokens = 1
    place = tmp_path_factory.mktemp("vlm")
    LlavaForConditionalGeneration(config).save_pretrained(place)
    processor.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def captioner(folder):
    return Captioner.from_pretrained(folder, device="cpu", dtype="float32")


@pytest.fixture
def pictures():
    return torch.randint(
        0, 256, (2, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def test_each_image_is_described_the_same_every_time(captioner, pictures):
    both = captioner(pictures)
    assert len(both) == 2
    assert both == [*captioner(pictures[:1]), *captioner(pictures[1:])]
    assert all(both)
    assert not any("<" in text or "answer" in text.split()[:1] for text in both)  # the question is no answer


def test_the_description_comes_from_the_picture(captioner, pictures):
    texts = {captioner(torch.full_like(pictures[:1], level))[0] for level in (0, 90, 180, 255)}
    assert len(texts) > 1


def test_the_users_text_comes_after(captioner, pictures):
    (plain,) = captioner(pictures[:1])
    assert captioner(pictures[:1], "a photo") == [f"{plain}, a photo"]
    assert captioner(pictures[:1].float() / 255, "", 2.0) == [plain]


@pytest.mark.parametrize("source", ["nowhere/at-all", "x"])
def test_a_model_that_is_not_here_is_not_downloaded(source):
    with pytest.raises(OSEDiffError, match="hf download"):
        Captioner.from_pretrained(source, device="cpu")


def test_a_folder_with_another_kind_of_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(OSEDiffError, match="no image-text-to-text model"):
        Captioner.from_pretrained(tmp_path, device="cpu")
