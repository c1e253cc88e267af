"""Ask the kernel's headers: a C program prints what they say, and the tests compare."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

CFLAGS = ("-x", "c", "-D_GNU_SOURCE", "-w")


def values(folder: Path, headers: Iterable[str], expressions: dict[str, str]) -> dict[str, int]:
    """Name -> value of a C expression, as 64 bits without a sign. A plain macro that no header defines is left out."""
    prints = []
    for name, expression in expressions.items():
        line = f'printf("{name} %llu\\n", (unsigned long long)({expression}));'
        # An enumerator is no macro: it is printed without asking, and then its absence fails the compilation.
        prints.append(line if expression != name else f"#ifdef {name}\n{line}\n#endif")
    includes = "".join(f"#include <{header}>\n" for header in ("stdio.h", "stddef.h", *headers))
    program = includes + "int main(void) {\n" + "\n".join(prints) + "\nreturn 0; }\n"
    binary = folder / "abi"
    compiled = subprocess.run(
        ["gcc", *CFLAGS, "-o", str(binary), "-"], input=program, text=True, capture_output=True, check=False
    )
    assert compiled.returncode == 0, f"{compiled.stderr}\n{program}"
    output = subprocess.run([str(binary)], text=True, capture_output=True, check=True).stdout
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}
