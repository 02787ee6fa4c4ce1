// SPDX-License-Identifier: Apache-2.0
// Arrays as NumPy writes them, and all kinds of ones that it would not.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "io/npy.h"
#include "io/vector_file.h"
#include "kernels/layout/half.h"
#include "tests/support/process.h"

using namespace thimble;
using namespace thimble::test;

namespace {

std::string npy(const std::string& dictionary, const std::string& data, int major = 1) {
    std::string out = "\x93NUMPY";
    out += {static_cast<char>(major), '\0', static_cast<char>(dictionary.size() & 255),
            static_cast<char>(dictionary.size() >> 8)};
    if (major == 2) out += std::string(2, '\0');
    return out + dictionary + data;
}
std::string dictionary(const std::string& descr, const std::string& shape) {
    return "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }\n";
}
template <class T>
std::string bytes_of(const std::vector<T>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}
NpyHeader parse(const std::string& bytes) {
    Cursor cursor(std::as_bytes(std::span(bytes)), "a.npy");
    return parse_npy_header(cursor, bytes.size());
}
void check_refused(const std::string& bytes, const char* says) {
    try {
        (void)parse(bytes);
        FAIL("taken: " << bytes.substr(10));
    } catch (const Error& e) {
        CHECK(e.exit() == Exit::kBadData);
        CAPTURE(e.what());
        CHECK(std::string(e.what()).find(says) != std::string::npos);
    }
}

}  // namespace

TEST_CASE("npy: headers as NumPy writes them") {
    const std::string six(24, '\0');
    // np.save of zeros((2, 3), '<f4'), byte for byte.
    std::string saved = dictionary("<f4", "(2, 3)");
    saved.pop_back();
    saved += std::string(117 - saved.size(), ' ') + "\n";
    const NpyHeader h = parse(npy(saved, six));
    CHECK(h.rows == 2);
    CHECK(h.cols == 3);
    CHECK(h.type == TensorType::kF32);
    CHECK(h.data_offset == 128);
    CHECK(parse(npy(dictionary("<f4", "(2, 3)"), six, 2)).rows == 2);
    CHECK(parse(npy(dictionary("<f2", "(4,3)"), six)).type == TensorType::kF16);
    CHECK(parse(npy("{\"shape\":(6,1),\"fortran_order\":False,\"descr\":\"<f4\"}", six)).rows == 6);
    const std::string own = npy_header(123456, 768);
    CHECK(own.size() % 64 == 0);
    Cursor cursor(std::as_bytes(std::span(own)), "own");
    const NpyHeader again = parse_npy_header(cursor, own.size() + 4ull * 123456 * 768);
    CHECK(again.rows == 123456);
    CHECK(again.cols == 768);
    CHECK(again.data_offset == own.size());
}

TEST_CASE("npy: what is cut off at any byte, or of another kind, is refused") {
    const std::string good = npy(dictionary("<f4", "(2, 3)"), std::string(24, '\0'));
    for (std::size_t n = 0; n < good.size(); ++n) {
        CAPTURE(n);
        const std::string cut = good.substr(0, n);
        CHECK_THROWS_AS((void)parse(cut), Error);
    }
    const std::string data(24, '\0');
    check_refused(npy(dictionary("<f4", "(2, 3)"), data + "x"), "25 bytes of data");
    check_refused(npy(dictionary("<f8", "(2, 3)"), data), "'<f8'");
    check_refused(npy(dictionary(">f4", "(2, 3)"), data), "'>f4'");
    check_refused(npy(dictionary("|O", "(2, 3)"), data), "'|O'");
    check_refused(npy(dictionary("<f4", "(6,)"), data), "1 dimensions");
    check_refused(npy(dictionary("<f4", "(1, 2, 3)"), data), "3 dimensions");
    check_refused(npy(dictionary("<f4", "(-2, 3)"), data), "natural");
    check_refused(npy(dictionary("<f4", "(99999999999999999999, 3)"), data), "natural");
    check_refused(npy(dictionary("<f4", "(9223372036854775807, 9223372036854775807)"), data),
                  "not the size of its shape");
    check_refused(npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}", data), "Fortran");
    check_refused(npy("{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 3)}", data), "True nor");
    check_refused(npy("{'descr': '<f4', 'shape': (2, 3)}", data), "lacks");
    check_refused(npy("{'descr': '<f4', 'descr': '<f4', 'shape': (2, 3)}", data), "twice");
    check_refused(npy("{'descr': '<f4', 'x': 1}", data), "other than");
    check_refused(npy("{'descr': '<f4", data), "quoted");
    check_refused(npy(dictionary("<f4", "(2, 3)") + "x", data), "goes on");
    std::string later = good;
    later[6] = '\3';
    check_refused(later, "3.0");
}

TEST_CASE("vector file: rows of each type, and the place of a number that is none") {
    const TemporaryDirectory directory;
    const std::vector<float> x = {1, -2, 0.5f, 3, 65504, -0.25f};
    std::vector<std::uint16_t> halves;
    for (const float v : x) halves.push_back(f32_to_f16(v));
    std::vector<float> out(6);
    VectorFile(directory.write("a.npy", npy(dictionary("<f4", "(2, 3)"), bytes_of(x))), "")
        .read(0, 2, out.data());
    CHECK(out == x);
    const VectorFile half(
        directory.write("b.npy", npy(dictionary("<f2", "(2, 3)"), bytes_of(halves))), "");
    half.read(0, 2, out.data());
    CHECK(out == x);
    half.read(1, 1, out.data());
    CHECK(out[0] == 3);
    std::vector<float> bad = x;
    for (const float v : {std::nanf(""), INFINITY}) {
        bad[4] = v;
        const VectorFile file(
            directory.write("c.npy", npy(dictionary("<f4", "(2, 3)"), bytes_of(bad))), "");
        try {
            file.read(0, 2, out.data());
            FAIL("read");
        } catch (const Error& e) {
            CHECK(std::string(e.what()).find("row 1, number 1 is not finite") != std::string::npos);
        }
    }
    CHECK_THROWS_AS(VectorFile(directory.write("d.npy", npy(dictionary("<f4", "(0, 3)"), "")), ""),
                    Error);
    for (const char* text : {"", "abc", "# Some other text"}) {
        CHECK_THROWS_WITH_AS(VectorFile(directory.write("e.npy", text), ""),
                             doctest::Contains("neither a NumPy array"), Error);
    }
}
