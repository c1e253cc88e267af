"""Why tests of runtime-tools fail with pyruntime (docs/conformance.md)."""

from __future__ import annotations

V1 = (
    "Reads the limits from the files of cgroup v1 alone (v2 is not supported yet, it says), "
    "or needs a controller that is not there."
)

REASONS: dict[str, str] = {
    "delete": (
        "Wants `delete` of a created container to fail. runc and crun, and so we, end and delete it, as "
        "engines rely on."
    ),
    "delete_only_create_resources": V1,
    "delete_resources": V1,
    "hooks": (
        "No runtime can pass: it expects lines that its own hooks do not write (`post-start1`, where they write "
        "`post-start1 called`), and a match makes it panic."
    ),
    "hooks_stdin": (
        "Wants the status `created` in a prestart hook's state; runtime.md calls that time `creating`, as "
        "runc and we do."
    ),
    "linux_cgroups_blkio": V1,
    "linux_cgroups_cpus": V1,
    "linux_cgroups_devices": V1,
    "linux_cgroups_hugetlb": V1,
    "linux_cgroups_memory": V1,
    "linux_cgroups_network": V1,
    "linux_cgroups_pids": V1,
    "linux_cgroups_relative_blkio": V1,
    "linux_cgroups_relative_cpus": V1,
    "linux_cgroups_relative_devices": V1,
    "linux_cgroups_relative_hugetlb": V1,
    "linux_cgroups_relative_memory": V1,
    "linux_cgroups_relative_network": V1,
    "linux_cgroups_relative_pids": V1,
    "linux_mount_label": (
        "Sets a SELinux label without asking whether there is SELinux. We refuse what cannot be had, with the reason."
    ),
    "linux_process_apparmor_profile": (
        "Names a profile that is loaded nowhere, and does not ask whether there is AppArmor."
    ),
    "misc_props": (
        "Its first config starts `/runtimetest`, which it does not put into the root file system; a runtime "
        "that looks at `create` refuses."
    ),
    "mounts": (
        "Puts `mode=755` and `size=1k` on bind mounts, which cannot have them: a misspelt `nosuid` would look "
        "the same. We refuse, as runc does since 1.2."
    ),
    "pidfile": (
        "Kills a container whose program, `true`, has ended, and wants that to succeed. `kill` of a stopped "
        "container must fail (runtime.md#kill)."
    ),
    "poststart_fail": (
        "Wants a failing poststart hook to be a warning, as an older specification did; now `start` fails and the "
        "container ends (runtime.md#lifecycle, step 9)."
    ),
    "prestart": (
        "Wants prestart hooks at `start`, as an older specification did; they belong to `create` since "
        "(config.md#prestart)."
    ),
    "process_capabilities": (
        "On the host: it asks for CAP_SYS_RESOURCE, which the host's root lacks. Nobody can give it."
    ),
    "process_capabilities_fail": (
        "Wants an unknown capability to be an error, as an older specification did; now it must be ignored "
        "with a warning (config.md#linux-process)."
    ),
    "process_rlimits": (
        "Go's own start-up code raises the soft RLIMIT_NOFILE of the program that looks (`runtimetest`)."
    ),
    "start": (
        "Wants `start` of a container without `process` to succeed, though by its own words, and runtime.md#start, it "
        "MUST fail, as ours does. All else in it passes. (crun's `start` does not wait for what becomes of it.)"
    ),
}
