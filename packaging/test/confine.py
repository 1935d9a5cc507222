#!/usr/bin/python3
"""Runs a program as a unit would, as far as that goes without systemd as process 1.

    confine.py UNIT ROOT STATE_DIRECTORY COMMAND...

In a chroot whose file system is read-only but for the state directory and a /tmp of its own, with a /proc
that shows only its user's processes, without capabilities, and behind the seccomp filters that UNIT asks
for. What a line of the unit means is asked of systemd-analyze, or known here; a hardening line that is not
known here fails, so that none is believed to be tried that is not.
"""

import os
import pwd
import resource
import subprocess
import sys

import seccomp

CLONE_NEWNS, CLONE_NEWIPC = 0x00020000, 0x08000000
NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
# Not of this kind, or without effect on what a process may do.
ELSEWHERE = {
    "Type", "ExecStart", "ExecReload", "TimeoutStartSec", "WatchdogSec", "Restart", "RestartSec",
    "RestartPreventExitStatus", "KillMode", "TimeoutStopSec", "StateDirectory", "StateDirectoryMode",
    "Group", "Environment", "SystemCallErrorNumber", "SystemCallArchitectures", "MemoryMax", "TasksMax",
    "LimitCORE",
}
# Kept by having no capability, no device and no writable system, or by systemd alone.
IMPLIED = {
    "ProtectHome", "PrivateDevices", "DevicePolicy", "ProtectClock", "ProtectHostname", "ProtectKernelLogs",
    "ProtectKernelModules", "ProtectKernelTunables", "ProtectControlGroups", "PrivateUsers",
    "RestrictSUIDSGID", "RestrictRealtime", "LockPersonality", "KeyringMode", "AmbientCapabilities",
    "PrivateMounts",
}
TRIED = {
    "User", "LimitNOFILE", "ProtectSystem", "PrivateTmp", "ProtectProc", "ProcSubset", "NoNewPrivileges",
    "CapabilityBoundingSet", "RestrictNamespaces", "MemoryDenyWriteExecute", "RestrictAddressFamilies",
    "SystemCallFilter", "UMask",
}


def read(unit):
    settings, section = {}, ""
    for line in open(unit):
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            name, value = line.split("=", 1)
            settings.setdefault(name, []).append(value)
    unknown = set(settings) - ELSEWHERE - IMPLIED - TRIED
    assert not unknown, f"{unit}: confine.py does not know {unknown}"
    return settings


def calls(group):
    """The system calls of a group, groups in groups included."""
    if not group.startswith("@"):
        return {group}
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], check=True, capture_output=True, text=True
    ).stdout
    names = [line.strip() for line in listed.splitlines()[1:]]
    return set().union(*(calls(name) for name in names if name and not name.startswith("#")), set())


def seccomp_filter(settings):
    allowed = set()
    for line in settings["SystemCallFilter"]:
        deny, groups = line.startswith("~"), line.removeprefix("~").split()
        named = set().union(*map(calls, groups))
        allowed = allowed - named if deny else allowed | named
    # systemd always leaves these, or it could not start anything.
    allowed |= calls("@default") | {"execve", "exit", "exit_group", "rt_sigreturn", "sigreturn"}
    eperm = seccomp.ERRNO(1)
    rules = seccomp.SyscallFilter(defaction=eperm)
    masked = lambda at, mask: seccomp.Arg(at, seccomp.MASKED_EQ, mask, 0)
    write_and_execute = 2 | 4
    special = {
        # Memory that can be written and executed, or that becomes executable later.
        "mmap": [[seccomp.Arg(2, seccomp.MASKED_EQ, write_and_execute, value)] for value in (0, 2, 4)],
        "mprotect": [[masked(2, 4)]],
        "pkey_mprotect": [[masked(2, 4)]],
        "shmat": [[masked(2, 0o100000)]],
        "socket": [
            [seccomp.Arg(0, seccomp.EQ, FAMILIES[name])]
            for name in settings["RestrictAddressFamilies"][0].split()
        ],
        "clone": [[masked(0, NAMESPACES)]],
    }
    assert settings["MemoryDenyWriteExecute"] == settings["RestrictNamespaces"] == ["yes"]
    for call in sorted(allowed - {"clone3", "unshare", "setns"}):
        try:
            for arguments in special.get(call, [[]]):
                rules.add_rule(seccomp.ALLOW, call, *arguments)
        except RuntimeError:
            pass  # a call of another architecture
    # Its flags are out of a filter's sight: with ENOSYS the library falls back on clone.
    rules.add_rule(seccomp.ERRNO(38), "clone3")
    return rules


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def main():
    unit, root, state, *command = sys.argv[1:]
    settings = read(unit)
    rules = seccomp_filter(settings)
    libc = __import__("ctypes").CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNS | CLONE_NEWIPC) == 0, "no namespaces; run this as root"
    mount("--make-rprivate", "/")
    assert settings["ProtectSystem"] == ["strict"] and settings["PrivateTmp"] == ["yes"]
    mount("--bind", root, root)
    mount("-t", "proc", "-o", "hidepid=invisible,subset=pid", "proc", f"{root}/proc")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{root}/tmp")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{root}/dev/shm")
    mount("--bind", root + state, root + state)
    mount("-o", "remount,bind,ro", root)
    user = settings["User"][0]
    os.chroot(root)
    os.chdir("/")
    found = pwd.getpwnam(user)
    # A container's root may not raise its own.
    limit = min(int(settings["LimitNOFILE"][0]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.umask(int(settings["UMask"][0], 8))
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setgid(found.pw_gid)
    os.setuid(found.pw_uid)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    rules.load()
    os.environ["STATE_DIRECTORY"] = state
    os.execv(command[0], command)


main()
