"""The text of replies, made by vLLM: `sched.elsewhere` for an engine."""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from antiphon.config import ModelConfig
from antiphon.errors import AntiphonError, ConfigError, EngineDead
from antiphon.files.writing import discard, passing_folder
from antiphon.model.checkpoint.llm_folder import export_llm
from antiphon.model.checkpoint.loading import Progress
from antiphon.model.vllm.process import WorkerProcess
from antiphon.model.vllm.settings import VllmSettings, check_llm_folder
from antiphon.plain import one_line, told
from antiphon.process.faults import log_fault
from antiphon.sched.elsewhere import TextArrived
from antiphon.sched.plan import StackPlan
from antiphon.sched.request import RequestState
from antiphon.types import SamplingParams

__all__ = ["LlmFolder", "VllmText"]

GREEDY = SamplingParams()
MAX_SEED = 2**63 - 1

ReadPrompts = Callable[[StackPlan], list[Tensor]]


class LlmFolder:
    """The LLM that vLLM loads, and a folder for what else its process keeps, which is removed at the end."""

    def __init__(
        self, settings: VllmSettings, checkpoint: Path, config: ModelConfig, *, progress: bool | Progress
    ) -> None:
        """Raises CheckpointError if the given folder is not this checkpoint's LLM, and ConfigError if none
        can be written."""
        if settings.model is not None:
            check_llm_folder(settings.model, checkpoint, config)
        self.passing = passing_folder("antiphon-llm-")
        self._discard = weakref.finalize(self, _discard_here, self.passing, os.getpid())
        self.path = settings.model or self.passing / "llm"
        if settings.model is None:
            try:
                export_llm(checkpoint, self.path, progress=progress)
            except OSError as error:
                self.remove()
                raise ConfigError(
                    f"text_backend: its LLM cannot be written to {self.passing.parent}: {one_line(error)}; "
                    "give a folder of `antiphon export llm` as text_backend_args['model']"
                ) from error
            except BaseException:
                self.remove()
                raise

    def remove(self) -> None:
        """Remove what was written here."""
        self._discard()


