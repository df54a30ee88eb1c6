"""Code with evidence: complete, fill, write, explain, test, translate, fix, solve.

Every verb that can be checked is checked by running, in the sandbox, and says what was run and what
passed. `daedal.assist.code.coder.Coder` is the way in."""
