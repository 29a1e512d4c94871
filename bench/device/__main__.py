from __future__ import annotations

import typer

from antiphon.bench.device.check import run

app = typer.Typer(add_completion=False)
app.command()(run)

if __name__ == "__main__":
    app(prog_name="python -m antiphon.bench.device")
