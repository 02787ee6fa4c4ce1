#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes kernels/layout/iq_grids.h: the points that the codebook block types of ggml name by number.

Which points these are is part of the file format, fixed when the types were published (ggml, 2024), and follows from
no rule. They are read from the gguf package (made with gguf 0.19), and compared with ggml-common.h where its path is
given:
    scripts/make_iq_grids.py [/path/to/ggml-common.h]
"""
import pathlib
import re
import sys

import numpy
from gguf import quants

OUTPUT = pathlib.Path(__file__).resolve().parent.parent / "kernels/layout/iq_grids.h"
# Name here, class of the gguf package, table of ggml-common.h, bits of a digit.
GRIDS = [
    ("kIq2XxsGrid", quants.IQ2_XXS, "iq2xxs_grid", 2),
    ("kIq2XsGrid", quants.IQ2_XS, "iq2xs_grid", 2),
    ("kIq2SGrid", quants.IQ2_S, "iq2s_grid", 2),
    ("kIq3XxsGrid", quants.IQ3_XXS, "iq3xxs_grid", 3),
    ("kIq3SGrid", quants.IQ3_S, "iq3s_grid", 3),
    ("kIq1Grid", quants.IQ1_S, "iq1s_grid", 2),
]
HEAD = """// SPDX-License-Identifier: Apache-2.0
// Made by scripts/make_iq_grids.py: the points of the codebook types iq1_s to iq3_s, constants of
// ggml's file format. Digit k of a point, lowest first, is of its weight k: 8 digits of 2 bits, or
// 4 digits of 3 bits. iq.h has what a digit means. Ascending.
#pragma once

#include <cstdint>

// A table for the host and, in CUDA C++, the same for devices, under the name with `Device`.
#ifdef __CUDACC__
#define THIMBLE_IQ_GRID(name, n, ...)                       \\
    static constexpr std::uint16_t name[n] = {__VA_ARGS__}; \\
    static __device__ const std::uint16_t name##Device[n] = {__VA_ARGS__};
#else
#define THIMBLE_IQ_GRID(name, n, ...) static constexpr std::uint16_t name[n] = {__VA_ARGS__};
#endif

namespace thimble {

// clang-format off
"""


def digits_of(kind) -> numpy.ndarray:
    """[points, weights]: the number of each coordinate among the values that it can have."""
    kind.init_grid()
    values = {float(v): i for i, v in enumerate(kind.grid_map)}
    return numpy.vectorize(lambda v: values[float(v)])(kind.grid.reshape(kind.grid_shape))


def compare(text: str, table: str, kind, digits: numpy.ndarray) -> None:
    body = re.search(r"GGML_TABLE_BEGIN\(\w+, " + table + r", \w+\)(.*?)GGML_TABLE_END", text, re.S).group(1)
    words = numpy.array([int(w, 16) for w in re.findall(r"0x[0-9a-f]+", body)], numpy.uint64)
    count, weights = digits.shape
    data = words.astype(numpy.uint64 if weights == 8 else numpy.uint32).view(numpy.int8).reshape(count, weights)
    assert (data == numpy.array(kind.grid_map)[digits]).all(), table


def main() -> None:
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else None
    out = [HEAD]
    for name, kind, table, bits in GRIDS:
        digits = digits_of(kind)
        if text:
            compare(text, table, kind, digits)
        points = (digits << (bits * numpy.arange(digits.shape[1]))).sum(axis=1)
        assert (numpy.diff(points) > 0).all()
        out.append(f"THIMBLE_IQ_GRID({name}, {len(points)},\n")
        for at in range(0, len(points), 16):
            last = at + 16 >= len(points)
            out.append("    " + ", ".join(f"{p:#06x}" for p in points[at : at + 16]) + (")\n\n" if last else ",\n"))
    out.append("// clang-format on\n#undef THIMBLE_IQ_GRID\n\n}  // namespace thimble\n")
    OUTPUT.write_text("".join(out), encoding="utf-8")


if __name__ == "__main__":
    main()
