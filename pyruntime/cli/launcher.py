"""The text of the installed command: a few lines, since Python compiles a script again at every start (10 us a line).

scripts/run writes it; runc has no counterpart, being one binary.
"""

from __future__ import annotations

from pyruntime.errors import UsageError

# -I: no PYTHON* variable, no user's site-packages, no script's directory on the path. -S: no site-packages either, so
# no .pth file and no 3 ms for looking. -X utf8: a name's bytes come in and go out the same in any locale. A #! line
# passes all of it as one word.
FLAGS = "-ISXutf8"
# BINPRM_BUF_SIZE of linux/binfmts.h: the kernel reads no more of a first line, the "#!" and the newline included.
FIRST_LINE_LIMIT = 256


def launcher_text(interpreter_path: str, library_path: str) -> str:
    """The launcher as a file's text. `library_path` is the directory that holds the directory `pyruntime`.

    Raises UsageError where the kernel could not read the first line.
    """
    first_line = f"#!{interpreter_path} {FLAGS}\n"
    if not interpreter_path.startswith("/") or len(interpreter_path.split()) != 1:
        raise UsageError(f"{interpreter_path!r} can't stand in a #! line: it must be absolute and without blanks")
    if len(first_line.encode("utf-8", "surrogateescape")) > FIRST_LINE_LIMIT:
        raise UsageError(
            f"{interpreter_path!r} is longer than the kernel reads of a #! line ({FIRST_LINE_LIMIT} bytes)"
        )
    return f"""{first_line}import sys
from marshal import loads
library = {library_path!r}
try:
    code = loads(open(f"{{library}}/pyruntime/launcher.{{sys.implementation.cache_tag}}.image", "rb").read())
except (OSError, EOFError, TypeError, ValueError):
    code = "sys.path.insert(0, library); from pyruntime.__main__ import main; main()"
exec(code)
"""


def launcher_code(library_path: str) -> str:
    """What the launcher does: run the image of the hot modules (cli/image.py) if there is one, and call `main`.

    Compiled, it is an image itself, which spares a start 0.15 ms.
    A verb's name among the arguments may be something else's, an ID say; that costs a millisecond and no more. The
    image has no line numbers, so --debug does without. lib-dynload, the last place on the path, comes first: extension
    modules are all that is still searched for. No garbage is collected: the process ends soon, and the child would
    copy every page that the collector writes to.
    """
    return f"""import gc, posix, sys
from marshal import loads
gc.disable()
library = {library_path!r}
sys.path[:0] = sys.path[-1], library
try:
    name = "launch" if "run" in sys.argv or "create" in sys.argv else "exec" if "exec" in sys.argv else "control"
    if "--debug" in sys.argv: name = "no"
    fd = posix.open(f"{{library}}/pyruntime/{{name}}.{{sys.implementation.cache_tag}}.image", posix.O_CLOEXEC)
    boot, content = loads(posix.read(fd, posix.fstat(fd).st_size))
    posix.close(fd)
except (OSError, EOFError, TypeError, ValueError):
    boot = ""
exec(boot)
from pyruntime.__main__ import main
main()
"""


def library_path() -> str:
    """The directory that holds the pyruntime that is running now, absolute."""
    import posix

    package_path = __file__.rpartition("/cli/")[0]
    if package_path[:1] != "/":
        package_path = f"{posix.getcwd()}/{package_path}"
    return package_path.rpartition("/")[0]
