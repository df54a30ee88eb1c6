"""Programs that want out: to files, sockets, processes, other processes' memory, the kernel's rarer calls.
Each defines `attempt(secret, outside)` and returns something true if it got there; `secret` is a file of
ours that anyone may read, `outside` a folder that anyone may write. `SYSTEM_CALLS` must not even reach the
kernel's checks of their arguments. What only takes too much is in `GREEDY`: it must end, and not well."""

from itertools import chain

READ = (
    "/etc/passwd /etc/shadow /etc/hosts /etc/hostname /etc/resolv.conf /etc/fstab /etc/group /etc/ssl/openssl.cnf "
    "/proc/self/environ /proc/self/maps /proc/self/mem /proc/self/status /proc/self/cmdline /proc/1/environ /proc/1/cmdline "
    "/proc/version /proc/cpuinfo /proc/meminfo /proc/mounts /proc/net/tcp /proc/kallsyms /proc/sys/kernel/osrelease "
    "/sys/kernel/notes /sys/fs/cgroup/memory.max /dev/kmsg /dev/mem /dev/vda /dev/sda /dev/tty /dev/ptmx /dev/kvm /dev/fuse "
    "/dev/loop-control /dev/net/tun /var/log/dpkg.log /var/lib/dpkg/status /root/.bashrc /root/.ssh/id_rsa /run/utmp"
).split()
LISTED = "/ /etc /home /root /tmp /var /var/log /proc /sys /dev /dev/shm /run /opt /mnt /srv".split()
# expressions with `secret` that are true where its content comes back
READERS = {
    "open": "open(secret).read()",
    "os.open": "os.read(os.open(secret, os.O_RDONLY), 9)",
    "a raw file": "io.FileIO(secret).read()",
    "pathlib": "pathlib.Path(secret).read_text()",
    "codecs": "__import__('codecs').open(secret).read()",
    "gzip": "__import__('gzip').open(secret).read()",
    "fileinput": "list(__import__('fileinput').input(secret))",
    "linecache": "__import__('linecache').getlines(secret)",
    "tokenize": "__import__('tokenize').open(secret).read()",
    "sqlite": "__import__('sqlite3').connect(secret).execute('select * from sqlite_master').fetchall() or 1",
    "runpy": "__import__('runpy').run_path(secret)",
    "a loader": "__import__('importlib.machinery').machinery.SourceFileLoader('m', secret).get_data(secret)",
    "dlopen": "ctypes.CDLL(secret)",
    "mmap": "mmap.mmap(os.open(secret, os.O_RDONLY), 9, prot=mmap.PROT_READ)[:]",
    "a copy": "__import__('shutil').copy(secret, outside + '/copy')",
    "sendfile": "os.sendfile(1, os.open(secret, os.O_RDONLY), 0, 9)",
    "libc open": "libc.open(secret.encode(), 0) >= 0",
    "libc fopen": "libc.fopen(secret.encode(), b'r')",
    "openat by number": "libc.syscall(257, -100, secret.encode(), 0) >= 0",
    "creat by number": "libc.syscall(85, secret.encode(), 0o600) >= 0",
    "a relative path": "open('../' * 20 + secret).read()",
    "from where we are": "open('secret').read()",
    "beneath an open folder": "os.open('secret', os.O_RDONLY, dir_fd=os.open(os.path.dirname(secret), os.O_PATH))",
    "after chdir": "os.chdir(os.path.dirname(secret)) or open('secret').read()",
    "after chroot": "os.chroot(os.path.dirname(secret)) or open('/secret').read()",
    "through the standard library": "open(os.path.dirname(os.__file__) + '/../' * 9 + secret).read()",
    "a link to it": "os.symlink(secret, outside + '/link') or open(outside + '/link').read()",
    "a hard link": "os.link(secret, outside + '/hard') or open(outside + '/hard').read()",
    "a descriptor of a path": "open('/proc/self/fd/%d' % os.open(secret, os.O_PATH)).read()",
    "another's root": "open('/proc/1/root' + secret).read()",
    "another's folder": "open('/proc/%d/cwd/secret' % os.getppid()).read()",
    "mail to fd 9": "[os.read(n, 9) for n in range(4, 99)]",
    "certificates": "__import__('ssl').create_default_context().load_verify_locations(secret) or 1",
    "to truncate": "os.close(os.open(secret, os.O_RDONLY | os.O_TRUNC)) or 1",
}
# statements that change something outside, or make something
WRITERS = {
    "a file here": "open('x', 'w')",
    "a file in /tmp": "open('/tmp/daedal-escape', 'w')",
    "a file outside": "open(outside + '/x', 'w')",
    "an append": "open(secret, 'a')",
    "an exclusive file": "os.open(outside + '/x', os.O_CREAT | os.O_EXCL | os.O_WRONLY)",
    "an unnamed file": "os.open(outside, os.O_TMPFILE | os.O_RDWR)",
    "a folder": "os.mkdir(outside + '/d')",
    "a link": "os.symlink('/etc', outside + '/l')",
    "a hard link": "os.link(secret, outside + '/h')",
    "a new name": "os.rename(secret, outside + '/n')",
    "a removal": "os.unlink(secret)",
    "a folder's removal": "os.rmdir(outside)",
    "rights": "os.chmod(secret, 0o777)",
    "rights of a descriptor": "os.fchmod(os.open(outside, os.O_RDONLY), 0o777)",
    "an owner": "os.chown(secret, os.getuid(), os.getgid())",
    "times": "os.utime(secret)",
    "a truncation": "os.truncate(secret, 0)",
    "attributes": "os.setxattr(secret, 'user.x', b'1')",
    "a pipe with a name": "os.mkfifo(outside + '/p')",
    "a device": "os.mknod(outside + '/m', 0o20600, os.makedev(1, 1))",
    "a temporary file": "__import__('tempfile').NamedTemporaryFile()",
    "a temporary folder": "__import__('tempfile').mkdtemp()",
    "memory with a name": "__import__('multiprocessing.shared_memory').shared_memory.SharedMemory(create=True, size=9)",
    "a semaphore": "__import__('multiprocessing').Semaphore()",
    "a file in memory": "os.memfd_create('x')",
    "a file in /dev/shm": "open('/dev/shm/x', 'w')",
    "a database": "__import__('dbm').open(outside + '/db', 'c')",
    "a table": "__import__('sqlite3').connect(outside + '/s').execute('create table t (x)')",
    "the standard library": "open(os.__file__, 'r+')",
    "the library emptied": "os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)",
    "bytecode": "__import__('py_compile').compile(os.__file__, outside + '/c.pyc', doraise=True)",
    "another root": "os.chroot(outside)",
    "a disk": "open('/dev/vda', 'r+b')",
    "a kernel setting": "open('/proc/sys/kernel/hostname', 'w')",
    "its own limits": "open('/proc/self/oom_score_adj', 'w')",
    "a core pattern": "open('/proc/sys/kernel/core_pattern', 'w')",
    "a control group": "os.mkdir('/sys/fs/cgroup/x')",
}
CONNECTIONS = {
    "tcp": "socket.socket()",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "raw": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "tcp 6": "socket.socket(socket.AF_INET6)",
    "local": "socket.socket(socket.AF_UNIX)",
    "local datagrams": "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "packets": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "vsock": "socket.socket(40, socket.SOCK_STREAM)",
    "the kernel's ciphers": "socket.socket(38, socket.SOCK_SEQPACKET)",
    "bluetooth": "socket.socket(31, socket.SOCK_RAW, 1)",
    "can": "socket.socket(29, socket.SOCK_RAW, 1)",
    "xdp": "socket.socket(44, socket.SOCK_RAW)",
    "a pair of datagrams": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "a pair of packets": "socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)",
    "a pair elsewhere": "socket.socketpair(socket.AF_INET)",
    "connect": "socket.create_connection(('127.0.0.1', 22), 1)",
    "a server": "socket.create_server(('127.0.0.1', 0))",
    "names": "socket.getaddrinfo('example.com', 80)",
    "http": "__import__('urllib.request').request.urlopen('http://127.0.0.1:1', timeout=1)",
    "http.client": "__import__('http.client').client.HTTPConnection('127.0.0.1', 1, timeout=1).connect()",
    "ftp": "__import__('ftplib').FTP('127.0.0.1', timeout=1)",
    "mail": "__import__('smtplib').SMTP('127.0.0.1', timeout=1)",
    "xml": "__import__('xmlrpc.client').client.ServerProxy('http://127.0.0.1:1').f()",
    "asyncio": "__import__('asyncio').run(__import__('asyncio').open_connection('127.0.0.1', 1))",
    "a log": "__import__('logging.handlers').handlers.SysLogHandler('/dev/log').socket.fileno()",
    "by number": "libc.syscall(41, 2, 1, 0) >= 0",
    "stdout used again": "libc.connect(1, b'\\1\\0/run/x', 8) == 0 or libc.bind(1, b'\\1\\0\\0abc', 6) == 0",
    "stdout to an address": "libc.sendto(1, b'x', 1, 0, b'\\1\\0/dev/log', 10) > 0",
    "a listening stdout": "libc.listen(1, 5) == 0",
}
PROCESSES = {
    "fork": "os.fork()",
    "a terminal's fork": "os.forkpty()",
    "spawn": "os.posix_spawn('/bin/sh', ['sh', '-c', 'exit'], {})",
    "spawn by path": "os.posix_spawn('/usr/bin/env', ['env'], {})",
    "subprocess": "subprocess.run(['/bin/true'])",
    "a shell": "subprocess.run('true', shell=True)",
    "python": "subprocess.run([sys.executable, '-c', ''])",
    "system": "os.system('exit 0') == 0",
    "popen": "os.popen('echo 1').read()",
    "exec": "os.execv('/bin/sh', ['sh', '-c', 'echo out'])",
    "exec the loader": "os.execv('/lib64/ld-linux-x86-64.so.2', ['ld', '/bin/sh', '-c', 'echo out'])",
    "exec an open file": "os.execve(os.open('/usr/lib/os-release', os.O_RDONLY), ['x'], {})",
    "exec by number": "libc.syscall(322, -100, b'/bin/true', 0, 0, 0) == 0",
    "multiprocessing": "__import__('multiprocessing').Process(target=print).start() or 1",
    "a pool": "__import__('multiprocessing').Pool(1)",
    "futures": "__import__('concurrent.futures').futures.ProcessPoolExecutor(1).submit(print).result(2) or 1",
    "pty": "__import__('pty').fork()",
    "vfork by number": "libc.syscall(58) >= 0",
    "fork by number": "libc.syscall(57) >= 0",
    "clone": "libc.syscall(56, 17, 0, 0, 0, 0) >= 0",
    "clone with memory": "libc.syscall(56, 0x100 | 17, 0, 0, 0, 0) >= 0",
    "clone to the parent": "libc.syscall(56, 0x8000 | 17, 0, 0, 0, 0) >= 0",
    "clone a user": "libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) >= 0",
    "clone a thread with a network": "libc.syscall(56, 0x40000000 | 0x10000 | 0x900, 0, 0, 0, 0) >= 0",
    "clone3": "libc.syscall(435, bytes(88), 88) >= 0",
    "webbrowser": "__import__('webbrowser').open('http://127.0.0.1') or None",
}
SIGNALS = {
    "look at the parent": "os.kill(os.getppid(), 0) is None",
    "kill the parent": "os.kill(os.getppid(), 9) is None",
    "stop the parent": "os.kill(os.getppid(), 19) is None",
    "kill the first": "os.kill(1, 9) is None",
    "kill all": "os.kill(-1, 9) is None",
    "kill a group": "os.killpg(os.getpgid(os.getppid()), 9) is None",
    "kill group one": "os.killpg(1, 9) is None",
    "kill a thread": "libc.syscall(200, os.getppid(), 9) == 0",
    "kill a thread of": "libc.syscall(234, os.getppid(), os.getppid(), 9) == 0",
    "queue a signal": "libc.sigqueue(os.getppid(), 9, 0) == 0",
    "a handle of the parent": "os.pidfd_open(os.getppid())",
    "a handle of itself": "os.pidfd_open(os.getpid())",
    "signal by descriptor": "fcntl.fcntl(1, 8, os.getppid()) or 1",
    "another signal by descriptor": "fcntl.fcntl(1, 10, 9) or 1",
    "an owner by ioctl": "fcntl.ioctl(1, 0x8901, os.getppid().to_bytes(4, 'little')) or 1",
    "notifications": "fcntl.fcntl(os.open('/usr/lib', os.O_RDONLY), 1026, 7) or 1",
    "a lease": "fcntl.fcntl(os.open(os.__file__, os.O_RDONLY), 1024, 0) or 1",
    "live after the parent": "libc.prctl(1, 0, 0, 0, 0) == 0",
    "adopt orphans": "libc.prctl(36, 1, 0, 0, 0) == 0",
    "be traced by anyone": "libc.prctl(0x59616D61, -1, 0, 0, 0) == 0",
    "new privileges": "libc.prctl(38, 0, 0, 0, 0) == 0",
    "leave the group": "os.setpgid(0, 0) is None",
    "leave the session": "os.setsid()",
    "the parent's limits": "__import__('resource').prlimit(os.getppid(), 7)",
    "the parent's cores": "os.sched_setaffinity(os.getppid(), [0]) is None",
    "the parent's priority": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 5) is None",
    "a scheduler": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)) is None",
    "be root": "os.setuid(0) is None and open('/etc/shadow').read()",
    "be in root's group": "os.setgroups([0]) is None",
    "more processes": "raise_limit(6)",
    "more files": "raise_limit(7)",
    "more memory": "raise_limit(9)",
    "more time": "raise_limit(0)",
    "larger files": "raise_limit(1)",
}
# x86_64: name -> number, arguments. The kernel must answer that there is no such call, or no leave.
SYSTEM_CALLS = {
    "ptrace traceme": (101, 0, 0, 0, 0), "ptrace attach": (101, 16, 1, 0, 0), "process_vm_readv": (310, 1, 0, 0, 0, 0, 0), "process_vm_writev": (311, 1, 0, 0, 0, 0, 0),
    "process_madvise": (440, 0, 0, 0, 0, 0), "pidfd_getfd": (438, 0, 0, 0), "pidfd_send_signal": (424, 0, 9, 0, 0), "kcmp": (312, 1, 1, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0), "bpf": (321, 0, 0, 0), "userfaultfd": (323, 0), "io_uring_setup": (425, 8, 0), "io_uring_enter": (426, 0, 0, 0, 0, 0),
    "io_uring_register": (427, 0, 0, 0, 0), "io_setup": (206, 1, 0), "keyctl": (250, 0, -3, 0), "add_key": (248, 0, 0, 0, 0, -3), "request_key": (249, 0, 0, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0), "umount2": (166, 0, 0), "pivot_root": (155, 0, 0), "chroot": (161, 0), "unshare": (272, 0x10000000), "setns": (308, 0, 0),
    "fsopen": (430, 0, 0), "fsmount": (432, 0, 0, 0), "open_tree": (428, -100, 0, 0), "move_mount": (429, 0, 0, 0, 0, 0), "mount_setattr": (442, 0, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0), "finit_module": (313, 0, 0, 0), "delete_module": (176, 0, 0), "kexec_load": (246, 0, 0, 0, 0), "kexec_file_load": (320, 0, 0, 0, 0, 0),
    "reboot": (169, 0, 0, 0, 0), "swapon": (167, 0, 0), "swapoff": (168, 0), "syslog": (103, 3, 0, 0), "acct": (163, 0), "quotactl": (179, 0, 0, 0, 0),
    "fanotify_init": (300, 0, 0), "inotify_init1": (294, 0), "personality": (135, 0x0040000), "modify_ldt": (154, 0, 0, 0), "iopl": (172, 3), "ioperm": (173, 0, 1, 1),
    "settimeofday": (164, 0, 0), "clock_settime": (227, 0, 0), "clock_adjtime": (305, 0, 0), "adjtimex": (159, 0), "sethostname": (170, 0, 0), "setdomainname": (171, 0, 0),
    "setuid": (105, 0), "setgid": (106, 0), "setreuid": (113, 0, 0), "setresuid": (117, 0, 0, 0), "setresgid": (119, 0, 0, 0), "setfsuid": (122, 0), "capset": (126, 0, 0),
    "seccomp": (317, 1, 0, 0), "landlock": (444, 0, 0, 1), "memfd_create": (319, 0, 0), "memfd_secret": (447, 0), "vmsplice": (278, 1, 0, 0, 0), "splice": (275, 0, 0, 1, 0, 1, 0),
    "tee": (276, 0, 1, 1, 0), "mbind": (237, 0, 0, 0, 0, 0, 0), "migrate_pages": (256, 0, 0, 0, 0), "move_pages": (279, 0, 0, 0, 0, 0, 0), "name_to_handle_at": (303, 0, 0, 0, 0, 0),
    "open_by_handle_at": (304, 0, 0, 0), "openat2": (437, -100, 0, 0, 0), "open_tree_attr": (467, 0, 0, 0, 0, 0), "execveat": (322, 0, 0, 0, 0, 0), "shmget": (29, 0, 99, 0o1600), "shmat": (30, 0, 0, 0),
    "msgget": (68, 0, 0o1600), "semget": (64, 0, 1, 0o1600), "mq_open": (240, 0, 0, 0, 0), "vhangup": (153,), "uselib": (134, 0), "sendmsg": (46, 1, 0, 0),
    "recvmsg": (47, 1, 0, 0), "sendmmsg": (307, 1, 0, 0, 0), "bind": (49, 1, 0, 0), "listen": (50, 1, 0), "connect": (42, 1, 0, 0), "accept": (43, 1, 0, 0), "accept4": (288, 1, 0, 0, 0),
    "setsockopt": (54, 1, 0, 0, 0, 0), "mlockall": (151, 3), "remap_file_pages": (216, 0, 0, 0, 0, 0), "setpgid": (109, 0, 0), "setsid": (112,), "rt_sigqueueinfo": (129, 1, 9, 0), "rt_tgsigqueueinfo": (297, 1, 1, 9, 0),
    "tkill": (200, 1, 9), "sched_setaffinity": (203, 1, 0, 0), "sched_setscheduler": (144, 0, 1, 0), "sched_setattr": (314, 0, 0, 0), "setpriority": (141, 0, 0, 5), "ioprio_set": (251, 1, 0, 0),
    "flock": (73, 1, 2), "lookup_dcookie": (212, 0, 0, 0), "futex_waitv": (449, 0, 0, 0, 0, 0), "cachestat": (451, 0, 0, 0, 0), "map_shadow_stack": (453, 0, 0, 0), "unused": (9999,),
}  # fmt: skip
# each takes too much, of one thing; it must end within its limits, and not as "ok"
GREEDY = {
    "a loop": "while True: pass",
    "a loop that ignores its limit": "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    "a sleep": "import time; time.sleep(1000)",
    "a stop": "import os; os.kill(os.getpid(), 19)",
    "a deadlock": "import threading; a = threading.Lock(); a.acquire(); a.acquire()",
    "a regular expression": "import re; re.match('(a+)+$', 'a' * 40 + 'b')",
    "a power": "9 ** 9 ** 9",
    "bytes": "x = bytes(2**31)",
    "a list": "x = [0]\nwhile True: x += x",
    "a string": "x = 'a'\nwhile True: x += x",
    "shared memory": "import mmap\nx = mmap.mmap(-1, 2**31)\nfor i in range(0, 2**31, 4096): x[i] = 1",
    "objects": "x = None\nwhile True: x = [x, x]",
    "threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(100,)).start()",
    "fork": "import os\nwhile True: os.fork()",
    "files": "import os\nx = [os.dup(0) for _ in range(10**6)]",
    "pipes": "import os\nx = [os.pipe() for _ in range(10**6)]",
    "stdout": "while True: print('x' * 10**5)",
    "stderr": "import sys\nwhile True: sys.stderr.write('x' * 10**5)",
    "stdout in bytes": "import os\nwhile True: os.write(1, b'x')",
    "both": "import os\nwhile True: os.write(1, b'x' * 999); os.write(2, b'y' * 999)",
    "stack": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return [f() for _ in '1']\nf()",
    "native stack": "import sys, functools\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
    "a bad address": "import ctypes; ctypes.string_at(1)",
    "an abort": "import os; os.abort()",
    "a 32-bit system call": "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(b'\\xb8\\x02\\0\\0\\0\\xcd\\x80\\xc3')\nctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()",
    "an x32 system call": "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)",
    "its own signal": "import os; os.kill(os.getpid(), 11)",
    "an exit code": "import os; os._exit(3)",
    "timers": "import signal, time\nsignal.signal(14, lambda *a: None)\nsignal.setitimer(0, .0001, .0001)\nwhile True: time.sleep(1)",
    "a json": "import json; json.loads('[' * 10**6)",
    "a parser": "eval('(' * 10**6)",
}

