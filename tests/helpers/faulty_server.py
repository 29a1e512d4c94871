"""`antiphon` with a fault: `python faulty_server.py MODULE.CLASS.METHOD serve ...` raises out of the method
once the file that FAULT_FILE names exists."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from antiphon.cli.program import main

if __name__ == "__main__":
    where, _, name = sys.argv.pop(1).rpartition(".")
    module, _, owner_name = where.rpartition(".")
    owner, file = getattr(importlib.import_module(module), owner_name), Path(os.environ["FAULT_FILE"])
    real = getattr(owner, name)

    def faulty(*arguments: Any, **named: Any) -> Any:
        if file.exists():
            file.unlink()
            raise SystemExit("injected")
        return real(*arguments, **named)

    setattr(owner, name, faulty)
    main()
