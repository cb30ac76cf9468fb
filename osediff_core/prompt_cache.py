"""Prompt embeddings kept by their text: the same words go through the text encoder once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

State = list[tuple[nn.Parameter, torch.dtype, int]]
MOST = 64  # texts: 20 MB of Stable Diffusion 2.1's embeddings in float32


class PromptCache:
    """What a text encoder made of the texts that it saw last, for as long as it is the same.

    The encoder is another one when a parameter was replaced, has another dtype or was written to in place.
    It stays the same where it is moved to a device and back, as those do that manage memory. Writing through
    `Tensor.data` is not seen: `clear` is for that.
    """

    def __init__(self, most: int = MOST) -> None:
        """Keep at most so many texts; the one that was asked for longest ago goes first."""
        self._most = most
        self._encoder: nn.Module | None = None
        self._state: State = []
        self._kept: OrderedDict[str, Tensor] = OrderedDict()  # each (1, L, D)

    def __deepcopy__(self, memo: dict[int, object]) -> PromptCache:
        """Return one that has seen nothing: a copy's weights may go their own way."""
        return PromptCache(self._most)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def of(
        self,
        encoder: nn.Module,
        texts: Sequence[str],
        compute: Callable[[Sequence[str]], Iterable[Tensor]],
    ) -> Tensor:
        """Return the embeddings of texts, (B, L, D), a tensor of the caller's own.

        compute(missing) gives those of texts that are not kept, (1, L, D) each: one by one, so that what a
        text gets does not depend on its company.
        """
        if self._encoder is not encoder or not same(self._state, state_of(encoder)):
            self._kept.clear()
        missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
        fresh = dict(zip(missing, compute(missing), strict=True)) if missing else {}
        # After the work, for a repair of an overflow puts the weights, unchanged, into other places.
        self._encoder, self._state = encoder, state_of(encoder)
        known = {text: fresh[text] if text in fresh else self._kept[text] for text in texts}
        for text, embedding in known.items():
            self._kept[text] = embedding
            self._kept.move_to_end(text)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return torch.cat([known[text] for text in texts])  # (B, L, D)


def state_of(encoder: nn.Module) -> State:
    """Return what differs after weights were converted, replaced or written to, and not after a move."""
    return [(p, p.dtype, _version(p)) for p in encoder.parameters()]


def _version(parameter: nn.Parameter) -> int:
    """Return how often it was written to; 0 where it was made in inference mode, which does not count."""
    try:
        return parameter._version
    except RuntimeError:  # `is_inference` would not do: it follows the data, which may have moved since
        return 0


def same(before: State, now: State) -> bool:
    """Return whether it is the same encoder as before, which nobody wrote to."""
    return len(before) == len(now) and all(
        a[0] is b[0] and a[1:] == b[1:] for a, b in zip(before, now, strict=True)
    )
