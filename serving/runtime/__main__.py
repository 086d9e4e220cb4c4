"""`python -m serving.runtime`"""

from __future__ import annotations

import sys

from serving.runtime.config import parse_config
from slipway.errors import SlipwayError


def main() -> int:
    try:
        config = parse_config(sys.argv[1:])
        if config.workers > 1:
            from serving.runtime.workers import supervise

            return supervise(config)
        from serving.runtime.server import run

        run(config)
    except SlipwayError as error:
        print(f"slipway: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