HEADER = """
import ctypes, fcntl, io, mmap, os, pathlib, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def raise_limit(kind):
    import resource
    soft, hard = resource.getrlimit(kind)
    more = hard * 2 + 1
    resource.setrlimit(kind, (more, more))
    return resource.getrlimit(kind)[1] >= more
def attempt(secret, outside):
"""


def expressions() -> dict[str, str]:
    """Name -> code of every escape that says itself whether it succeeded."""
    listed = (("read " + path, f"open({path!r}, 'rb', 0).read(1)") for path in READ)
    folders = ((f"list {path}", f"os.listdir({path!r})") for path in LISTED)
    readers = (("read by " + name, code) for name, code in READERS.items())
    writers = (("make " + name, f"{code} is None or True") for name, code in WRITERS.items())
    sockets = (("connect by " + name, code) for name, code in CONNECTIONS.items())
    starts = (("start by " + name, f"{code} is not None") for name, code in PROCESSES.items())
    signals = SIGNALS.items()
    everything = chain(listed, folders, readers, writers, sockets, starts, signals)
    return {name: f"{HEADER}    return bool({code})" for name, code in everything}


def system_calls() -> dict[str, str]:
    """Name -> code of those that must be refused before the kernel looks at their arguments."""
    code = "{header}    r = libc.syscall({numbers})\n    return r >= 0 or ctypes.get_errno() not in (1, 13, 38)"
    return {
        f"call {name}": code.format(header=HEADER, numbers=", ".join(map(str, numbers)))
        for name, numbers in SYSTEM_CALLS.items()
    }
