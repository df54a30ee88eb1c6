"""Tiny networks are fastest on one thread; on a busy machine two threads wait for each other at every operation."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
