"""The dashboards' JSON: printed, or with --write into monitoring/grafana/dashboards."""

from __future__ import annotations

import sys

from lib.monitoring import dashboards


def main(words: list[str]) -> int:
    if words == ["--write"]:
        print(*(path.name for path in dashboards.write()))
    elif not words:
        print("".join(dashboards.files().values()), end="")
    else:
        print("python -m lib.monitoring.dashboards [--write]", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
