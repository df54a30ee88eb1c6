"""`python -m daedal.cli.child VERB ...`: a verb in a process that ends with the one that started it.

Its standard input is a pipe that nobody writes to. When it closes, whoever held it is gone, however
it ended, and the verb is told to end too: training then writes its checkpoint first."""

import os
import signal
import threading

from daedal.cli import main


def end_with_parent() -> None:
    while os.read(0, 1024):  # not through sys.stdin, whose lock a thread would hold at the end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    main()
