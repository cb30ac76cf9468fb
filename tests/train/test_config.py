"""Configuration files: what they say, what is refused, and how."""

from dataclasses import replace
from pathlib import Path

import pytest

from osediff_core import OSEDiffError
from train.__main__ import main
from train.config import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    MAY_BE_INFINITE,
    PUBLISHED_NEGATIVE_PROMPT,
    SHARES,
    LossConfig,
    OptimConfig,
    TrainConfig,
    _numbers,
    read_config,
    to_toml,
)

CONFIGS = Path(__file__).parents[2] / "train" / "configs"
OSEDIFF = sorted(path for path in CONFIGS.glob("*.toml") if not path.stem.endswith("_base"))


@pytest.fixture
def written(tmp_path):
    """Return a writer of configuration files."""

    def write(text):
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("path", OSEDIFF, ids=lambda path: path.stem)
def test_shipped_configurations_are_read_and_written_alike(path, written):
    config = read_config(TrainConfig, path)
    assert read_config(TrainConfig, written(to_toml(config))) == config


def test_published_settings():
    config = read_config(TrainConfig, CONFIGS / "paper" / "published.toml")
    assert config.loss == LossConfig(
        lambda_data=1.0,
        lambda_perceptual=2.0,
        lambda_vsd=1.0,
        perceptual="lpips",
        guidance=7.5,
        vsd_first_step=20,
        vsd_last_step=980,
        critic_updates=1,
    )
    assert config.optim == OptimConfig(5e-5, 1.0, 0.9, 0.999, 1e-2, 1e-8, 1.0, 0)
    assert (config.model.rank_unet, config.model.rank_vae, config.model.lora_alpha) == (4, 4, 8)
    assert (config.model.posterior, config.model.train_conv_in) == ("sample", True)
    assert config.model.negative_prompt == PUBLISHED_NEGATIVE_PROMPT
    assert (config.run.batch_size, config.run.steps, config.data.crop) == (16, 100_000, 512)


def test_defaults_are_the_published_settings_and_osediff_changes_the_critic_alone():
    shipped, default = read_config(TrainConfig, CONFIGS / "osediff.toml"), TrainConfig()
    assert shipped.loss == replace(default.loss, critic_updates=2)  # docs/training.md, when the curves swing
    assert (shipped.optim, shipped.degradation) == (default.optim, default.degradation)
    assert replace(shipped.model, base="", licence="") == default.model


def test_text_survives_the_round_trip(written):
    config = TrainConfig()
    config.model.prompt = 'a "quoted" \\ word,\nänd a second line'
    assert read_config(TrainConfig, written(to_toml(config))) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run]\nstepz = 3", ["run.stepz", "steps", "batch_size"]),
        ("[runs]\nsteps = 3", ["runs", "model", "degradation"]),
        ("[degradation.first]\nblur = 1.0", ["degradation.first.blur", "blur_prob"]),
        ('[run]\nsteps = "3"', ["run.steps", "int", "'3'"]),
        ("[run]\nsteps = true", ["run.steps", "int", "True"]),
        ("[run]\nsteps = 0", ["run.steps", "at least 1"]),
        ("[loss]\nlambda_tone = -1", ["loss.lambda_tone", "0 or more"]),
        ("[loss]\nguidance = nan", ["loss.guidance", "finite", "nan"]),
        ("[optim]\nlearning_rate = -1.0", ["optim.learning_rate", "above 0", "-1.0"]),
        ("[optim]\nlearning_rate = inf", ["optim.learning_rate", "finite", "inf"]),
        ("[optim]\nbeta1 = 1", ["optim.beta1", "at least 0 and below 1", "1.0"]),
        ("[optim]\nweight_decay = -1", ["optim.weight_decay", "0 or more"]),
        ("[optim]\nepsilon = 0", ["optim.epsilon", "above 0"]),
        ("[optim]\nwarmup_steps = -3", ["optim.warmup_steps", "0 or more"]),
        ("[run]\nsample_every = -1", ["run.sample_every", "0 or more"]),
        ("[data]\ncrop = 63", ["data.crop", "multiple of 8", "63"]),
        ("[model]\ntrain_conv_in = 1", ["model.train_conv_in", "bool"]),
        ('[loss]\nperceptual = "vgg"', ["loss.perceptual", "lpips", "gradient", "none", "vgg"]),
        ("[loss]\nvsd_first_step = 990", ["vsd_first_step", "990", "980"]),
        ("[data]\nsources = 3", ["data.sources", "list"]),
        ("[degradation]\nkernel_size = [7]", ["degradation.kernel_size", "2 values", "1"]),
        ("run = 3", ["`run`", "section"]),
        ("[run\nsteps = 3", ["not valid TOML"]),
    ],
)
def test_mistakes_are_named_in_a_sentence(written, text, words):
    with pytest.raises(OSEDiffError) as error:
        read_config(TrainConfig, written(text))
    assert [word for word in words if word not in str(error.value)] == []


def test_whole_numbers_serve_as_fractions(written):
    assert read_config(TrainConfig, written("[loss]\nguidance = 2")).loss.guidance == 2.0


def test_a_missing_file_is_a_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "none.toml")]) == 2
    said = capsys.readouterr().err
    assert "none.toml" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--run.steps", "3"], "configuration file comes first"),
        (["FILE", "--run.stepz", "3"], "--run.stepz"),
        (["FILE", "--run.steps", "x"], "--run.steps"),
    ],
)
def test_command_line_mistakes_end_with_status_2(written, capsys, arguments, said):
    path = str(written(""))
    try:
        status = main([path if a == "FILE" else a for a in arguments])
    except SystemExit as stop:  # tyro leaves so
        status = stop.code
    assert status == 2
    assert said in "".join(capsys.readouterr())


