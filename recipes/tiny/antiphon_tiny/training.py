"""The loop that all trainings share: resumable, seeded, scheduled by steps, with its losses as a picture."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["Losses", "Schedule", "Training", "fast_products", "save_atomically"]


def fast_products() -> torch.autocast:
    """Matrix products in bfloat16 where the processor has it; elsewhere that would be four times slower."""
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16)


@dataclass(frozen=True)
class Losses:
    """Of one batch, by name. The value of a name that ends in "%" is per cent, as in what an evaluation
    returns; it is drawn in a picture of its own."""

    summed: dict[str, Tensor]
    """What is minimised is their sum."""
    shown: dict[str, Tensor] = field(default_factory=dict)
    """What is only logged."""

    def __or__(self, other: Losses) -> Losses:
        return Losses(self.summed | other.summed, self.shown | other.shown)

    @property
    def all(self) -> dict[str, Tensor]:
        return self.summed | self.shown


@dataclass(frozen=True)
class Schedule:
    """A rise over `warmup` steps, then half a cosine down to `last` of the peak."""

    num_steps: int
    peak: float
    warmup: int = 200
    last: float = 0.03

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.num_steps - self.warmup))
        return self.peak * (self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * done)))


class Training:
    """One training in a folder of its own.

    Files: `state.pt` (weights, optimizer, step, losses), `losses.json` and `losses.png`. What a step sees is
    drawn from a generator that its number seeds, so an interrupted training goes on as if nothing had
    happened.

    slow: parts of parameters' names, and the factor of the learning rate where they occur.
    """

    def __init__(
        self,
        module: nn.Module,
        folder: Path,
        schedule: Schedule,
        *,
        seed: int = 0,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.98),
        clip: float = 1.0,
        slow: Mapping[str, float] | None = None,
        save_every: int = 500,
        log_every: int = 50,
    ) -> None:
        self.module = module
        self.folder = folder
        self.schedule = schedule
        self.seed = seed
        self.clip = clip
        self.save_every = save_every
        self.log_every = log_every
        groups: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): [], (False, 1.0): []}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                factor = next((by for part, by in (slow or {}).items() if part in name), 1.0)
                groups.setdefault((parameter.ndim > 1, factor), []).append(parameter)
        self.factors = [factor for _, factor in groups]
        settings = [
            {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
            for (decays, _), parameters in groups.items()
        ]
        self.optimizer = torch.optim.AdamW(settings, lr=schedule.peak, betas=betas, fused=True)
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        if self.path.is_file():
            self._load()

    @property
    def path(self) -> Path:
        return self.folder / "state.pt"

    def run(
        self,
        losses: Callable[[int, random.Random], Losses],
        evaluate: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        """Train to the schedule's end. `losses` gives those of one batch; `evaluate` is called whenever the
        state is saved."""
        since: dict[str, list[float]] = {}
        begun = time.perf_counter()
        self.module.train()
        while self.step < self.schedule.num_steps:
            torch.manual_seed(hash((self.seed, self.step)) % 2**31)
            for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
                group["lr"] = factor * self.schedule.rate(self.step)
            parts = losses(self.step, random.Random(f"{self.seed} {self.step}"))
            loss = torch.stack(list(parts.summed.values())).sum()
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{self.folder.name}: the loss is {loss.item()} at step {self.step}")
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
            self.optimizer.step()
            self.step += 1
            for name, value in parts.all.items():
                since.setdefault(name, []).append(float(value.detach()))
            if self.step % self.log_every == 0:
                self.seconds, begun = self.seconds + time.perf_counter() - begun, time.perf_counter()
                row = {name: sum(values) / len(values) for name, values in since.items()}
                self._log(row)
                since = {}
            if self.step % self.save_every == 0 or self.step == self.schedule.num_steps:
                if evaluate is not None:
                    self.module.eval()
                    with torch.no_grad():
                        self._log(evaluate())
                    self.module.train()
                self.save()
        self.module.eval()

    def save(self) -> None:
        state = {
            "module": self.module.state_dict(),
            "trained": [name for name, own in self.module.named_parameters() if own.requires_grad],
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }
        save_atomically(state, self.path)
        (self.folder / "losses.json").write_text(json.dumps(self.history, indent=0))
        self._draw()

    def _load(self) -> None:
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        is_kept = "optimizer" not in state  # by `kept`: only what was trained, and finished
        self.module.load_state_dict(state["module"], strict=not is_kept)
        if is_kept:
            self.step = self.schedule.num_steps
            return
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        print(f"{self.folder.name}: goes on at step {self.step}", flush=True)

    def _log(self, row: dict[str, float]) -> None:
        self.history.append({"step": self.step, "seconds": self.seconds, **row})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
        rate = self.seconds / max(1, self.step)
        print(
            f"{time.strftime('%H:%M:%S')} {self.folder.name} {self.step}/{self.schedule.num_steps}  {shown}  "
            f"({rate:.2f} s a step)",
            flush=True,
        )

    def _draw(self) -> None:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot

        names = list(
            dict.fromkeys(name for row in self.history for name in row if name not in ("step", "seconds"))
        )
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5))
        for name in names:
            rows = [row for row in self.history if name in row]
            axes = right if name.endswith("%") else left
            axes.plot([row["step"] for row in rows], [row[name] for row in rows], label=name, linewidth=1)
        left.set_yscale("log")
        for axes, label in ((left, "loss"), (right, "held out, in %")):
            axes.set_xlabel("step")
            axes.set_ylabel(label)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=7)
            axes.grid(alpha=0.3)
        figure.suptitle(self.folder.name)
        figure.tight_layout()
        figure.savefig(self.folder / "losses.png", dpi=90)
        pyplot.close(figure)


def save_atomically(value: object, path: Path) -> None:
    """As `torch.save`, but an interruption leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    torch.save(value, beside)
    beside.replace(path)
