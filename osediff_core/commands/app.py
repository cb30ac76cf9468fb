"""`osediff app`: a page in the browser, for this machine alone, that restores a picture or a folder.

A border over `restore_files`, so that the result is what the command line makes with the same settings.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..choices import COLORS, DTYPES, MOST_DETAIL, OFFLOADS
from ..errors import OSEDiffError
from ..pictures.jobs import Job, Rules, find_jobs
from ..pictures.naming import Naming
from ..sizes import DEFAULT_SCALE, Size
from .console import DONE, answer, command_parser, show

if TYPE_CHECKING:
    from torch import Tensor

    from ..model import OSEDiff
    from ..prompts.tagger import Tagger

HERE, LARGEST_SCALE = "127.0.0.1", 8
Report = Callable[..., object]  # gradio's progress, called with (done, total) and words
Done = Iterator[tuple[Job, "str | None"]]


def main(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C, and return the exit status."""
    parser = command_parser("app", "Restore pictures on a page in the browser (pip install osediff[app]).")
    add = parser.add_argument
    add("--base", metavar="BASE", help="as for restoring (default, without --weights, the demo)")
    add("--weights", metavar="FILE", help="the checkpoint, such as osediff.pkl")
    add("--vocabulary", metavar="FOLDER", help="of a base in one file: where vocab.json and merges.txt are")
    add("--decoder", metavar="FILE", help="in the place of the base's: a lighter one (sd21_lwdecoder.pth)")
    add("--tagger", metavar="FILE", help="a file of osediff convert-dape, which suggests prompts")
    add("--device", default="auto", help="auto, cpu, cuda, mps, xpu (default auto)")
    add("--dtype", choices=("auto", *DTYPES), default="auto", help="default auto")
    add("--offload", choices=OFFLOADS, default="none", help="parts: on the device only while needed")
    add("--port", type=int, default=7860, metavar="N", help="of the page (default 7860)")
    add("--listen", metavar="ADDRESS", help=f"for other machines, too, without the folder (default {HERE})")
    args = parser.parse_args(argv)
    return answer(lambda: _serve(args), args.quiet)


def _serve(args: argparse.Namespace) -> int:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # it would ask the network at every start
    try:
        gr: Any = import_module("gradio")
    except ModuleNotFoundError as error:
        raise OSEDiffError("the page needs gradio: pip install osediff[app]") from error
    from ..model import OSEDiff
    from ..prompts.tagger import Tagger

    device = {"dtype": args.dtype, "device": args.device}
    more = device | {name: getattr(args, name) for name in ("vocabulary", "decoder", "offload")}
    tagger = Tagger.from_pretrained(args.tagger, **device) if args.tagger else None
    model = OSEDiff.from_pretrained(args.base, args.weights, **more)
    show(f"http://{args.listen or HERE}:{args.port} (Ctrl-C ends it)")
    with tempfile.TemporaryDirectory(prefix="osediff-app-") as folder:
        built = page(gr, Session(model, tagger, Path(folder)), folders=args.listen is None)
        # Gradio's other themes fetch their letters from the network.
        theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        place = {"server_name": args.listen or HERE, "server_port": args.port, "quiet": True}
        built.queue(default_concurrency_limit=1).launch(footer_links=[], theme=theme, **place)
    return DONE


def _pixels(path: str | Path) -> Tensor:
    from ..pictures.images import read_image  # with torch, which --help does without

    return read_image(path).rgb  # (1, 3, H, W)


