"""Attempts to get out, one per run: `attack.py NAME [ARG...]`.

Prints `SUCCESS …` when the attempt worked, `STOPPED why` when it did not. Anything else, also an
attempt that died, is for the caller to judge.
"""
import ctypes
import errno
import os
import signal
import socket
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {  # x86_64, aarch64
    "ptrace": (101, 117), "bpf": (321, 280), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "add_key": (248, 217), "keyctl": (250, 219),
    "mount": (165, 40), "fsopen": (430, 430), "setns": (308, 268), "unshare": (272, 97),
    "perf_event_open": (298, 241), "open_by_handle_at": (304, 265), "personality": (135, 92),
    "process_vm_readv": (310, 270), "init_module": (175, 105), "reboot": (169, 142),
    "chroot": (161, 51), "clone3": (435, 435), "pivot_root": (155, 41), "swapon": (167, 224),
    "clock_settime": (227, 112), "memfd_secret": (447, 447), "kexec_load": (246, 104),
    "sethostname": (170, 161), "shmget": (29, 194), "shmat": (30, 196), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "setpriority": (141, 140),
}


class Stopped(Exception):
    pass


def call(name, *args):
    number = NUMBERS[name][0 if os.uname().machine == "x86_64" else 1]
    return raw(number, *args)


def raw(number, *args):
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(number), *args)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def read(path):
    with open(path, "rb") as file:
        return file.read(200)


# Files

def read_file(path):
    return read(path)


def stat_file(path):
    return os.stat(path).st_size


def write_file(path):
    with open(path, "a") as file:
        file.write("x")
    return path


def make_file(folder):
    path = os.path.join(folder, "planted")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    return path


def touch_times(path):
    os.utime(path, (1, 1))
    return path


def chmod_file(path):
    os.chmod(path, 0o777)
    return path


def symlink_out(path):
    os.symlink(path, "link")
    return read("link")


def hardlink_out(path):
    os.link(path, "hard")
    return read("hard")


def dotdot(path):
    return read("../" * 20 + path.lstrip("/"))


def fd_leak():
    """A descriptor that leads out: anything but the three streams."""
    for fd in os.listdir("/proc/self/fd"):
        if int(fd) > 2:
            try:
                target = os.readlink("/proc/self/fd/" + fd)
            except FileNotFoundError:
                continue
            if not target.startswith("/proc/") and target != sys.argv[0]:
                return target
    raise Stopped("only the three streams")


def proc_root(pid):
    return os.listdir(f"/proc/{pid}/root/")


def proc_environ(pid):
    return read(f"/proc/{pid}/environ")


def proc_cmdline(pid):
    return read(f"/proc/{pid}/cmdline")


def proc_mem(pid):
    with open(f"/proc/{pid}/mem", "r+b"):
        return "opened"


def init_mem():
    with open("/proc/1/mem", "r+b"):
        return "opened"


def sysrq():
    fd = os.open("/proc/sysrq-trigger", os.O_WRONLY)  # nothing is ever written
    os.close(fd)
    return "opened"


def core_pattern():
    fd = os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)
    os.close(fd)
    return "opened"


def oom_protect():
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")
    return "protected"


def sys_files():
    return os.listdir("/sys/kernel")


def cgroup_files():
    return os.listdir("/sys/fs/cgroup")


def cgroup_path():
    for line in read("/proc/self/cgroup").decode().splitlines():
        path = line.split(":", 2)[2]
        if "taffrail-" in path:
            return path
    raise Stopped("no name of a group")


def device(path):
    fd = os.open(path, os.O_RDWR)
    os.close(fd)
    return path


def mknod():
    os.mknod("disk", 0o600 | 0o060000, os.makedev(254, 0))
    return read("disk")


def setuid_file(path):
    """A file with the setuid bit of user 0."""
    out = os.popen(f"{path} -c 'import os; print(os.geteuid())'").read().strip()
    if out == "0":
        return "user 0"
    raise Stopped(f"user {out}")


def setuid_call():
    os.setuid(0)
    if os.getuid() != 0:
        raise Stopped("still not user 0")
    return read("/etc/shadow") or "user 0"


def file_caps():
    """Plants a capability on a file: version 2, cap_sys_admin, permitted and effective."""
    os.close(os.open("planted", os.O_CREAT | os.O_WRONLY, 0o755))
    value = struct.pack("<IIIII", 0x02000001, 1 << 21, 0, 0, 0)
    os.setxattr("planted", "security.capability", value)
    return "planted"


