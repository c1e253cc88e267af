"""Why tests of runc's integration suite do not pass with pyruntime, or with any runtime (docs/conformance-runc.md)."""

from __future__ import annotations

# Files that are about what is not served yet.
WAITING = {
    "checkpoint": "checkpoint and restore",
}

NAME = "It wants runc's own name, and the words and layout of runc's help."
WITHIN = "It looks for the names of runc's own functions and stages in the debug lines. Ours tell the steps."
SHARES = "It wants 100 shares to be a weight of 4. By the formula of runc 1.4, and of crun, they are 17."

REASONS = {
    "cgroups: runc run/create should error/warn about a non-empty cgroup": (
        "Two containers in one cgroup: runc 1.1 warns and goes on, since 1.2 it refuses, as we do."
    ),
    "debug: global --debug": WITHIN,
    "debug: global --debug to --log": WITHIN,
    "debug: global --debug to --log --log-format 'text'": WITHIN,
    "debug: global --debug to --log --log-format 'json'": WITHIN,
    "exec: runc --debug exec": WITHIN,
    "exec: runc --debug --log exec": WITHIN,
    "exec: runc exec --cgroup subcgroup [v2]": (
        "It wants `adding pid N to .../cgroup.procs` of an error. We add none: the process is cloned "
        "into its cgroup. All else in it passes."
    ),
    "help: runc -h": NAME,
    "help: runc command -h": NAME,
    "help: runc foo -h": "It wants `No help topic for 'foo'`. We say `no such command: 'foo'`, which it is.",
    "update: update cgroup cpu limits": SHARES,
    "update: update cgroup v2 resources via unified map": SHARES,
    "version: runc version": NAME,
}

LACKS = "Needs a controller that the host has on cgroup v1 only (memory, pids, cpu, io)."
RAISES = "Raises its own RLIMIT_NOFILE, for which the host's root lacks CAP_SYS_RESOURCE."

# What fails with every runtime, for a reason of the place or of the suite.
NOBODY: dict[str, dict[str, str]] = {
    "host": {
        "cgroups: runc create (limits + cgrouppath + permission on the cgroup dir) succeeds": LACKS,
        "cgroups: runc exec (limits + cgrouppath + permission on the cgroup dir) succeeds": LACKS,
        "cgroups: runc exec (cgroup v2 + init process in non-root cgroup) succeeds": LACKS,
        "cgroups: runc run (blkio weight)": LACKS,
        "cgroups: runc run (per-device io weight for bfq)": LACKS,
        "cgroups: runc run (cgroup v2 resources.unified only)": LACKS,
        "cgroups: runc run (cgroup v2 resources.unified override)": LACKS,
        "delete: runc delete": LACKS,
        "delete: runc delete --force in cgroupv2 with subcgroups": LACKS,
        "exec: runc exec --cgroup subcgroup [v2]": LACKS,
        "run: runc run --keep (check cgroup exists)": LACKS,
        **dict.fromkeys(
            (
                "events: events oom",
                "update: update cgroup cpu limits",
                "update: set cpu period with no quota",
                "update: set cpu quota with no period",
                "update: update cpu period with no previous period/quota set",
                "update: update cpu quota with no previous period/quota set",
                "update: update cgroup v2 resources via unified map",
                "update: update devices [minimal transition rules]",
                "update: update paused container",
            ),
            LACKS,
        ),
        "cgroups: runc run (hugetlb limits)": (
            "Spells the key `pagesize`, which Go's JSON takes for `pageSize`. We refuse it; runc sets a limit that the "
            "test then does not find in the host's files."
        ),
        "rlimits: runc run with RLIMIT_NOFILE(The same as system's hard value)": RAISES,
        "rlimits: runc run with RLIMIT_NOFILE(Bigger than system's hard value)": RAISES,
        "rlimits: runc run with RLIMIT_NOFILE(Smaller than system's hard value)": RAISES,
        "rlimits: runc exec with RLIMIT_NOFILE(The same as system's hard value)": RAISES,
        "rlimits: runc exec with RLIMIT_NOFILE(Bigger than system's hard value)": RAISES,
        "rlimits: runc exec with RLIMIT_NOFILE(Smaller than system's hard value)": RAISES,
    },
    "VM": {},
}
VALIDATOR = "Builds the JSON schema's validator from runtime-spec's repository: there is no Internet."
for _place in NOBODY.values():
    _place["spec: spec validator"] = VALIDATOR
