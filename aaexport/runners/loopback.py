"""Files by name → pages that this machine's browsers can open, and no other machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Served = Mapping[str, Path | bytes]

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
}
OTHER = "application/octet-stream"
# What lets a page share memory between threads; nothing else may look into it, or frame it.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@contextmanager
def serving(files: Served, port: int = 0) -> Iterator[str]:
    """The address, `http://127.0.0.1:PORT/`, where these files are and nothing else is; a free port for 0.

    OSError if the port is taken.
    """
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(files))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(files: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            # Another site's page that has its name point here must not read this.
            name = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
            if self.headers.get("Host", "").rpartition(":")[0] not in ("127.0.0.1", "localhost"):
                self.send_error(421)
                return
            content = files.get(name)
            try:
                body = content.read_bytes() if isinstance(content, Path) else content
            except OSError:
                body = None
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            headers = {"Content-Type": KINDS.get(Path(name).suffix, OTHER), "Content-Length": str(len(body))}
            for key, value in (headers | HEADERS).items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
            """Nothing: a page asks for its files, and nobody wants to read that."""

    return Handler
