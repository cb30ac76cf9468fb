"""`osediff IN OUT --plan` says what each picture would take, and touches nothing."""

from osediff_core.commands.cli import main
from osediff_core.pipeline.runtime import Runtime


def test_every_picture_gets_a_sentence_and_nothing_is_written(
    picture, tree, micro_options, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    picture("in/a.png", (13, 9))
    picture("in/b.png", (7, 20))
    before = tree()
    status = main(["in", "out", "--plan", "--scale", "2", "--quiet", *micro_options])
    out = capsys.readouterr().out.splitlines()
    assert status == 0
    assert tree() == before
    assert [line.split(" in one tile")[0] for line in out] == ["in/a.png: 26 x 18", "in/b.png: 14 x 40"]
    assert all(line.endswith(": fits") for line in out)


def test_what_does_not_fit_and_what_cannot_be_read_make_the_status(
    picture, micro_options, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    picture("in/a.png", (13, 9))
    (tmp_path / "in" / "b.png").write_bytes(b"no picture")
    options = ["in", "out", "--plan", "--quiet", *micro_options]
    assert main(options) == 1
    said = capsys.readouterr()
    assert "in/a.png: 52 x 36" in said.out
    assert "b.png is not a picture" in said.err
    (tmp_path / "in" / "b.png").unlink()
    assert main(options) == 0
    monkeypatch.setattr(Runtime, "free_memory", lambda self, device: 2**20)
    assert main(options) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("of which 0.0 GiB are free: does not fit")
