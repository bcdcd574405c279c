"""A small S3 server for tests: buckets and objects in memory, over real HTTP.

What it is strict about is what a real one is: each request must be signed by somebody whose secret
it knows (AWS signature version 4, computed here from what has arrived), the body must have the hash
that was signed, a bucket must be there, and no part of an upload but the last may be smaller than
5 MiB. What a client of ``shoal`` does not ask for it does not know: 501.

::

    with S3Server() as server:
        server.buckets["mine"] = {}
        environ.update(server.variables())
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

KEY = "test-key"
SECRET = "test-secret"
LEAST_PART = 5 << 20


class Refused(Exception):
    """An answer that is an error, as S3 writes it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status = status
        self.text = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"


def _keyed(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signature(secret: str, request: Any, scope: str, signed: str) -> str:
    """The signature that a request must have which arrived with these headers."""
    path, _, query = request.path.partition("?")
    parts = sorted(part if "=" in part else f"{part}=" for part in query.split("&") if part)
    headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in signed.split(";"))
    body_hash = request.headers["x-amz-content-sha256"]
    text = "\n".join((request.command, path, "&".join(parts), headers, signed, body_hash))
    hashed = hashlib.sha256(text.encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = _keyed(key, part)
    when = request.headers["x-amz-date"]
    return _keyed(key, f"AWS4-HMAC-SHA256\n{when}\n{scope}\n{hashed}").hex()


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests look at ``S3Server.asked``."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        # What the API calls it when it is written down, such as "POST uploads".
        known = [k for k in query if k in ("uploads", "uploadId", "delete")]
        asked = " ".join([self.command, *known])
        ours = self.server.ours
        ours.asked.append(asked)
        try:
            self._check(body)
            status, headers, answer = ours.answer(asked, bucket, key, query, self.headers, body)
        except Refused as error:
            status, headers, answer = error.status, {}, error.text.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _check(self, body: bytes) -> None:
        pattern = r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\S+), SignedHeaders=(\S+), Signature=(\w+)"
        found = re.fullmatch(pattern, self.headers.get("Authorization", ""))
        if found is None:
            raise Refused(403, "AccessDenied", "Access Denied")
        who, scope, signed, given = found.groups()
        if who != KEY:
            raise Refused(403, "InvalidAccessKeyId", f"nobody here has the access key {who}")
        if not {"host", "x-amz-content-sha256", "x-amz-date"} <= {*signed.split(";")}:
            raise Refused(403, "AccessDenied", "more has to be signed")
        if not hmac.compare_digest(given, signature(SECRET, self, scope, signed)):
            raise Refused(403, "SignatureDoesNotMatch", "the signature is another one")
        if hashlib.sha256(body).hexdigest() != self.headers["x-amz-content-sha256"]:
            raise Refused(400, "XAmzContentSHA256Mismatch", "the body is another one")


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    ours: S3Server

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Request)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that has gone, or a server."""

    def close(self) -> None:
        """Also what was open from before."""
        self.shutdown()
        self.server_close()
        for request in [*self._open]:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)


Answer = tuple[int, dict[str, str], bytes]


class S3Server:
    """Listens until the end of ``with``, on a port of this machine."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, bytes]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        """Begun in parts, and neither finished nor given up."""
        self.asked: list[str] = []
        self.refused: set[str] = set()
        """What is not allowed to anybody."""
        self._lock = threading.Lock()
        self._port = 0
        self.come_back()

    def __enter__(self) -> S3Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.go_away()

    def go_away(self) -> None:
        """From now on nobody listens."""
        self._listener.close()

    def come_back(self) -> None:
        """On the port that it had."""
        self._listener = _Listener(self._port)
        self._listener.ours = self
        self._port = self._listener.server_port
        serve = self._listener.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()

    def variables(self) -> dict[str, str]:
        """What a program needs in its environment to find it, and nothing else that is around."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_MAX_ATTEMPTS": "1",
            "NO_PROXY": "*",
        }

    def answer(
        self, asked: str, bucket: str, key: str, query: dict[str, str], headers: Any, body: bytes
    ) -> Answer:
        """Do what was asked. Raises Refused."""
        with self._lock:
            if asked in self.refused:
                raise Refused(403, "AccessDenied", f"nobody may {asked}")
            objects = self.buckets.get(bucket)
            if objects is None:
                raise Refused(404, "NoSuchBucket", "The specified bucket does not exist")
            if asked.partition(" ")[2]:
                return self._in_parts(asked, objects, key, query, body)
            if not key:
                raise Refused(501, "NotImplemented", asked)
            match asked:
                case "PUT":
                    objects[key] = body
                    return 200, {"ETag": '"1"'}, b""
                case "GET":
                    return _ranged(objects.get(key), headers.get("Range", ""))
                case "DELETE":
                    objects.pop(key, None)
                    return 204, {}, b""
        raise Refused(501, "NotImplemented", asked)

    def _in_parts(
        self,
        asked: str,
        objects: dict[str, bytes],
        key: str,
        query: dict[str, str],
        body: bytes,
    ) -> Answer:
        upload = query.get("uploadId", "")
        if upload and upload not in self.uploads:
            raise Refused(404, "NoSuchUpload", upload)
        match asked:
            case "POST uploads":
                upload = f"upload-{len(self.asked)}"
                self.uploads[upload] = {}
                named = f"<UploadId>{upload}</UploadId>"
                return 200, {}, f"<R><Key>{escape(key)}</Key>{named}</R>".encode()
            case "PUT uploadId":
                self.uploads[upload][int(query["partNumber"])] = body
                return 200, {"ETag": f'"{query["partNumber"]}"'}, b""
            case "POST uploadId":
                told = [int(n) for n in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
                parts = [self.uploads[upload][n] for n in told]
                if any(len(part) < LEAST_PART for part in parts[:-1]):
                    raise Refused(400, "EntityTooSmall", "a part is too small")
                objects[key] = b"".join(parts)
                del self.uploads[upload]
                return 200, {}, b'<R><ETag>"1"</ETag></R>'
            case "DELETE uploadId":
                del self.uploads[upload]
                return 204, {}, b""
            case "POST delete":
                for name in re.findall(rb"<Key>([^<]+)</Key>", body):
                    objects.pop(name.decode(), None)
                return 200, {}, b"<DeleteResult></DeleteResult>"
        raise Refused(501, "NotImplemented", asked)


def _ranged(data: bytes | None, asked: str) -> Answer:
    if data is None:
        raise Refused(404, "NoSuchKey", "The specified key does not exist.")
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
    if found is None:
        return 200, {}, data
    begin, last = int(found[1]), min(int(found[2]), len(data) - 1)
    if begin >= len(data):
        raise Refused(416, "InvalidRange", "The requested range is not satisfiable")
    return 206, {"Content-Range": f"bytes {begin}-{last}/{len(data)}"}, data[begin : last + 1]
