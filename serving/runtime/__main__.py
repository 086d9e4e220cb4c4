"""`python -m serving.runtime`"""

from __future__ import annotations

import signal
import sys


def main() -> int:
    # Until the server takes signals itself, a Ctrl-C ends it as SIGTERM does. Python would raise it within
    # whatever is being imported: a traceback at best, and a crash where that is written in C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    from serving.runtime.config import parse_config
    from slipway.errors import SlipwayError

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