class Session:
    """What the page does with one model, one thing at a time. dials: scale, detail, colour, prompt."""

    def __init__(self, model: OSEDiff, tagger: Tagger | None, folder: Path) -> None:
        self.model, self.tagger, self.folder = model, tagger, folder
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End what is being done, within a stage."""
        self._stopped.set()

    def plan(self, path: str | None, scale: float) -> str:
        """Say what a picture would take."""
        from ..pipeline.plan import make_plan
        from ..pipeline.runtime import Runtime

        if not path:
            return ""
        try:
            height, width = _pixels(path).shape[-2:]
            return str(make_plan(self.model, height, width, runtime=Runtime(), scale=scale))
        except OSEDiffError as error:
            return str(error)

    def tags(self, path: str | None, prompt: str, scale: float) -> str:
        """Return a prompt for a picture, with the words of one."""
        return self.tagger(_pixels(path), prompt, scale)[0] if self.tagger and path else prompt

    def picture(self, path: str | None, dials: Sequence[Any], report: Report) -> tuple[Any, str]:
        """Restore a picture; return it before and after, (H, W, 3) uint8 each, and the file of the result."""
        if not path:
            raise OSEDiffError("there is no picture yet: choose one first")
        name = Naming(template="{stem}_x{scale}", settings={"scale": f"{dials[0]:g}"}).of(Path(path))
        job = Job(Path(path), self.folder / name)
        for _, reason in self._restored([job], dials, report):
            if reason is not None:
                raise OSEDiffError(reason)
        before, after = (_pixels(p)[0].permute(1, 2, 0).numpy() for p in (job.source, job.target))
        return (before, after), str(job.target)

    def files(self, source: str, target: str, dials: Sequence[Any], report: Report) -> Iterator[str]:
        """Restore a folder, and say again and again how far it is."""
        if not source or not target:
            raise OSEDiffError("expected a folder of pictures and one for the results: name both")
        jobs = find_jobs(source, target, Rules())
        lines = [f"{len(jobs.todo)} to restore, {jobs.already} there already"]
        yield lines[0]
        try:
            for job, reason in self._restored(jobs.todo, dials, report):
                lines.append(f"{job.source.name}: {reason or f'wrote {job.target}'}")
                yield "\n".join(lines)
            yield "\n".join([*lines, "done"])
        except OSEDiffError as error:  # what was done stays on the page
            yield "\n".join([*lines, str(error)])

    def _restored(self, jobs: Sequence[Job], dials: Sequence[Any], report: Report) -> Done:
        from .restore_files import Settings, restore_files

        self._stopped.clear()
        scale, detail, color, prompt = dials
        settings = Settings(Size(value=scale), prompt, color, detail=detail)

        def begin(job: Job) -> Callable[[int, int], None]:
            def advance(done: int, total: int) -> None:
                if self._stopped.is_set():
                    raise KeyboardInterrupt  # as Ctrl-C does: what is restored is written
                report((done, total), desc=job.source.name, unit="parts")

            return advance

        try:
            yield from restore_files(self.model, jobs, settings, begin)
        except KeyboardInterrupt:
            raise OSEDiffError("cancelled") from None


def page(gr: Any, work: Session, *, folders: bool) -> Any:  # noqa: ANN401
    """Return the page, made with gradio. folders: whether it may use folders of this machine."""

    def said(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
        try:
            return function(*arguments)
        except OSEDiffError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def picture(path: str | None, *dials: object, progress: Any = gr.Progress()) -> object:  # noqa: ANN401, B008
        return said(work.picture, path, dials, progress)

    def files(one: str, two: str, *dials: object, progress: Any = gr.Progress()) -> Iterator[str]:  # noqa: ANN401, B008
        steps = work.files(one, two, dials, progress)
        while (lines := said(next, steps, None)) is not None:
            yield lines

    with gr.Blocks(title="OSEDiff") as blocks:
        gr.Markdown("# OSEDiff\nRestores and enlarges photographs, in one step of diffusion.")
        with gr.Accordion("Settings"), gr.Row():
            scale = gr.Slider(1, LARGEST_SCALE, DEFAULT_SCALE, step=0.5, label="Scale", min_width=200)
            detail = gr.Slider(0, MOST_DETAIL, 1, step=0.05, label="Detail", min_width=200)
            color = gr.Radio(list(COLORS), value=COLORS[0], label="Match colours by", min_width=200)
            prompt = gr.Textbox(label="Prompt: what it shows", lines=1, max_lines=3, min_width=200)
        dials = [scale, detail, color, prompt]
        with gr.Tab("Picture"):
            source = gr.File(label="Picture", type="filepath", file_types=["image"], height=120)
            plan = gr.Textbox(label="Plan", interactive=False, lines=1, max_lines=4)
            with gr.Row():
                start, stop = gr.Button("Restore", variant="primary"), gr.Button("Cancel")
                tag = gr.Button("Suggest a prompt", visible=work.tagger is not None)
            slider = gr.ImageSlider(label="Before and after", format="png", interactive=False)
            result = gr.DownloadButton("Download the result")
        gr.on([source.change, scale.change], work.plan, [source, scale], plan)
        tag.click(lambda *a: said(work.tags, *a), [source, prompt, scale], prompt, concurrency_id="model")
        start.click(picture, [source, *dials], [slider, result], concurrency_id="model")
        stop.click(work.stop, queue=False)
        if folders:
            with gr.Tab("Folder"):
                place = gr.Textbox(label="Folder of pictures")
                out = gr.Textbox(label="Folder of results, another one")
                with gr.Row():
                    begin, end = gr.Button("Restore all", variant="primary"), gr.Button("Cancel")
                log = gr.Textbox(label="Results", lines=8, interactive=False)
            begin.click(files, [place, out, *dials], log, concurrency_id="model")
            end.click(work.stop, queue=False)
    return blocks
