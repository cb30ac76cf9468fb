"""ComfyUI's progress bar, its Cancel button, and the line of text on a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from comfy import model_management
from comfy.utils import ProgressBar
from server import PromptServer
from torch import nn


def progress_bar() -> Callable[[int, int], None]:
    """Return a callback for the core, (parts done, parts in all), that moves the running node's bar.

    It raises ComfyUI's own interruption when Cancel was pressed, so that a node stops after a tile or stage.
    """
    model_management.throw_exception_if_processing_interrupted()
    bar = ProgressBar(1)

    def report(done: int, total: int) -> None:
        model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return report


@contextmanager
def cancelled_between_layers(modules: Iterable[nn.Module | None]) -> Iterator[None]:
    """Heed Cancel before every layer of the modules."""

    def ask(*_: object) -> None:
        model_management.throw_exception_if_processing_interrupted()

    layers = [each for module in modules if module for each in module.modules() if not any(each.children())]
    hooks = [layer.register_forward_pre_hook(ask) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def say(node_id: str | None, text: str) -> None:
    """Show a line of text on the node, in the page that queued it."""
    if node_id is not None:
        PromptServer.instance.send_progress_text(text, node_id)
