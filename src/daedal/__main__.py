"""`python -m daedal` is the `daedal` command."""

from daedal.cli import main

main()
