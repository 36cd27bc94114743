"""AI inference, measured."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported, and reports to its maker unless told not to
