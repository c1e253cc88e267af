"""What the black-box tests stand on: a bundle builder, a runtime to drive, and an eye for what is left behind.

    bundle      a busybox root filesystem and a config.json: the default spec plus the test's edits
    runtime     the runtime under test, as a command line: $RUNTIME, or this tree's own pyruntime
    container   a bundle with an ID: what nearly every test holds
    leftovers   cgroups, mounts, state, processes and interfaces that outlive their container
    mountinfo   /proc/PID/mountinfo as data
    terminal    both ends of a pseudo-terminal, and the socket behind --console-socket
    programs    the few C programs that see what a shell can't
    fixtures    all of it as pytest fixtures and markers

Nothing here imports pyruntime: what is tested is the command that a person types. Learnt from crun's
tests/tests_utils.py and from youki's contest, whose tests, too, are validated on runc first.
"""
