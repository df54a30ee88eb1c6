"""Runs code that nobody trusts, and judges it from outside. `daedal.sandbox.sandbox.Sandbox` is the
way in.

What confines: Landlock (files, signals), seccomp (system calls), rlimits, and namespaces where the
kernel grants them; see `docs/how-to/sandbox.md`. This package stays free of imports here: the
process that becomes the candidate loads no more of Daedal than it needs."""
