"""A DRS server that answers as IndexD of Gen3 does, and misbehaves as it is told.

Started by `servers.DRS`. What it holds is in ``state.json`` in its folder, read anew
for each request: ``objects`` by uuid, ``bulk`` (how many at once; 0 where there is no
bulk), and ``script``: for a path, what to answer before the truth, in turn. Each
request is a line of ``requests.jsonl``.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

BASE = "/ga4gh/drs/v1"
NO_RECORD = {"msg": "no record found", "status_code": 404}
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    told: dict[str, int] = {}  # noqa: RUF012  (of the process)

    def do_GET(self):
        state = self.begun()
        if state is None:
            return
        if self.path in ("/-/status", f"{BASE}/service-info"):
            drs = {"maxBulkRequestLength": state["bulk"]} if state["bulk"] else {}
            self.send(
                200, {"type": {"artifact": "drs", "version": "1.5.0"}, "drs": drs}
            )
            return
        found = self.record(unquote(self.path.removeprefix(f"{BASE}/objects/")), state)
        self.send(404 if found is None else 200, found or NO_RECORD)

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.asked = json.loads(self.rfile.read(length))
        state = self.begun()
        if state is None:
            return
        if not state["bulk"]:
            self.send(405, {"msg": "method not allowed", "status_code": 405})
            return
        ids = self.asked["bulk_object_ids"]
        if len(ids) > state["bulk"]:
            self.send(413, {"msg": "too many", "status_code": 413})
            return
        records = {name: self.record(name, state) for name in ids}
        gone = [name for name, record in records.items() if record is None]
        answer = {
            "summary": {"requested": len(ids), "unresolved": len(gone)},
            "resolved_drs_objects": [r for r in records.values() if r is not None],
        }
        if gone:
            group = {"error_code": 404, "object_ids": gone}
            answer["unresolved_drs_objects"] = [group]
        self.send(200, answer)

    def record(self, name, state):
        return state["objects"].get(name.removeprefix("dg.4DFC/"))

    def begun(self):
        """Note the request, and play the script; None where that was the answer."""
        state = json.loads((self.folder / "state.json").read_text("utf-8"))
        if self.path == "/-/status":
            return state
        with LOCK:
            at = self.told.get(key := f"{state['number']} {self.path}", 0)
            self.told[key] = at + 1
            with (self.folder / "requests.jsonl").open("a", encoding="utf-8") as log:
                asked = len(getattr(self, "asked", {}).get("bulk_object_ids", ()))
                kept = {n.lower(): v for n, v in self.headers.items()}
                line = {"method": self.command, "path": self.path, "bulk": asked}
                log.write(json.dumps({**line, "headers": kept}) + "\n")
        lines = state["script"].get(self.path, [])
        if at >= len(lines):
            return state
        line = lines[at]
        if line.get("hang_up"):
            self.close_connection = True
            return None
        body = line.get("text", "").encode() + b" " * line.get("blanks", 0)
        self.send(line["status"], body, line.get("headers", {}), line.get("lacking", 0))
        return None

    def send(self, status, document, headers=(), lacking=0):
        body = document
        kind = "text/html"
        if not isinstance(document, bytes):
            body, kind = json.dumps(document).encode(), "application/json"
        self.send_response(status)
        for name, value in {"Content-Type": kind, **dict(headers)}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) + lacking))
        self.end_headers()
        self.wfile.write(body)
        if lacking:
            self.close_connection = True

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[2])
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