def effective_caps():
    for line in open("/proc/self/status"):
        name, _, value = line.partition(":")
        if name in ("CapPrm", "CapEff", "CapInh", "CapAmb") and int(value, 16) != 0:
            return line.strip()
    raise Stopped("none")


# System calls

def unshare_user():
    call("unshare", 0x10000000)
    return "a user namespace"


def clone_user():
    number = 56 if os.uname().machine == "x86_64" else 220
    if raw(number, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)
    return "a user namespace"


def clone3_user():
    args = (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    if call("clone3", ctypes.byref(args), 64) == 0:
        os._exit(0)
    return "a user namespace"


def x32():
    """getpid of the x32 interface: filters that only compare numbers miss it."""
    if os.uname().machine != "x86_64":
        raise Stopped("no such interface")
    return raw(0x40000000 | 39)


def unknown_call():
    """A number no kernel has yet; a filter must not let it through to whatever it becomes."""
    try:
        return raw(2000)
    except OSError as error:
        raise Stopped(errno.errorcode[error.errno])


def mount_tmpfs():
    call("mount", b"none", b"/tmp", b"tmpfs", 0, b"")
    return "mounted"


def remount_rw():
    call("mount", b"none", b"/usr", b"", 32 | 4096, b"")
    return "remounted"


def fsopen():
    return call("fsopen", b"tmpfs", 0)


def setns(pid):
    fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    return call("setns", fd, 0)


def ptrace(pid):
    call("ptrace", 0x4206, int(pid), 0, 0)
    return "seized"


def ptrace_init():
    return ptrace(1)


def ptrace_self():
    """Of a child: what a debugger does."""
    pid = os.fork()
    if pid == 0:
        time.sleep(5)
        os._exit(0)
    try:
        return ptrace(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def process_vm(pid):
    buffer = ctypes.create_string_buffer(8)
    iov = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
    return call("process_vm_readv", int(pid), iov, 1, iov, 1, 0)


def bpf():
    attr = (ctypes.c_uint32 * 16)(2, 4, 8, 1)
    return call("bpf", 0, ctypes.byref(attr), 64)


def io_uring():
    params = ctypes.create_string_buffer(120)
    return call("io_uring_setup", 4, params)


def userfaultfd():
    return call("userfaultfd", 1)


def keyring():
    return call("add_key", b"user", b"taffrail", b"x", 1, -5)


def perf():
    attr = ctypes.create_string_buffer(128)
    struct.pack_into("<II", attr, 0, 1, 128)
    struct.pack_into("<Q", attr, 40, 0x61)  # disabled, no kernel, no hypervisor
    return call("perf_event_open", attr, 0, -1, -1, 0)


def handle_at():
    try:
        return call("open_by_handle_at", -100, ctypes.create_string_buffer(64), 0)
    except OSError as error:
        raise Stopped(errno.errorcode[error.errno])


def personality():
    call("personality", 0x0040000)
    return "no randomised addresses"


def chroot():
    call("chroot", b"/")
    return "chroot"


def hostname():
    call("sethostname", b"x", 1)
    return "renamed"


def host_name_known(name):
    if os.uname().nodename == name:
        return name
    raise Stopped(os.uname().nodename)


def clock():
    call("clock_settime", 0, struct.pack("qq", int(time.time()), 0))
    return "set"


def module():
    return call("init_module", ctypes.create_string_buffer(8), 8, b"")


def secret_memory():
    return call("memfd_secret", 0)


def tiocsti():
    import fcntl
    fcntl.ioctl(0, 0x5412, b"x")
    return "typed"


# Network

def tcp(port):
    socket.create_connection(("127.0.0.1", int(port)), 2)
    return "connected"


def udp(port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(("127.0.0.1", int(port)))
    s.send(b"x")
    return "sent"


def packet_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    return "opened"


def netlink_socket():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    return "opened"


def alg_socket():
    s = socket.socket(38, socket.SOCK_SEQPACKET)
    s.bind(("hash", "sha256"))
    return "opened"


def vsock_or_alg():
    """Whichever rare family this kernel has."""
    for attempt in (alg_socket, vsock, packet_socket, netlink_socket):
        try:
            return attempt()
        except OSError as error:
            last = error
    raise last


def vsock():
    socket.socket(40, socket.SOCK_STREAM)
    return "opened"


def abstract_socket(name):
    s = socket.socket(socket.AF_UNIX)
    s.connect("\0" + name)
    return "connected"


def unix_socket(path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    return "connected"


def bind_abstract(name):
    """Allowed: what is made inside is for inside."""
    s = socket.socket(socket.AF_UNIX)
    s.bind("\0" + name)
    return "bound"


def socket_table(name):
    if name in read_all("/proc/net/unix"):
        return name
    raise Stopped("not listed")


def read_all(path):
    with open(path) as file:
        return file.read()


# Other processes

def kill(pid):
    os.kill(int(pid), signal.SIGTERM)
    return "sent"


def kill_init():
    os.kill(1, signal.SIGKILL)
    time.sleep(0.3)
    raise Stopped("process 1 is immune")


def prlimit(pid):
    import resource
    resource.prlimit(int(pid), resource.RLIMIT_CORE, (0, 0))
    return "limited"


def priority(pid):
    os.setpriority(os.PRIO_PROCESS, int(pid), 5)
    return "lowered"


def nice_up():
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    return "raised"


def sees(pid):
    os.getpgid(int(pid))
    return "is there"


def shared_memory(key):
    seg = call("shmget", int(key), 4096, 0)
    libc.shmat.restype = ctypes.c_void_p
    at = libc.shmat(seg, None, 0)
    if at in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "shmat")
    return ctypes.string_at(at, 6)


def daemon(path):
    """A grandchild in a session of its own that writes after the program is gone."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in (0, 1, 2):
                os.close(fd)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(2)
            open(path, "w").write("alive")
        os._exit(0)
    time.sleep(0.2)
    return "left behind"


def raise_limit():
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 19, 1 << 19))
    return "raised"


def core_dump():
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))
    return "allowed"


def core_file():
    """Whether a crash leaves the memory of the program behind."""
    if os.fork() == 0:
        os.abort()
    _, status = os.wait()
    if os.WCOREDUMP(status):
        return "dumped"
    raise Stopped("no dump")


# Bombs; bounded here as well, for the case that a limit does not hold

def fork_bomb(most):
    made = 0
    try:
        while made < int(most):
            if os.fork() == 0:
                time.sleep(20)
                os._exit(0)
            made += 1
    except OSError as error:
        raise Stopped(f"{made} {error}")
    return made


def memory_bomb(most):
    held = []
    while len(held) < int(most) >> 20:
        held.append(b"x" * (1 << 20))
    return len(held)


def memory_bomb_many(most, parts):
    """The same, each part below the limit of one process."""
    children = []
    for _ in range(int(parts)):
        pid = os.fork()
        if pid == 0:
            held = [b"x" * (1 << 20) for _ in range((int(most) // int(parts)) >> 20)]
            time.sleep(1.5)
            os._exit(0 if held else 1)
        children.append(pid)
    ended = [os.waitpid(pid, 0)[1] for pid in children]
    if any(ended):
        raise Stopped(str(ended))
    return "all of it"


def memory_bomb_file(most):
    """Memory that belongs to no process, in files below the limit of one."""
    held = []
    for _ in range(int(most) >> 24):
        held.append(os.memfd_create("bomb"))
        for _ in range(16):
            os.write(held[-1], b"x" * (1 << 20))
    return most


def disk_bomb(folder, most):
    block, written = b"x" * (1 << 20), 0
    try:
        for number in range(64):
            with open(os.path.join(folder, f"bomb{number}"), "wb", 0) as file:
                while written < int(most) and file.tell() < int(most) // 32:
                    written += file.write(block)
    except OSError as error:
        raise Stopped(f"{written} {error}")
    time.sleep(3)
    return written


def big_file(most):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("big", "wb", 0) as file:
        file.truncate(int(most))
    return most


def inode_bomb(most):
    made = 0
    try:
        for made in range(int(most)):
            os.close(os.open(f"i{made}", os.O_CREAT))
    except OSError as error:
        raise Stopped(f"{made} {error}")
    return made


def fd_bomb(most):
    held = []
    try:
        for _ in range(int(most)):
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        raise Stopped(f"{len(held)} {error}")
    return len(held)


def flood(most):
    block, written = b"x" * 65536, 0
    while written < int(most):
        written += os.write(1, block)
    return written


def spin(seconds):
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        pass
    return time.process_time()


def stay():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


def main():
    attempt = globals()[sys.argv[1]]
    try:
        print("\nSUCCESS", attempt(*sys.argv[2:]), flush=True)
    except Stopped as why:
        print("\nSTOPPED", why, flush=True)
    except OSError as error:
        print("\nSTOPPED", errno.errorcode.get(error.errno, error.errno), error, flush=True)
    except ValueError as error:  # what setrlimit says instead of EPERM
        print("\nSTOPPED", error, flush=True)
    except MemoryError:
        print("\nSTOPPED MemoryError", flush=True)


main()