class VllmText:
    """One vLLM in a process of its own, and the requests whose text it makes.

    If the process ends, for whatever reason, these requests end with "error". It is started again for later
    ones, but not if it has never finished the text of a request: then `lost` says why, and the engine has
    failed.
    """

    def __init__(self, folder: LlmFolder, start: Callable[[], WorkerProcess]) -> None:
        """Waits until the model is loaded. Raises ConfigError with the reason if it cannot be."""
        self.read_prompts: ReadPrompts = _no_prompts
        """What the LLM reads of prompts that are not ids alone; set by the engine."""
        self.failures: list[tuple[RequestState, Exception]] = []
        """Requests whose text cannot be made, to be taken from here."""
        self.lost: str | None = None
        """Why no more text will ever come; None while it may."""
        self._folder = folder
        self._start = start
        self._numbers = itertools.count()
        """Names of requests in the process. None is used twice, also after it was started again."""
        self._names: dict[RequestState, str] = {}
        self._asked: dict[str, RequestState] = {}
        self._has_finished_one = False
        """Whether the process that runs has finished the text of a request."""
        try:
            self._process = start()
        except OSError as error:
            folder.remove()
            raise ConfigError(f"text_backend: its Python cannot be started: {one_line(error)}") from error
        try:
            self._process.wait_ready()
        except EngineDead as error:
            self.close()
            raise ConfigError(f"text_backend: {error}") from error
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> str | None:
        """That of vLLM; None while it loads its model again."""
        return self._process.version

    @property
    def is_awaited(self) -> bool:
        """Whether text of some request has yet to come."""
        return bool(self._asked)

    def ask(self, plan: StackPlan) -> None:
        """See `TextElsewhere`. All that may fail comes first: none is asked, or all are."""
        self._look_after()  # they are not to blame if it ended while it had nothing to do
        read = [chunk for chunk in plan.chunks if _is_read(chunk.request)]
        inputs = iter(self.read_prompts(StackPlan("text", read)) if read else ())
        frames = []
        for chunk in plan.chunks:
            request = chunk.request
            message: dict[str, Any] = {"ask": str(next(self._numbers)), "sampling": _sampling(request)}
            blob = b""
            if _is_read(request):
                embeddings = next(inputs)
                message["shape"] = list(embeddings.shape)
                blob = embeddings.float().cpu().numpy().tobytes()
            else:
                message["ids"] = request.text.ids[: request.num_text_prompt].tolist()
            frames.append((request, message, blob))
        for request, message, blob in frames:
            self._names[request], self._asked[message["ask"]] = message["ask"], request
            self._process.send(message, blob)

    def take(self) -> list[TextArrived]:
        """See `TextElsewhere`; also notices that the process has ended."""
        for silent in [request for request in self._names if not request.needs_text]:
            self.drop(silent)  # speech asks for no more
        process = self._process
        failure = process.failure  # before what it has said by then
        arrived: list[TextArrived] = []
        for message in process.take():
            for name, ids, is_last, num_cached in message.get("text", ()):
                request = self._asked.get(name)
                if request is None:  # dropped meanwhile
                    continue
                if is_last:
                    self._has_finished_one = True
                    self._forget(request)
                    if not ids and not request.text_ids:
                        self.failures.append((request, AntiphonError("vLLM made no text of it")))
                        continue
                arrived.append(TextArrived(request, ids, is_last, num_cached))
            refused = self._asked.get(message.get("refused", ""))
            if refused is not None:
                self._forget(refused)
                self.failures.append((refused, AntiphonError(f"vLLM refused it: {message['why']}")))
        if failure is not None:
            self._start_again(failure)
        return arrived

    def drop(self, request: RequestState) -> None:
        """See `TextElsewhere`."""
        name = self._forget(request)
        if name is not None:
            self._process.send({"abort": [name]})

    def forget_prompts(self) -> None:
        """Empty vLLM's prefix cache."""
        self._process.send({"forget": True})

    def wait(self, timeout_s: float) -> None:
        """Wait until there is something to take, or the time is over."""
        self._process.wait(timeout_s)

    def stop(self) -> None:
        """Have the process end soon. Takes no lock, so finalizers may call it."""
        self._process.stop()

    def close(self) -> None:
        """End the process."""
        self._process.close()
        self._folder.remove()

    def _forget(self, request: RequestState) -> str | None:
        name = self._names.pop(request, None)
        if name is not None:
            del self._asked[name]
        return name

    def _look_after(self) -> None:
        if (failure := self._process.failure) is not None:
            self._start_again(failure)

    def _start_again(self, why: str) -> None:
        """Of requests that it was busy with, nothing more will come."""
        if self.lost is not None:
            return
        error = AntiphonError(f"vLLM has ended: {why}")
        log_fault("the process that makes text has ended", error=error)
        for request in list(self._names):
            self._forget(request)
            self.failures.append((request, error))
        self._process.close()
        if not self._has_finished_one:
            self.lost = str(error)
            return
        self._has_finished_one = False
        try:
            self._process = self._start()
        except (OSError, RuntimeError) as failed:
            self.lost = f"{error}; it cannot be started again: {told(failed)}"


def _discard_here(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # forked children have finalizers, too
        discard(folder)


def _is_read(request: RequestState) -> bool:
    """Whether the LLM reads anything but ids of its prompt: as it was heard, or pictures."""
    return request.is_soft or bool(request.prompt.images)


def _sampling(request: RequestState) -> dict[str, Any]:
    params = GREEDY if request.speaks else request.params
    return {
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "seed": request.seed & MAX_SEED,
        "max_tokens": int(request.max_tokens),
        "stop_token_ids": sorted(request.text_stop_ids),
    }


def _no_prompts(plan: StackPlan) -> list[Tensor]:
    raise AssertionError(f"nothing reads these {len(plan.chunks)} prompts")
