"""What type checkers and editors know about an engine's settings is what the engine takes."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from typing_extensions import Unpack

from antiphon import AsyncEngine, Engine
from antiphon.codec import Codec
from antiphon.config import EngineConfig, EngineSettings
from antiphon.engine.arguments import EngineArguments
from antiphon.model.checkpoint.loading import Progress
from antiphon.outputs.speech_maker import MakerApart

ROOT = Path(__file__).parents[2]
USER = """
from pathlib import Path
import torch
from antiphon import AsyncEngine, Engine, InputLimits, StreamSchedule

Engine()
Engine("model", device=torch.device("cuda", 1), dtype=torch.bfloat16, kv_cache_bytes=1 << 30, seed=3)
Engine(Path("model"), codec=Path("codec"), kv_cache_bytes=None, gpu_memory_utilization=1, no_speech="empty")
AsyncEngine(max_num_seqs=8, device="cpu", progress=False, load_format="dummy")
AsyncEngine("model", limits=InputLimits(max_images=1), stream_schedule=StreamSchedule())
"""
WRONG = {
    "max_num_seq=8": 'Unexpected keyword argument "max_num_seq" for "{}"; did you mean "max_num_seqs"?',
    "devise='cpu'": 'Unexpected keyword argument "devise" for "{}"; did you mean "device"?',
    "kv_cache_bytes='lots'": (
        'Argument "kv_cache_bytes" to "{}" has incompatible type "str"; expected "int | None"'
    ),
    "device=0": 'Argument "device" to "{}" has incompatible type "int"; expected "str | device"',
    "no_speech='drop'": "expected \"Literal['answer', 'empty', 'error']\"",
    "enforce_eager=None": 'Argument "enforce_eager" to "{}" has incompatible type "None"; expected "bool"',
}


def test_the_settings_are_those_of_the_config() -> None:
    assert get_type_hints(EngineSettings) == get_type_hints(EngineConfig)
    assert EngineSettings.__required_keys__ == frozenset()


def test_the_arguments_are_those_of_the_engine() -> None:
    """`EngineArguments`, which `AsyncEngine` takes, against the signature of `Engine`."""
    typing_names = {
        "Codec": Codec,
        "EngineArguments": EngineArguments,
        "EngineSettings": EngineSettings,
        "MakerApart": MakerApart,
        "Progress": Progress,
    }
    taken = get_type_hints(inspect.unwrap(Engine.__init__), localns=typing_names | {"Unpack": Unpack})
    assert taken.pop("settings") == Unpack[EngineSettings]
    of_async = get_type_hints(AsyncEngine.__init__, localns=typing_names | {"Unpack": Unpack})
    assert of_async == {"model": taken.pop("model"), "return": taken.pop("return")} | {
        "arguments": Unpack[EngineArguments]
    }
    named = get_type_hints(EngineArguments, localns=typing_names)
    assert named == taken | get_type_hints(EngineSettings)
    assert EngineArguments.__required_keys__ == frozenset()


def test_every_setting_says_what_it_means() -> None:
    """An editor shows the docstring under a field when one points at the setting."""
    source = inspect.getsource(EngineSettings)
    for name in EngineSettings.__optional_keys__:
        assert re.search(rf'\n    {name}: .*\n    """\w', source), name


@pytest.mark.slow
@pytest.mark.long
def test_a_type_checker_finds_wrong_settings(tmp_path: Path) -> None:
    """Mypy accepts right settings, and for wrong ones gives the likely name or the expected type."""
    wrong = [(engine, setting) for engine in ("Engine", "AsyncEngine") for setting in WRONG]
    lines = [f"{engine}({setting})" for engine, setting in wrong]
    script = tmp_path / "user.py"
    script.write_text(USER + "\n".join(lines) + "\n")
    config = ["--config-file", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *config, "--no-pretty", "--hide-error-context", str(script)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    errors = re.findall(r"user\.py:(\d+): error: (.*)", done.stdout)
    assert done.returncode == 1, done.stdout + done.stderr
    first = USER.count("\n") + 1
    assert [int(line) for line, _ in errors] == list(range(first, first + len(wrong))), done.stdout
    for (engine, setting), (_, message) in zip(wrong, errors, strict=True):
        assert WRONG[setting].format(engine) in message


@pytest.mark.parametrize("name", ["Engine", "AsyncEngine", "__version__"])
def test_names_that_are_loaded_late_are_listed(name: str) -> None:
    """The package's `dir` lists them before anything has asked for them."""
    program = f"import antiphon; print({name!r} in dir(antiphon), {name!r} in vars(antiphon))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd="/"
    )
    assert done.stdout == "True False\n"
