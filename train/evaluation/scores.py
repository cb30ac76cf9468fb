"""Measure the pairs of a set, by several processes, and keep what was measured: a stopped run goes on."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from osediff_core.errors import OSEDiffError, printable
from osediff_core.whole_files import write_whole

from .measures import measure_pair, measure_set
from .metric_table import Metric, read_metrics, why_missing
from .pairs import Pair, content, input_content, read_input, read_pair

SAVE_SECONDS = 10
"""How often what was measured is written while more comes."""


@dataclass
class Scores:
    """What was measured of a set.

    contents: a hash of each pair of files; inputs: of what each was restored from. made_with: of each metric,
    library and setting. values: of each metric, the value of each picture; whole: of each metric of sets, its
    one value. missing: of each metric that could not be computed, why.
    """

    contents: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measuring:
    """How measuring is done: where, by how many processes, and whether a bar shows it."""

    device: str = "cpu"
    workers: int = 1
    label: str = "measuring"


def score(
    pairs: Sequence[Pair], metrics: Mapping[str, Metric], work: Measuring, store: Path | None
) -> Scores:
    """Measure all pairs; what `store` has of the same files, metrics and libraries is not measured again.

    What cannot be computed is in `missing`. Raises OSEDiffError, naming pictures, before anything is measured
    where pictures cannot be read or their sizes differ.
    """
    scores = _begin(pairs, metrics, _read(store))
    todo = _unmeasured(pairs, metrics, scores)
    _check_sizes([pair for pair, _ in todo])
    saved = time.monotonic()
    try:
        for name, (values, reasons) in _measured(todo, work):
            for metric, value in values.items():
                scores.values[metric][name] = value
            scores.missing |= reasons
            if time.monotonic() - saved > SAVE_SECONDS:
                _write(store, scores)
                saved = time.monotonic()
        for metric in [m for m, row in metrics.items() if row.of == "set" and m not in scores.whole]:
            _measure_whole(metric, pairs, scores, work)
    finally:
        _write(store, scores)
    return scores


def _begin(pairs: Sequence[Pair], metrics: Mapping[str, Metric], before: Scores) -> Scores:
    """Take over what still holds, whether it is asked for now or not, and say what cannot be computed."""
    contents = {pair.name: content(pair) for pair in pairs}
    scores = _still_true(before, contents, {pair.name: input_content(pair) for pair in pairs})
    lacking = _lacking(pairs)
    for name, metric in metrics.items():
        whole = name in scores.whole or set(scores.values.get(name, ())) == set(scores.contents)
        reason = lacking.get(metric.of) or why_missing(metric)
        if reason is not None:
            if not whole:  # else it was measured where the library is, with what made_with says
                scores.missing[name] = reason
            continue
        if scores.made_with.get(name) != metric.made_with:
            scores.values.pop(name, None)
            scores.whole.pop(name, None)
        scores.made_with[name] = metric.made_with
        if metric.of != "set":
            scores.values.setdefault(name, {})
    return scores


def _lacking(pairs: Sequence[Pair]) -> dict[str, str]:
    """Of the kinds of metrics that want for pictures, the reason."""
    no_hq, no_lq = (
        "compares with originals, and HQ was not given",
        "compares with inputs, and LQ was not given",
    )
    lacking = dict.fromkeys(("pair", "set"), no_hq) if any(pair.hq is None for pair in pairs) else {}
    return lacking | ({"input": no_lq} if any(pair.lq is None for pair in pairs) else {})


def _still_true(before: Scores, contents: dict[str, str], inputs: dict[str, str]) -> Scores:
    """Return what was measured of the same files; of another table's metrics, what was of the same pairs."""
    same = {name for name, found in contents.items() if before.contents.get(name) == found}
    of_same_inputs = {name for name in same if before.inputs.get(name) == inputs[name]}
    of_inputs = {name for name, metric in read_metrics().items() if metric.of == "input"}
    values = {
        metric: {p: v for p, v in known.items() if p in (of_same_inputs if metric in of_inputs else same)}
        for metric, known in before.values.items()
    }
    whole = dict(before.whole) if before.contents == contents else {}
    made_with = {
        name: text for name, text in before.made_with.items() if name in values.keys() | whole.keys()
    }
    return Scores(contents, inputs, made_with, values, whole)


