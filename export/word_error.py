"""Whether the packaged model is understood as well with exported flows as with PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from antiphon.assets.embedded import EMBEDDED_CODEC
from antiphon.codec import Codec
from antiphon.codec.checkpoint.onnx_graph import EXPECTED, MAX_FILE_BYTES
from antiphon.codec.exported import PRECISION, flow_file
from antiphon.errors import CheckpointError
from antiphon.export.judge import judge, word_errors
from antiphon.export.onnx_file import check_packages
from antiphon.export.replies import SENTENCES, Reply, questions_in, replies
from antiphon.export.rounded import rounded_copy
from antiphon.files.checkpoint import check_file, refusing_failures

__all__ = ["MOST_WORSE", "WordError", "judged", "precision_of"]

MOST_WORSE: Mapping[str, float] = {"fp32": 1.0, "fp16": 1.0, "bf16": 1.0, "int8": 2.0}
"""By how many points the word error may be larger than PyTorch's"""
TORCH = "PyTorch"


@dataclass(frozen=True)
class WordError:
    """Of the same replies, decoded in one way."""

    way: str
    """PyTorch, or an exported file"""
    precision: str
    judge: str
    """Who listened: see `judge.JUDGES`"""
    num_sentences: int
    num_words: int
    per_cent: float
    """Words that were misheard, of those that were said"""
    worse: float
    """Points more than PyTorch's"""
    most_worse: float
    """That are allowed"""
    is_within: bool


Report = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and how much there is."""


def judged(
    folders: Sequence[Path], report: Report = lambda *_: None, questions: Sequence[str] | None = None
) -> Iterator[WordError]:
    """PyTorch's word error, then that of the flow in each folder. Files in 16 bits speak by their rounded
    copies (see `rounded`).

    questions: instead of those that come with the package. Raises CheckpointError for a folder without a
    flow, or with one of another codec than the packaged one.
    """
    files = [flow_file(folder) for folder in folders]
    precisions = [precision_of(file) for file in files]
    asked = questions_in(SENTENCES.read_text(encoding="utf-8")) if questions is None else questions
    with TemporaryDirectory() as scratch:
        codecs = [Codec.from_pretrained(EMBEDDED_CODEC, "cpu")]
        for number, file in enumerate(files):
            own = Path(scratch, str(number))
            own.mkdir()
            copy = rounded_copy(file, own)
            backend = f"onnxruntime:{file.parent if copy is None else own}"
            codecs.append(Codec.from_pretrained(EMBEDDED_CODEC, "cpu", backend=backend))
        said = replies(asked, lambda count: report("the packaged model replies", count, len(asked)))
        ways = [TORCH, *map(str, files)]
        expected = 0.0
        with judge() as (name, listen):
            for way, precision, codec in zip(ways, ["fp32", *precisions], codecs, strict=True):
                errors = words = 0
                for number, reply in enumerate(said):
                    report(f"listening to {way}", number, len(said))
                    wrong, own_words = word_errors(reply.text, _heard(codec, reply, number, listen))
                    errors, words = errors + wrong, words + own_words
                share = 100 * errors / max(1, words)
                if way == TORCH:
                    expected = share
                worse, most = share - expected, MOST_WORSE[precision]
                yield WordError(
                    way, precision, name, len(said), words, share, worse, most, is_within=worse <= most
                )


def precision_of(file: Path) -> str:
    """As its metadata say. Raises CheckpointError if it is none that is known."""
    check_packages()
    import onnx

    check_file(file, EXPECTED, max_bytes=MAX_FILE_BYTES)
    with refusing_failures(file, EXPECTED):
        model = onnx.load(file, load_external_data=False)
    found = str({prop.key: prop.value for prop in model.metadata_props}.get(PRECISION, ""))
    if found not in MOST_WORSE:
        raise CheckpointError(f"{file}: {PRECISION}: expected {' or '.join(MOST_WORSE)}, found {found!r:.40}")
    return found


def _heard(codec: Codec, reply: Reply, seed: int, listen: Callable[[Any, int], str]) -> str:
    [sound] = codec.decode([reply.units], seeds=[seed])
    return listen(sound, codec.sample_rate_hz)
