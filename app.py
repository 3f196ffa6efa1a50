"""Dub videos on a page in the browser.

    python app.py

Opens on this machine only, at http://127.0.0.1:7860. Uploads and results are removed after an hour and at exit.
"""

import argparse
import ipaddress
import signal
import sys
import tempfile
import time
from pathlib import Path

from media.errors import InputError, Parser, command, interrupt_on, positive, quick_help
from media.files import DEMO, existing_file
from models.devices import add_device

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="0.0.0.0 opens it to the network")
    server.add_argument("--port", type=positive, metavar="N", help="default: the first free one from 7860 on")
    server.add_argument("--auth", type=Path, metavar="FILE", help="lines of name:password, one of which is asked for")
    server.add_argument(
        "--max-upload", type=positive, default=500, metavar="MB", help="largest file to accept (default: 500)"
    )
    networks = parser.add_argument_group("networks")
    networks.add_argument(
        "--checkpoint", type=Path, nargs="+", default=[DEMO], metavar="DIR", help="to choose from; default: the bundled"
    )
    add_device(networks)
    return parser.parse_args()


def accounts(path: Path | None) -> list[tuple[str, str]] | None:
    """The names and passwords in a file of lines name:password; None without a file."""
    if path is None:
        return None
    existing_file(path, "--auth file")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"--auth file {path} is not text; write lines of name:password") from error
    pairs = [(name, password) for name, _, password in (line.partition(":") for line in lines)]
    if not pairs or not all(name and password for name, password in pairs):
        raise InputError(f"--auth file {path} has a line that is not name:password; correct it")
    return pairs


def named_checkpoints(folders: list[Path]) -> dict[str, Path]:
    """The folders by their names; by the whole path where two have the same name."""
    names = [folder.resolve().name for folder in folders]
    named = {}
    for name, folder in zip(names, folders, strict=True):
        if not folder.is_dir():
            raise InputError(f"--checkpoint {folder} is no folder; give one with networks")
        named[name if names.count(name) == 1 else str(folder)] = folder
    return named


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@command
def main() -> int:
    arguments = parse()
    auth, checkpoints = accounts(arguments.auth), named_checkpoints(arguments.checkpoint)
    interrupt_on(STOPS)
    with tempfile.TemporaryDirectory(prefix="dubbing-", ignore_cleanup_errors=True) as folder:
        from dubbing.load import share_cores
        from dubbing.page import Page  # an extra of the installation: its absence is one line

        share_cores(arguments.device)
        page = Page(checkpoints, arguments.device, folder)
        try:
            url = page.open(arguments.host, arguments.port, auth, arguments.max_upload)
            print(f"Open {url} in a browser; Ctrl-C ends the server", flush=True)
            if auth is None and not is_loopback(arguments.host):
                print("Anyone who reaches this address can use it; --auth FILE asks for a password", flush=True)
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:  # how a server ends
            return 0
        finally:
            page.close()


if __name__ == "__main__":
    sys.exit(main())