def _unmeasured(
    pairs: Sequence[Pair], metrics: Mapping[str, Metric], scores: Scores
) -> list[tuple[Pair, tuple[str, ...]]]:
    """Group pairs by the metrics that they lack, each group's metrics being set up once."""
    each = [name for name in metrics if name in scores.values and name not in scores.missing]
    lacking = [(pair, tuple(n for n in each if pair.name not in scores.values[n])) for pair in pairs]
    return sorted(((pair, names) for pair, names in lacking if names), key=lambda one: one[1])


def _check_sizes(pairs: Sequence[Pair]) -> None:
    """Read all pairs once; OSEDiffError for the first that does not fit, with the number of others."""
    errors = []
    for pair in pairs:
        try:
            read_input(pair, read_pair(pair)[0])
        except OSEDiffError as error:
            errors.append(error)
    if errors:
        others = f" ({len(errors) - 1} other pairs do not fit either)" if len(errors) > 1 else ""
        raise OSEDiffError(f"{errors[0]}{others}")


Measured = tuple[str, tuple[dict[str, float], dict[str, str]]]


def _measured(todo: Sequence[tuple[Pair, tuple[str, ...]]], work: Measuring) -> Iterator[Measured]:
    """Measure in this process, or by several, and show how it goes."""
    with tqdm(
        total=len(todo), desc=printable(work.label), unit="picture", dynamic_ncols=True, disable=not todo
    ) as bar:
        one = work.workers == 1 or len(todo) == 1
        for found in _here(todo, work) if one else _by_processes(todo, work):
            bar.update()
            yield found


def _here(todo: Sequence[tuple[Pair, tuple[str, ...]]], work: Measuring) -> Iterator[Measured]:
    for pair, names in todo:
        yield pair.name, measure_pair(pair, names, work.device)


def _by_processes(todo: Sequence[tuple[Pair, tuple[str, ...]]], work: Measuring) -> Iterator[Measured]:
    threads = max(1, torch.get_num_threads() // work.workers)
    pool = ProcessPoolExecutor(min(work.workers, len(todo)), get_context("spawn"), _begin_process, (threads,))
    try:
        futures: dict[Future[Any], Pair] = {
            pool.submit(measure_pair, pair, names, work.device): pair for pair, names in todo
        }
        for future in as_completed(futures):
            yield futures[future].name, future.result()
    except BrokenProcessPool as error:
        raise OSEDiffError(
            "a process that measured was killed, most likely for want of memory: start again, fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_process(threads: int) -> None:
    """Leave interrupts, which a terminal sends to every process, to the one that keeps the values."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)


def _measure_whole(metric: str, pairs: Sequence[Pair], scores: Scores, work: Measuring) -> None:
    if metric in scores.missing:
        return
    try:
        scores.whole[metric] = measure_set(metric, pairs, torch.device(work.device))
    except OSEDiffError as error:
        scores.missing[metric] = str(error)


def _read(store: Path | None) -> Scores:
    """Return what an earlier run measured; nothing where there was none, or its file cannot be understood."""
    try:
        kept = json.loads(store.read_text(encoding="utf-8")) if store is not None else {}
        before = Scores(**{key: kept.get(key, {}) for key in Scores.__dataclass_fields__})
        for values in (*before.values.values(), before.whole):
            values.update({name: math.nan for name, value in values.items() if value is None})
    except FileNotFoundError:
        return Scores()
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise OSEDiffError(
            f"{store} is there and was not written by this program: name another file ({error})"
        ) from error
    return before


def _write(store: Path | None, scores: Scores) -> None:
    if store is not None:
        write_scores(store, scores)


def write_scores(store: Path, scores: Scores, summary: Mapping[str, Any] | None = None) -> None:
    """Write what was measured as JSON, a value that is not finite as null; the summary is for readers."""
    plain: dict[str, Any] = asdict(scores) | ({} if summary is None else {"summary": summary})
    for values in (*plain["values"].values(), plain["whole"]):
        values.update({name: None for name, value in values.items() if not math.isfinite(value)})
    write_whole(store, json.dumps(plain, indent=1, ensure_ascii=False).encode())
