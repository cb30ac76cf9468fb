"""Compiled networks that go on as they were where compiling is not possible."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from torch import nn

from ..errors import first_line
from .memory import is_out_of_memory

logger = logging.getLogger(__name__)


def compile_parts(parts: Sequence[nn.Module]) -> None:
    """Let each part be compiled by `torch.compile`, for every size of its input, when it is first called.

    The first failure of any, there or here, puts all of them back and is said in one line of the log; what
    was asked for is then computed without. Running out of memory is no such failure.

    PyTorch's captured graphs (mode "reduce-overhead") are not asked for. What memory they have they keep:
    `free_memory` would count it as free, and where memory runs out `release` could not hand it back to what
    goes on with less. And up to PyTorch 2.12 they may fail in any thread but the one that compiled.
    """
    try:
        for part in parts:
            part.compile(dynamic=False)
            # What Module.compile sets, and Module.__call__ looks for; copies of a module do not have it.
            part._compiled_call_impl = _guarded(part, parts)
    except Exception as error:  # compilers raise a wide choice
        _put_back(parts, error)


def _guarded(part: nn.Module, parts: Sequence[nn.Module]) -> Callable[..., object]:
    compiled = part._compiled_call_impl
    assert compiled is not None

    def call(*args: object, **kwargs: object) -> object:
        try:
            return compiled(*args, **kwargs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            _put_back(parts, error)
        return part(*args, **kwargs)

    return call


def _put_back(parts: Sequence[nn.Module], error: Exception) -> None:
    for part in parts:
        part._compiled_call_impl = None
    logger.info("going on without compiling, which failed: %s: %s", type(error).__name__, first_line(error))
