"""What the model is told: joining, cutting, escaping; pure functions of text."""

import pytest
import torch

from osediff_core.prompts import text as prompts


def words(text):
    return len(text.replace(",", " , ").split())


def test_tags_are_joined_as_published():
    assert prompts.join_tags(["cat", "dog"]) == "cat, dog, ,"
    assert prompts.join_tags(["cat", "dog"], "a photo") == "cat, dog, a photo,"
    assert prompts.join_tags([], "a photo") == ", a photo,"


def test_plain_text_is_the_users_for_every_image():
    assert prompts.plain_text(torch.zeros(3, 3, 4, 4), "a cat") == ["a cat"] * 3
    assert prompts.plain_text(torch.zeros(1, 3, 4, 4)) == [""]


@pytest.mark.parametrize("texts", [["a"], ["a", "b"], ["cat, dog, ,", "", "x"], ["one\ntwo"], [""]])
def test_prompts_of_a_batch_come_apart_as_they_were(texts):
    assert prompts.split_prompts(prompts.join_prompts(texts)) == texts


@pytest.mark.parametrize("text", ["", "a\nb", "a --- b", "a\n\n----\nb", "--"])
def test_only_a_line_of_three_dashes_parts_prompts(text):
    assert prompts.split_prompts(text) == [text]


def test_prompts_typed_by_hand_come_apart():
    assert prompts.split_prompts("a cat\n --- \na dog\n---\n") == ["a cat", "a dog", ""]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7])
def test_a_prompt_is_cut_between_words(limit):
    prompt = "grand piano, cat,  dog, ,"
    kept, note = prompts.cut_prompt(prompt, words, limit)
    assert prompt.startswith(kept)
    assert words(kept) <= limit
    assert note.startswith(f"cut after {limit} tokens, before ")


def test_a_prompt_that_fits_is_left_alone():
    assert prompts.cut_prompt("cat,  dog, ,", words, 5) == ("cat,  dog, ,", "")
    assert prompts.cut_prompt("cat, dog, ,", words, 4) == (
        "cat, dog,",
        "cut after 4 tokens, before ',', 1 of 3 words",
    )


def test_the_cut_prompt_is_what_the_encoder_reads(model):
    """Cutting keeps the tokens that the model's own encoder keeps, up to the word that it breaks."""
    prompt = ", ".join(f"word{i}" for i in range(60))
    kept, note = prompts.cut_prompt(prompt, prompts.token_counter(model.tokenizer))
    ids = model.tokenizer(prompt, truncation=True, max_length=77).input_ids[1:-1]
    cut = model.tokenizer(kept).input_ids[1:-1]
    assert note
    assert 60 < len(cut) <= 75
    assert ids[: len(cut)] == cut


def test_parentheses_are_escaped_for_stock_nodes_only_once_each():
    assert prompts.escape_parentheses("crane (bird), (a)") == r"crane \(bird\), \(a\)"
    assert prompts.escape_parentheses("no need") == "no need"


def test_words_by_commas_and_lines():
    assert prompts.split_words(" cat, ,dog\n red car ,") == ["cat", "dog", "red car"]
    assert prompts.split_words("") == []