@pytest.mark.parametrize("written_as", ["false", "False"])
def test_command_line_overrides_the_file(written, monkeypatch, written_as):
    seen = []
    monkeypatch.setattr("train.engine.loop.train", lambda config: seen.append(config) or Path("weights"))
    path = written("[run]\nsteps = 7\nbatch_size = 3\n[data]\nsources = ['a']")
    arguments = ["--run.batch_size", "5", "--model.train_conv_in", written_as, "--data.sources", "b", "c"]
    assert main([str(path), *arguments]) == 0
    assert (seen[0].run.steps, seen[0].run.batch_size, seen[0].model.train_conv_in) == (7, 5, False)
    assert seen[0].data.sources == ("b", "c")


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("word", ["true", "false", "True", "None", "1"])
def test_a_word_means_what_its_key_wants(written, monkeypatch, word, joined):
    """Where text is wanted it stays as it was typed; where a boolean is, it is true or false."""
    seen = []
    monkeypatch.setattr("train.engine.loop.train", lambda config: seen.append(config) or Path("weights"))
    path = str(written("[run]\nresume = true"))

    def given(key):
        return [f"{key}={word}"] if joined else [key, word]

    assert main([path, *given("--run.out"), *given("--model.prompt"), "--data.sources", word, "b"]) == 0
    assert (seen[0].run.out, seen[0].model.prompt, seen[0].data.sources) == (word, word, (word, "b"))
    assert seen[0].run.resume is True
    if word in ("None", "1"):
        with pytest.raises(SystemExit) as stop:
            main([path, *given("--run.resume")])
        assert stop.value.code == 2
        return
    assert main([path, *given("--run.resume"), *given("--degradation.sharpen")]) == 0
    assert (seen[1].run.resume, seen[1].degradation.sharpen) == (word.lower() == "true",) * 2


def test_going_on_may_be_a_word_and_no_other(written, monkeypatch):
    seen = []
    monkeypatch.setattr("train.engine.loop.train", lambda config: seen.append(config) or Path("weights"))
    assert main([str(written('[run]\nresume = "changed"'))]) == 0
    assert main([str(written("")), "--run.resume", "changed"]) == 0
    assert [config.run.resume for config in seen] == ["changed", "changed"]
    assert read_config(TrainConfig, written(to_toml(seen[0]))) == seen[0]
    with pytest.raises(OSEDiffError, match="of type bool or one of 'changed', got 'chnged'"):
        read_config(TrainConfig, written('[run]\nresume = "chnged"'))
    with pytest.raises(OSEDiffError, match="got 1"):
        read_config(TrainConfig, written("[run]\nresume = 1"))


def test_help_shows_booleans_as_they_are_written(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "{true,false}" in said
    assert "True" not in said


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_of_any_editor(written, tmp_path, mark):
    (tmp_path / "below.toml").write_bytes(mark + b"[run]\r\nseed = 5\r\n")
    path = written("")
    path.write_bytes(mark + b'extends = "below.toml"\r\n[run]\r\nsteps = 7\r\n')
    config = read_config(TrainConfig, path)
    assert (config.run.steps, config.run.seed) == (7, 5)


def test_a_file_in_other_letters_says_which(written):
    path = written("")
    path.write_text("[run]", encoding="utf-16")
    with pytest.raises(OSEDiffError, match="is not valid TOML: it is UTF-16 text: save it as UTF-8"):
        read_config(TrainConfig, path)


def test_a_file_may_change_another(written, tmp_path):
    (tmp_path / "below.toml").write_text("[run]\nsteps = 7\nseed = 5\n[data]\nsources = ['a']")
    config = read_config(TrainConfig, written('extends = "below.toml"\n[run]\nsteps = 9'))
    assert (config.run.steps, config.run.seed, config.data.sources) == (9, 5, ("a",))


@pytest.mark.parametrize(
    ("other", "words"),
    [("config.toml", "extends itself"), ("absent.toml", "absent.toml"), (3, "name a file")],
)
def test_a_file_that_cannot_be_changed_is_named(written, other, words):
    with pytest.raises(OSEDiffError, match=words):
        read_config(TrainConfig, written(f"extends = {other!r}"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optim.learning-rate", "-1"], ["optim.learning_rate", "above 0"]),
        (["--data.crop", "63"], ["data.crop", "multiple of 8"]),
        (["--optim.learning-rat", "1e-4"], ["optim.learning-rat"]),
        (["--run.steps", "many"], ["run.steps", "many"]),
    ],
)
def test_a_mistake_on_the_command_line_is_named_before_anything_is_loaded(
    written, monkeypatch, capsys, arguments, words
):
    monkeypatch.setattr("train.__main__._train", lambda config: pytest.fail("it began"))
    try:
        status = main([str(written("")), *arguments])
    except SystemExit as ended:  # newer versions of tyro answer by themselves
        status = ended.code
    said = capsys.readouterr().err
    assert status == 2
    assert [word for word in words if word not in said] == []


def test_every_bound_is_on_a_key_that_there_is():
    known = {key for key, _ in _numbers(TrainConfig())}
    assert {*ABOVE_0, *AT_LEAST_0, *AT_LEAST_1, *SHARES, *MAY_BE_INFINITE} - known == set()


def test_clipping_may_be_left_out():
    assert TrainConfig(optim=OptimConfig(max_grad_norm=float("inf"))).optim.max_grad_norm == float("inf")
