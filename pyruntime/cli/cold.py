"""Functions and classes that no usual call of a hot verb uses, by image and module. Written by scripts/cold.

The images hold them back until they are used (condense.py).
"""

COLD = {
    "control": {
        "pyruntime.__main__": "console_script _help _default_root _log _failed",
        "pyruntime.cgroup.manager": "_remove_below _rmdir_patiently _children _signal_each read_text",
        "pyruntime.cli.parse": "parse members_of without_dashes _take_words _take_operands _boolean",
        "pyruntime.cli.pause": "pause resume",
        "pyruntime.cli.ps": "ps output_of_ps lines_about _number",
        "pyruntime.container": (
            "pause resume processes list_containers _listen_for_readiness cgroup_of _remove_if_empty "
        ),
        "pyruntime.errors": (
            "errno_name Error UsageError ConfigError UnsupportedError KernelError StateError ExistsError NftError "
            "SystemdError ProtocolError "
        ),
        "pyruntime.images": "load_image run _load _made",
        "pyruntime.jsontext": "_refuse_constant _explain _refuse_type",
        "pyruntime.linux.call": (
            "raw_call call c_string address memory_at u64 u32 string_vector _failure _text _show hint "
        ),
        "pyruntime.linux.constants": "value_name flag_names",
        "pyruntime.linux.files": "replace append rewrite exists write_all",
        "pyruntime.linux.proc": "in_first_user_namespace write_file write mounts _unescape start_time",
        "pyruntime.report": "warn debug",
        "pyruntime.state.store": "listing _damaged _make_parents _is_directory _working_directory _remove_tree _failed",
    },
    "launch": {
        "pyruntime.__main__": "console_script _help _default_root _log _failed",
        "pyruntime.caller": "_send_pidfd",
        "pyruntime.cgroup.creation": "find_v2 hand_down _hand_down_one refuse_used _hand_down_hint _why_missing",
        "pyruntime.cgroup.manager": "_remove_below _rmdir_patiently _children _signal_each",
        "pyruntime.cli": "emit",
        "pyruntime.cli.parse": "parse members_of without_dashes _take_words _take_operands _boolean",
        "pyruntime.cli.run": "free_ids id_from_path _real_name _is_file",
        "pyruntime.creation": "plan_bundle _asks_own_systemd",
        "pyruntime.errors": (
            "errno_name Error UsageError StateError NotFoundError ExistsError HookError NftError SystemdError "
            "ProtocolError "
        ),
        "pyruntime.images": "run _load _made",
        "pyruntime.jsontext": "_refuse_constant _explain _refuse_type _encode _string",
        "pyruntime.launch.child": "become_container _become",
        "pyruntime.launch.credentials": "become_root root_rows set_personality",
        "pyruntime.launch.exeseal": "seal_interpreter _read_only execute",
        "pyruntime.launch.handle": "adjust_oom_score fate",
        "pyruntime.launch.inside": "go_inside _seal _cut_ties hop _pass_on",
        "pyruntime.launch.limits": "recorded_scope _write _write_unless _write_first _check_memory_usage _own_cgroup",
        "pyruntime.launch.namespaces": (
            "clone_child write_maps await_network set_domainname write_sysctl _open_namespace _enter_directly "
            "_run_stage _stage _open_offsets _join_what_can_be _join _at _become_mapped_root _report _run_map_helper "
        ),
        "pyruntime.launch.parent": "identify raise_what_is_waiting _serve _serve_maps _give_source _move_device",
        "pyruntime.launch.rootfs": (
            "remount_readonly _remove_full_mounts _unmount_or_cover share_root _remount _change_flags _bind_device "
        ),
        "pyruntime.launch.seccomp": "_compile take_listener send_listener _connect _keep _make_room",
        "pyruntime.launch.sync": "hop_error _directory_error start_error rebuild_error",
        "pyruntime.launch.treecopy": "copy_up _copy_entries _copy_directory _copy_file _take_over",
        "pyruntime.linux.bpf": "_load_unlimited attached_ids _attached",
        "pyruntime.linux.call": "raw_call memory_at _failure _text _show hint",
        "pyruntime.linux.clone": "clone3",
        "pyruntime.linux.constants": "value_name flag_names",
        "pyruntime.linux.files": "rewrite",
        "pyruntime.linux.proc": "in_first_user_namespace write_file write state_and_start_time",
        "pyruntime.linux.syscalls": (
            "open_tree mount_setattr close_range unshare pidfd_open pidfd_send_signal pidfd_getfd seccomp "
            "sched_setattr sched_setaffinity ioprio_set execve execveat setresuid setresgid setgroups _id capset "
            "setdomainname keyctl_join_session_keyring keyctl_setperm "
        ),
        "pyruntime.plan.devices": "rule_text",
        "pyruntime.plan.mounts": (
            "RemountReadonly SharedRoot _ranges flag_names _attributes _recursive_names _mappings _device_step "
        ),
        "pyruntime.plan.namespaces": "SetDomainname _mappings _ranges",
        "pyruntime.plan.process": "AdjustOomScore OpenTerminal SetPersonality _names",
        "pyruntime.plan.resources": (
            "WriteCgroup WriteCgroupUnless WriteCgroupFirst CheckMemoryUsage OwnCgroup _block_io io_weight _hugepages "
            "_rdma _unified _escape "
        ),
        "pyruntime.spec.load": "_drop_nulls _cannot_open",
        "pyruntime.spec.schema": (
            "Finding is_enough _wrong _shown _within _map _unknown _ignored _identifiers _ranges _interface "
            "_new_interface _bandwidth "
        ),
        "pyruntime.spec.validate": (
            "_first_of problems warnings process_findings _as_error _as_warning _overlaps _is_mapped sysctl_path "
            "_sysctl_complaint _idmapped "
        ),
        "pyruntime.state.status": "status is_alive open_init is_frozen",
        "pyruntime.state.store": "listing _damaged _make_parents _is_directory _working_directory _remove_tree _failed",
    },
    "exec": {
        "pyruntime.__main__": "console_script _help _default_root _log _failed",
        "pyruntime.caller": "_write_pid_file _send_pidfd",
        "pyruntime.cgroup.joining": "start_below below _is_taken_in _cgroup_of",
        "pyruntime.cli": "emit",
        "pyruntime.cli.parse": "parse members_of _take_operands _boolean",
        "pyruntime.errors": (
            "errno_name UsageError ConfigError UnsupportedError KernelError StateError NotFoundError ExistsError "
            "HookError NftError SystemdError ProtocolError "
        ),
        "pyruntime.images": "run _load _made",
        "pyruntime.jsontext": "_refuse_constant _explain encode _refuse_type _encode _string",
        "pyruntime.launch.affinity": "start_on_cpus _mask",
        "pyruntime.launch.credentials": "become_root root_rows set_personality",
        "pyruntime.launch.ending": "wait_for_start",
        "pyruntime.launch.exeseal": "seal_interpreter _read_only execute",
        "pyruntime.launch.handle": "adjust_oom_score limit_resource fate",
        "pyruntime.launch.inside": "go_inside _seal _cut_ties hop _pass_on",
        "pyruntime.launch.paths": "proc_fd is_null",
        "pyruntime.launch.seccomp": "_compile take_listener send_listener _connect _keep _make_room",
        "pyruntime.launch.sync": "hop_error _directory_error start_error rebuild_error",
        "pyruntime.linux.call": "raw_call memory_at _failure _text _show hint",
        "pyruntime.linux.clone": "clone3 thread_count",
        "pyruntime.linux.constants": "value_name flag_names",
        "pyruntime.linux.files": "replace append rewrite exists unlink",
        "pyruntime.linux.proc": "in_first_user_namespace write_file write mounts _unescape start_time",
        "pyruntime.linux.syscalls": (
            "mount umount2 pivot_root open_tree move_mount mount_setattr close_range mknodat fstatfs_type socket bind "
            "listen recvmsg ioctl bpf setns unshare pidfd_open pidfd_getfd seccomp prctl prlimit sched_setattr "
            "ioprio_set execve execveat setresuid setresgid setgroups _id capset sethostname setdomainname _length "
            "keyctl_join_session_keyring keyctl_setperm "
        ),
        "pyruntime.plan.join": "StartOnCpus OpenTerminalInside _list",
        "pyruntime.plan.process": "AdjustOomScore OpenTerminal SetPersonality _names",
        "pyruntime.plan.rare": "label_mounts",
        "pyruntime.spec.execution": "from_file from_object _with _user _id",
        "pyruntime.spec.load": "load _drop_nulls read read_and_close _cannot_open",
        "pyruntime.state.store": "listing _damaged _make_parents _is_directory _working_directory _remove_tree _failed",
    },
}
