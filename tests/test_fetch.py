"""Fetching published weights, from a server on this machine and from a folder."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from checkpoints import fetch
from media.errors import InputError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)


class Server(ThreadingHTTPServer):
    """Serves `files`; breaks the connection off after `break_after` bytes, once each."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/weights.pth": CONTENT}
        self.break_after: list[int] = []
        self.ranges = True
        self.requests: list[tuple[str, str | None]] = []

    def url(self, name="weights.pth"):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        matched = re.fullmatch(r"bytes=(\d+)-", asked or "")
        start = int(matched[1]) if matched and self.server.ranges else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + self.server.break_after.pop(0) if self.server.break_after else None
        self.wfile.write(content[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def downloads(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "DOWNLOADS", tmp_path / "downloads")
    return tmp_path / "downloads"


@pytest.fixture
def published(monkeypatch):
    """Replace the manifest by one entry `net`."""

    def publish(urls, sha256=SHA256, size=SIZE, names=("weights.pth",), folder=""):
        files = [fetch.File(name, list(urls), sha256, size) for name in names]
        monkeypatch.setattr(fetch, "manifest", lambda: {"net": fetch.Weights("net", "MIT", files, folder)})

    return publish


def test_download_is_checked_and_named(server, published, downloads, capsys):
    published([server.url()])
    assert not fetch.available("net")
    assert fetch.main(["net"]) == 0
    assert fetch.path("net").read_bytes() == CONTENT
    assert [path.name for path in downloads.iterdir()] == ["weights.pth"]
    assert fetch.available("net")
    assert fetch.require("net", "the test") == downloads / "weights.pth"
    assert fetch.main(["net"]) == 0
    assert len(server.requests) == 1  # what is there is not downloaded again
    assert capsys.readouterr().out.count("fetched net") == 2


def test_a_broken_transfer_goes_on_where_it_stopped(server, published):
    published([server.url()], sha256=SHA256[:8], size=None)
    server.break_after = [300_000]
    assert fetch.main(["net"]) == 0
    assert fetch.path("net").read_bytes() == CONTENT
    assert server.requests == [("/weights.pth", None), ("/weights.pth", "bytes=300000-")]


def test_the_next_command_goes_on_where_the_last_one_stopped(server, published, capsys):
    published([server.url()])
    server.break_after = [100_000, 100_000, 100_000]
    assert fetch.main(["net"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: net: weights.pth could not be downloaded")
    assert "300000 of 1048576 bytes" in error
    assert not fetch.available("net")
    assert fetch.main(["net"]) == 0
    assert server.requests[-1] == ("/weights.pth", "bytes=300000-")
    assert fetch.path("net").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server, published):
    published([server.url()])
    server.ranges, server.break_after = False, [300_000]
    assert fetch.main(["net"]) == 0
    assert fetch.path("net").read_bytes() == CONTENT


@pytest.mark.parametrize("old", [b"some other file", b"x" * (len(CONTENT) + 1), b"x" * len(CONTENT)])
@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_an_old_part_of_another_file_is_thrown_away(server, published, downloads, old, size):
    published([server.url()], size=size)
    downloads.mkdir()
    (downloads / ".weights.pth.part").write_bytes(old)
    assert fetch.main(["net"]) == 0
    assert fetch.path("net").read_bytes() == CONTENT


def test_the_second_url_serves_where_the_first_does_not(server, published):
    published([server.url("gone.pth"), server.url()])
    assert fetch.main(["net"]) == 0
    assert fetch.path("net").read_bytes() == CONTENT


@pytest.mark.parametrize(("sha256", "size"), [("0" * 8, None), ("", len(CONTENT) + 1), (SHA256, 7)])
def test_another_file_than_the_published_one_is_refused(server, published, downloads, capsys, sha256, size):
    published([server.url()], sha256=sha256, size=size)
    assert fetch.main(["net"]) == 2
    assert re.search(r"error: net: .*(sha256|bytes) .*instead of", capsys.readouterr().err.splitlines()[-1])
    assert list(downloads.iterdir()) == []


def test_a_page_in_place_of_a_json_file_is_refused(server, published, capsys):
    published([server.url("config.json")], sha256="", size=None, names=["config.json"])
    server.files["/config.json"] = b"<html>sign in</html>"
    assert fetch.main(["net"]) == 2
    assert "is not JSON" in capsys.readouterr().err
    server.files["/config.json"] = b"{}"
    assert fetch.main(["net"]) == 0


def test_an_unreachable_server_is_one_line(published, capsys):
    published(["http://127.0.0.1:9/weights.pth"])
    assert fetch.main(["net"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "refused" in line
    assert "--from FOLDER" in line


def test_from_a_folder_with_the_same_checks(published, tmp_path, downloads, capsys):
    published(["https://example.org/weights.pth"])
    source = tmp_path / "mine"
    source.mkdir()
    assert fetch.main(["net", "--from", str(source)]) == 2
    assert "holds no weights.pth" in capsys.readouterr().err
    (source / "weights.pth").write_bytes(CONTENT[::-1])
    assert fetch.main(["net", "--from", str(source)]) == 2
    assert "sha256" in capsys.readouterr().err
    assert list(downloads.iterdir()) == []
    (source / "weights.pth").write_bytes(CONTENT)
    assert fetch.main(["net", "--from", str(source)]) == 0
    assert fetch.path("net").read_bytes() == CONTENT


def test_several_files_lie_in_their_folder(server, published, downloads):
    published([server.url()], names=["a.safetensors", "b.safetensors"], folder="model")
    assert fetch.main(["net"]) == 0
    assert fetch.path("net") == downloads / "model"
    (downloads / "model" / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"b\.safetensors is missing"):
        fetch.require("net", "the test")


def test_require_names_the_file_the_url_and_the_command():
    with pytest.raises(InputError) as caught:
        fetch.require("fid", "FID")
    message = str(caught.value)
    assert message.startswith("FID: ")
    for part in ("pt_inception-2015-12-05-6726825d.pth", "https://github.com/", "python -m checkpoints.fetch fid"):
        assert part in message
    assert "\n" not in message


def test_where_one_name_fails_the_others_are_fetched_and_the_end_names_it(server, monkeypatch, capsys):
    def weights(name: str, url: str) -> fetch.Weights:
        return fetch.Weights(name, "MIT", [fetch.File(f"{name}.pth", [url], SHA256, SIZE)])

    found = {name: weights(name, server.url()) for name in ("first", "last")}
    entries = {"gone": weights("gone", server.url("gone.pth")), **found}
    monkeypatch.setattr(fetch, "manifest", lambda: entries)
    assert fetch.main(["gone", "first", "last", "gone"]) == 2
    output = capsys.readouterr()
    errors = [line for line in output.err.splitlines() if line.startswith("error: ")]
    assert errors[0].startswith("error: gone: gone.pth could not be downloaded")
    assert errors[1].startswith("error: 1 of 3 not fetched: gone;")
    assert len(errors) == 2
    assert [line.split()[:2] for line in output.out.splitlines()] == [["fetched", "first"], ["fetched", "last"]]
    assert fetch.path("last").read_bytes() == CONTENT


def test_wrong_arguments_are_one_line(capsys, tmp_path):
    for arguments in ([], ["vgg16"], ["fid", "--from", str(tmp_path / "nowhere")], ["fid", "--nonsense"], ["--from"]):
        assert fetch.main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_manifest_is_whole(capsys):
    names = ["vgg19", "lpips", "fid", "syncnet", "s3fd", "raft", "arcface", "i3d", "wav2vec2"]
    names += ["whisper", "sync_expert"]
    assert list(fetch.manifest()) == names
    for weights in fetch.manifest().values():
        assert weights.licence
        assert (len(weights.files) > 1) == bool(weights.folder)
        for file in weights.files:
            assert file.urls
            if (
                weights.name != "i3d"
            ):  # whose publishers give neither; loading it compares its tensors' names and shapes
                assert file.sha256 or file.size, f"nothing would show that {file.name} is another file"
            assert re.fullmatch(r"([0-9a-f]{8}|[0-9a-f]{64})?", file.sha256)
            assert file.size is None or file.size > 0
            if file.size and file.megabytes:
                assert file.size / 1e6 == pytest.approx(file.megabytes, rel=0.01)
            in_name = re.search(r"-([0-9a-f]{8})\.pth$", file.name)
            assert in_name is None or file.sha256.startswith(in_name[1])
    assert fetch.main(["--list"]) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in names)
