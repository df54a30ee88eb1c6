"""Programs that want a good mark without solving the task: f(x) = x * x + 7 * x + 3. Each must score 0.
`IN_CALLS` define f, `PROGRAMS` are read and print."""

from daedal.sandbox.results import Call, Case

CASES = [Case(x * x + 7 * x + 3, Call("f", (x,))) for x in (12, 35, 101, 7)]
PRINTED = [Case(f"{c.want}\n", stdin=f"{c.call.args[0]}\n") for c in CASES[:2] if c.call]

EQUAL = """
class Equal{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def f(x): return Equal({value})
"""

IN_CALLS = {
    # answers that claim to equal anything
    "eq of an object": EQUAL.format(base="", value=""),
    "eq of an int": EQUAL.format(base="(int)", value="1"),
    "eq of a float": EQUAL.format(base="(float)", value="1"),
    "eq of a str": EQUAL.format(base="(str)", value="'1'"),
    "eq of a list": EQUAL.format(base="(list)", value=""),
    "eq of a tuple": EQUAL.format(base="(tuple)", value=""),
    "eq of a dict": EQUAL.format(base="(dict)", value=""),
    "eq of a set": EQUAL.format(base="(set)", value=""),
    "eq of bytes": EQUAL.format(base="(bytes)", value=""),
    "eq of a type": "class M(type):\n    def __eq__(s, o): return True\n    __hash__ = type.__hash__\nclass A(metaclass=M): pass\ndef f(x): return A",
    "mock.ANY": "from unittest.mock import ANY\ndef f(x): return ANY",
    "a class that lies about itself": "class A:\n    __class__ = int\n    def __eq__(s, o): return True\n    def __index__(s): return 1\ndef f(x): return A()",
    "a reduce that would run": "class A:\n    def __reduce__(s): return (print, ('ok',))\ndef f(x): return A()",
    "not a number": "def f(x): return float('nan')",
    "infinity": "def f(x): return float('inf')",
    "a complex not a number": "def f(x): return complex('nan')",
    "true": "def f(x): return True",
    "none": "def f(x): return None",
    "not implemented": "def f(x): return NotImplemented",
    "ellipsis": "def f(x): return ...",
    "a generator of all": "def f(x):\n    yield from range(100000)",
    "an iterator of all": "def f(x): return iter(range(20000))",
    "a range of all": "def f(x): return range(20000)",
    "every number at once": "def f(x): return set(range(11000))",
    "the text of a number": "def f(x): return str(x * x + 7 * x + 3)",
    "a list with the number": "def f(x): return [x * x + 7 * x + 3]",
    "the words": "def f(x): return 'ok'",
    "a verdict": "def f(x): return ('ok', True, '')",
    "itself": "def f(x): return f",
    "a nest without end": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "a property": "class A:\n    value = property(lambda s: 1)\ndef f(x): return A()",
    # leaving before the end
    "sys.exit while loading": "import sys\nsys.exit(0)",
    "os._exit while loading": "import os\nos._exit(0)",
    "sys.exit in a call": "import sys\ndef f(x): sys.exit(0)",
    "os._exit in a call": "import os\ndef f(x): os._exit(0)",
    "raise SystemExit": "def f(x): raise SystemExit(0)",
    "quit": "def f(x): quit()",
    "a success raised": "class Passed(Exception): pass\ndef f(x): raise Passed('ok')",
    "an interrupt": "def f(x): raise KeyboardInterrupt",
    "killed by itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGKILL)",
    "terminated by itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGTERM)",
    "an exit handler": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
    "a syntax error": "def f(x) return x",
    "nothing defined": "pass",
    "f is no function": "f = 231",
    "a null byte": "def f(x): return 1\0",
    # printing what is wanted
    "prints the answer": "def f(x): print(x * x + 7 * x + 3)",
    "prints ok": "print('ok'); print('4 passed')\ndef f(x): print('PASSED')",
    "writes to stderr": "import os\ndef f(x): os.write(2, b'ok')",
    # forging the channel
    "writes into the channel": "import os\ndef f(x): os.write(3, b'ok' * 100)",
    "forges a frame": "import os\ndef f(x): os.write(3, bytes(16) + b'\\1\\0\\0\\0T')",
    "answers with another frame": "import os\nfrom daedal.sandbox import wire\ndef f(x): os.write(3, wire.frame(bytes(16), ('ok', 231, '')))",
    "answers while loading": "import os\nfrom daedal.sandbox import wire\nfor _ in range(9): os.write(3, wire.frame(bytes(16), ('ok', 231, '')))",
    "finds the nonce, says passed": "import os, sys\nfrom daedal.sandbox import wire\ndef f(x):\n    g = sys._getframe()\n    while g:\n        n = g.f_locals.get('nonce')\n        if n: os.write(3, wire.frame(n, ('ok', 'passed', ''))); os._exit(0)\n        g = g.f_back",
    "answers twice": "import os, sys\nfrom daedal.sandbox import wire\ndef f(x):\n    g = sys._getframe()\n    while g:\n        n = g.f_locals.get('nonce')\n        if n:\n            for v in range(300): os.write(3, wire.frame(n, ('ok', v, '')))\n            return 0\n        g = g.f_back",
    "says grade": "from daedal.sandbox import runner\nrunner.reply = lambda c, n, o, b: __import__('os').write(c, runner.wire.frame(n, {'score': 1.0, 'solved': True}))\ndef f(x): return 1",
    "says wrong form": "from daedal.sandbox import runner\nrunner.attempt = lambda a: ('ok', True, True)\ndef f(x): return 1",
    "closes the channel": "import os\ndef f(x): os.close(3)",
    "a late thread": "import threading, time, os\ndef late():\n    for _ in range(100): time.sleep(.002); os.write(3, b'ok')\nthreading.Thread(target=late, daemon=True).start()\ndef f(x):\n    time.sleep(.02)\n    return 0",
    "reads ahead": "import os\ndef f(x): return os.read(3, 1000)",
    "a handler of signals": "import signal, os\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\nsignal.setitimer(signal.ITIMER_REAL, .001)\ndef f(x):\n    while True: pass",
    # patching the judge, which is not there
    "patches compare": "import daedal.sandbox\nfrom daedal.sandbox import compare\ncompare.equal = lambda a, b: True\ndef f(x): return 0",
    "patches wire": "from daedal.sandbox import wire\nwire.encode = lambda *a: b'T'\ndef f(x): return 0",
    "patches builtins": "import builtins\nbuiltins.all = builtins.any = lambda *a: True\nbuiltins.len = lambda *a: 1\ndef f(x): return 0",
    "patches isinstance": "import builtins\nbuiltins.isinstance = lambda *a: True\ndef f(x): return 0",
    "patches math.isclose": "import math\nmath.isclose = lambda *a, **k: True\ndef f(x): return 0.0",
    "patches json": "import json\njson.dumps = lambda *a, **k: 'true'\ndef f(x): return 0",
    "patches operator.eq": "import operator\noperator.eq = lambda *a: True\ndef f(x): return 0",
    "patches AssertionError": "import builtins\nbuiltins.AssertionError = type('E', (Exception,), {})\ndef f(x): assert False",
    "patches unittest": "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef f(x): return 0",
    "rewrites small ints": "import ctypes\nfor i in range(257): ctypes.c_long.from_address(id(i) + 24).value = 231 if i == 1 else i\ndef f(x): return 1 if x == 999 else 0",
    "replaces print and exit": "import builtins, sys\nbuiltins.print = sys.exit = lambda *a: None\ndef f(x): return 0",
    # looking for what is wanted
    "frames": "import sys\ndef f(x):\n    g = sys._getframe()\n    while g:\n        for k, v in g.f_locals.items():\n            if 'want' in k or 'expected' in k: return v\n        g = g.f_back",
    "garbage collector": "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if type(o).__name__ == 'Case': return o.want\n    raise LookupError",
    "all ints in memory": "import gc\ndef f(x): return [o for o in gc.get_objects() if isinstance(o, tuple) and x in o and len(o) == 2][:1]",
    "modules": "import sys\ndef f(x): return [v for m in list(sys.modules.values()) for k, v in vars(m).items() if k in ('CASES', 'WANT', 'tests')][0]",
    "the folder": "import os\ndef f(x): return open(os.listdir('.')[0]).read()",
    "test files": "import glob\ndef f(x): return open(glob.glob('/**/test_*.py', recursive=False)[0]).read()",
    "environment": "import os\ndef f(x): return os.environ['EXPECTED']",
    "own memory": "def f(x): return open('/proc/self/mem', 'rb').read(10)",
    "tracing": "import sys\nseen = []\nsys.settrace(lambda fr, e, a: seen.append(fr.f_locals.get('want')))\ndef f(x): return [s for s in seen if s][0]",
    "the traceback": "def f(x):\n    try: 1 / 0\n    except Exception as e:\n        t = e.__traceback__.tb_frame.f_back\n        while t:\n            if 'case' in t.f_locals: return t.f_locals['case'].want\n            t = t.f_back",
    # files that a test runner would read
    "conftest.py": "open('conftest.py', 'w').write('def pytest_runtest_makereport(): pass')\ndef f(x): return 0",
    "sitecustomize.py": "import sysconfig\nopen(sysconfig.get_path('stdlib') + '/sitecustomize.py', 'w').write('')\ndef f(x): return 0",
    "pytest.ini": "open('pytest.ini', 'w').write('[pytest]\\naddopts = --co')\ndef f(x): return 0",
    "a memory between runs": "import os\ntry: n = int(open('/tmp/count').read())\nexcept OSError: n = 0\nopen('/tmp/count', 'w').write(str(n + 1))\ndef f(x): return n",
    # never answering
    "never ends": "def f(x):\n    while True: pass",
    "sleeps": "import time\ndef f(x): time.sleep(1000)",
    "stops itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)",
    "waits for input": "def f(x): return input()",
    "colliding keys": "def f(x): return {i * (2**61 - 1): 0 for i in range(1, 5000)}",
    "a recursion": "def f(x): return f(x)",
    "a huge number": "def f(x): return 1 << 10**8",
}

