"""How the processes of a run come to one mind before its first step: one reads for all, and all compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from osediff_core.errors import OSEDiffError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def from_first(accelerator: Accelerator, read: Callable[[], T]) -> T:
    """Let the first process read, and give all what it has read; its OSEDiffError is raised in all."""
    from accelerate.utils import broadcast_object_list

    answer: list = [None, None]  # what was read, and what went wrong
    if accelerator.is_main_process:
        try:
            answer[0] = read()
        except OSEDiffError as error:
            answer[1] = str(error)
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise OSEDiffError(answer[1])
    return answer[0]


def together(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do the work in every process, and wait for all; an OSEDiffError of one is raised in all."""
    from accelerate.utils import gather_object

    result, wrong = None, None
    try:
        result = work()
    except OSEDiffError as error:
        wrong = error
    told = gather_object([None if wrong is None else str(wrong)])
    if not any(told):
        return result  # pyright: ignore[reportReturnType]
    first = next(number for number, sentence in enumerate(told) if sentence)
    where = "" if len(set(told)) == 1 else f"process {first} of {len(told)}: "
    raise OSEDiffError(where + told[first]) from wrong


def check_agreement(accelerator: Accelerator, what: Mapping[str, object]) -> None:
    """Raise OSEDiffError in every process, naming the differences, unless `what` is equal in all of them."""
    from accelerate.utils import gather_object

    views: list[Mapping[str, object]] = gather_object([dict(what)])
    names = dict.fromkeys(name for view in views for name in view)
    differences = []
    for name in names:
        values = [view.get(name) for view in views]
        other = next((number for number, value in enumerate(values) if value != values[0]), 0)
        if other:
            differences.append(f"{name} ({values[0]!r} in process 0, {values[other]!r} in process {other})")
    if differences:
        raise OSEDiffError(
            f"the processes would not train the same, different in {'; '.join(differences)}: give all of "
            "them one CONFIG.toml, base, set of pictures and version of the program"
        )
