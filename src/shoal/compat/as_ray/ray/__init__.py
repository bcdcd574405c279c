"""What ``import ray`` finds under ``shoal run --as-ray``: the door to the layer, nothing else.

The folder above stands in PYTHONPATH, so the program and every Python that it starts finds this
file before a real Ray. It installs the layer, which takes its place; the file beside it answers
``importlib.metadata.version("ray")`` for programs that ask before they import.
"""

import sys

from shoal.compat import ray as _layer

_layer.install()
sys.modules[__name__] = _layer.modules.module("ray")
