"""AI inference, measured: the code that the notebooks call. Refuses to tell anybody's maker that it runs."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when imported, and reports to its maker unless told not to
