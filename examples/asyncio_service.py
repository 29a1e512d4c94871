"""A small service over TCP: each line is a question, the reply streams back. Many clients share one engine.

python examples/asyncio_service.py --port 8765
echo 'How much is two plus three?' | nc -N 127.0.0.1 8765
"""

from __future__ import annotations

import argparse
import asyncio

from antiphon import AsyncEngine, InvalidRequest, Request, SamplingParams, TextDelta


async def serve(engine: AsyncEngine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serves one client. If it hangs up, the loop is left, which aborts its request."""
    try:
        while line := await reader.readline():
            try:
                question = Request(line.decode(errors="replace").strip())
                async for event in engine.stream(question, SamplingParams(max_tokens=128)):
                    if isinstance(event, TextDelta):
                        writer.write(event.text.encode())
                        await writer.drain()
                writer.write(b"\n")
            except InvalidRequest as error:
                writer.write(f"error: {error}\n".encode())
    except ConnectionError:
        pass
    finally:
        writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description="Answer the lines that TCP clients send.")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one")
    options = parser.parse_args()

    async with AsyncEngine() as engine:
        server = await asyncio.start_server(lambda r, w: serve(engine, r, w), "127.0.0.1", options.port)
        async with server:
            print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
            await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("stopped")
