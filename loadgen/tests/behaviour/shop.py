"""A shop, served by Python's own http.server: what the journeys that come with the program need.

A request without the token of a login is refused, one about a thing that is not there is not found,
and a change needs the tag that reading told. `GET /stats` tells what it counted.
"""

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

lock = threading.Lock()
tokens = set()
items = {"the first/one": ["first", 1]}
counted = {}


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def say(self, status, body=None, headers=()):
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(text)

    def answer(self):
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        with lock:
            return self.serve(url.path, parse_qs(url.query), body)

    def serve(self, path, query, body):
        if path == "/stats":
            return self.say(200, counted)
        parts = path.strip("/").split("/")
        kind = f"{self.command} {parts[0]}{'/' if len(parts) > 1 else ''}"
        counted[kind] = counted.get(kind, 0) + 1
        if path == "/":
            if self.headers.get("If-None-Match") == '"1"' or self.headers.get("If-Modified-Since"):
                return self.say(304)
            stamp = "Sat, 21 Nov 2026 03:00:00 GMT"
            return self.say(200, {}, [("ETag", '"1"'), ("Last-Modified", stamp)])
        if path == "/login" and self.command == "POST":
            token = f"{body['user']}:{uuid.uuid4()}"
            tokens.add(token)
            return self.say(200, {"token": token})
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in tokens:
            return self.say(401, {})
        if parts[0] != "items":
            return self.say(404, {})
        if len(parts) == 1 and self.command == "POST":
            if not json.loads(body["message"])["level"]:
                return self.say(422, {})
            # An id that only survives where it is written as a URL.
            key = f"a/b {len(counted)}?{uuid.uuid4()}"
            items[key] = [body["title"], 1]
            return self.say(201, {"id": key, "title": body["title"]})
        if len(parts) == 1:
            wanted = query.get("id", list(items))
            found = [{"id": key, "title": items[key][0]} for key in wanted if key in items]
            return self.say(200, {"items": found})
        key = unquote(parts[1])
        if key not in items:
            return self.say(404, {"id": key})
        title, version = items[key]
        if self.command == "PUT":
            if self.headers.get("If-Match") != f'"v{version}"':
                return self.say(412, {})
            items[key] = [body["title"], version + 1]
            return self.say(200, {"id": key, "title": body["title"]})
        if self.command == "DELETE":
            del items[key]
            return self.say(204)
        return self.say(200, {"id": key, "title": title}, [("ETag", f'"v{version}"')])

    do_GET = do_POST = do_PUT = do_DELETE = answer


server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
server.daemon_threads = True
server.request_queue_size = 128
print(f"Serving on 127.0.0.1 port {server.server_port} ", flush=True)
server.serve_forever()
