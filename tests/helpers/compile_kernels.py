"""`python -m tests.helpers.compile_kernels`: compiles all kernels for an H100, on any machine; prints what each takes of it."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nisbench.embedding import distinct_rows_triton
from nisbench.training import lazy_adam_triton

H100 = GPUTarget("cuda", 90, 32)

INT, LONG, FLOAT = "*i32", "*i64", "*fp32"
ADAM = {"rows": LONG, "count": LONG, "w": FLOAT, "m": FLOAT, "v": FLOAT}
KERNELS = [
    (
        lazy_adam_triton._catch_up,
        ADAM | {"synced": INT, "schedule": FLOAT, "now": LONG, "out": FLOAT, "rate": "fp32", "width": "i32"},
        [{"READ": read, "LAST": read, "ROWS": rows, "BLOCK": 256 // rows} for read in (False, True) for rows in (1, 4, 256)],
    ),
    (
        lazy_adam_triton._step,
        ADAM | {"gradient": FLOAT, "schedule": FLOAT, "now": LONG, "synced": INT, "rate": "fp32", "width": "i32"},
        [{"LAST": last, "ROWS": rows, "BLOCK": 256 // rows} for last in (False, True) for rows in (1, 4, 256)],
    ),
    (
        distinct_rows_triton._sum_chunks,
        {"gradient": FLOAT, "weights": FLOAT, "order": LONG, "number": LONG, "partial": FLOAT, "n": "i32", "width": "i32",
         "by_instance": "i32"},
        [{"WEIGHTED": weighted, "CHUNK": distinct_rows_triton.CHUNK, "BLOCK": block} for weighted in (False, True)
         for block in (16, 64, 128)],
    ),
    (
        distinct_rows_triton._add_chunks,
        {"partial": FLOAT, "starts": LONG, "count": LONG, "summed": FLOAT, "width": "i32"},
        [{"CHUNK": distinct_rows_triton.CHUNK, "BLOCK": block} for block in (16, 64, 128)],
    ),
]  # fmt: skip


def resources(ptx: str) -> list[str]:
    """What NVIDIA's assembler says that a kernel takes: registers, and what of them is spilled to memory."""
    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [assembler, "-v", "--gpu-name=sm_90a", file.name, "-o", os.devnull]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return re.findall(r"\d+ registers|[1-9]\d* bytes spill \w+", said)


def main() -> None:
    for kernel, signature, variants in KERNELS:
        for constants in variants:
            given = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
            source = ASTSource(
                fn=kernel, signature=given, constexprs={(kernel.arg_names.index(n),): v for n, v in constants.items()}
            )
            warps = distinct_rows_triton.WARPS if kernel is distinct_rows_triton._sum_chunks else 1
            found = triton.compile(source, target=H100, options={"num_warps": warps})
            print(kernel.__name__, constants, *resources(found.asm["ptx"]))


if __name__ == "__main__":
    main()
