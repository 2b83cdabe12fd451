"""`python -m stream_worker`: one worker, configured by the environment alone. Exits with 0 after SIGTERM."""

from __future__ import annotations

import sys

import uvloop

from infra.runtime import log
from infra.runtime.process import quiet_collector
from infra.runtime.settings import load_or_exit
from stream_worker.app import NotSo, run
from stream_worker.settings import WorkerSettings

_YOUNG_OBJECTS = 50_000  # a batch holds tens of thousands at once


def main() -> int:
    """Run until stopped; 1 when something ended the work unasked, 2 for wrong settings."""
    settings = load_or_exit(WorkerSettings)
    log.configure(settings.log_level, settings.log_format, "worker")
    quiet_collector(_YOUNG_OBJECTS)
    try:
        uvloop.run(run(settings))
    except ImportError as error:
        print(f"error: WORKER_HANDLERS cannot be imported: {error}. Check the names and PYTHONPATH.", file=sys.stderr)
        return 2
    except NotSo as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: WORKER_METRICS_PORT cannot be opened: {error.strerror}. Choose another, or 0.", file=sys.stderr)
        return 1
    except Exception:
        # The last edge of the process: whatever ended it is logged by class and place, and the exit code says so.
        log.get(__name__).critical("The worker ends.", action="crashed", exc_info=True)
        return 1
    finally:
        log.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
