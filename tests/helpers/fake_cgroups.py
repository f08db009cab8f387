"""The files by which Linux tells of control groups and processors, as real systems have them, in a test's folder.

Each function writes one kind of system and leaves the folder that the group's limits lie in.
"""

CPU_STAT = "usage_usec 5\nnr_periods {}\nnr_throttled {}\nthrottled_usec 7\n"
MOUNT = "31 23 0:28 {below} {where} rw,nosuid shared:9 - {kind} {kind} rw{options}\n"


def version_2(root, group="/", below="/", where="/sys/fs/cgroup"):
    """A system of version 2 alone; in a container with a namespace of its own the group is /."""
    write(root / "proc/self/cgroup", f"0::{group}\n")
    write(root / "proc/self/mountinfo", MOUNT.format(below=below, where=where, kind="cgroup2", options=",nsdelegate"))
    folder = root / where.lstrip("/")
    return inside(folder, group, below)


def version_1(root, group="/", below="/", where="/sys/fs/cgroup/cpu,cpuacct"):
    """A hybrid system: version 1 limits the CPU, and version 2 is there beside it without limiting anything."""
    lines = (f"4:cpu,cpuacct:{group}", "3:cpuset:/", "1:name=systemd:/user.slice", "0::/user.slice")
    write(root / "proc/self/cgroup", "\n".join(lines) + "\n")
    mounts = (
        ("cgroup", where, below, ",cpu,cpuacct"),
        ("cgroup", "/sys/fs/cgroup/cpuset", "/", ",cpuset"),
        ("cgroup2", "/sys/fs/cgroup/unified", "/", ""),
    )
    text = "".join(MOUNT.format(below=under, where=at, kind=kind, options=more) for kind, at, under, more in mounts)
    write(root / "proc/self/mountinfo", "23 1 254:0 / / rw,relatime - ext4 /dev/root rw\n" + text)
    return inside(root / where.lstrip("/").replace("\\040", " "), group, below)


def limited(folder, quota, period=100_000, *, version=2):
    """The group may compute for `quota` of every `period` microseconds."""
    if version == 2:
        write(folder / "cpu.max", f"{quota} {period}\n")
    else:
        write(folder / "cpu.cfs_quota_us", f"{quota}\n")
        write(folder / "cpu.cfs_period_us", f"{period}\n")


def counted(folder, periods, stopped):
    """The group has computed in so many periods, and was stopped in some."""
    write(folder / "cpu.stat", CPU_STAT.format(periods, stopped))


def threaded(root, *cores):
    """Processors that are threads of one core each, `(0, 4), (1, 5)`."""
    for core in cores:
        for number in core:
            path = root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
            write(path, ",".join(map(str, core)) + "\n")


def inside(folder, group, below):
    """Where the files of a group lie, in a hierarchy that is mounted from `below` on."""
    rest = group.removeprefix(below.rstrip("/"))
    return folder / rest.lstrip("/")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