PROGRAMS = {
    "says nothing": "",
    "says passed": "print('PASSED')",
    "echoes": "print(input())",
    "exits at once": "import sys; sys.exit(0)",
    "exits hard": "import os; os._exit(0)",
    "prints all numbers": "for i in range(12000): print(i)",
    "prints one number a column": "print(*range(12000))",
    "prints the answer, then fails": "x = int(input()); print(x * x + 7 * x + 3); raise ValueError",
    "prints the answer, then is killed": "import os; x = int(input()); print(x * x + 7 * x + 3, flush=True); os.kill(os.getpid(), 9)",
    "prints the answer, then never ends": "x = int(input()); print(x * x + 7 * x + 3, flush=True)\nwhile True: pass",
    "answers on stderr": "import sys; x = int(input()); print(x * x + 7 * x + 3, file=sys.stderr)",
    "answers and more": "x = int(input()); print(x * x + 7 * x + 3); print('ok')",
    "answers where it may": "x = int(input()); print('a', x * x + 7 * x + 3)",
    "not a number": "print('nan')",
    "reads its judge": "print(open('/proc/self/fd/1').read())",
    "reads stdout": "import os; print(os.read(1, 10))",
    "floods": "while True: print('231' * 1000)",
    "leaves a thread": "import threading, time\nthreading.Thread(target=lambda: time.sleep(99)).start()",
}
