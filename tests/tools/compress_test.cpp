// SPDX-License-Identifier: Apache-2.0
// compress as a user runs it: files come back byte for byte, models run as they did.
#include "compress_kitchen.h"
#include "core/cpu.h"
#include "model/coded_tensor.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

TEST_CASE("compress: a GGUF model comes back, and computes the same as it lies") {
    const Setting s;
    const std::string in = s.directory.file("in.gguf");
    write_tiny_model(in, "llama-tied", "bf16");
    const Json report = must({in, "-o", s.small});
    CHECK(number(report, "bits_per_weight") < 12);
    CHECK(number(report, "output_bytes") < number(report, "input_bytes"));
    s.check_round_trip(in);

    const std::string text = s.directory.write("text", std::string(400, 'a') + " b c d e f g h");
    const auto judged = [&](const std::string& model, const char* isa) {
        const std::string result = s.directory.file("result.json");
        const ProcessResult r = tool("evaluate", {"-m", model, "-f", text, "-c", "32", "-o", result,
                                                  "--cpu-isa", isa, "--activations", "f32"});
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        const Json json = parse_json(read_file(result), "result");
        return json.find("perplexity")->dump();
    };
    for (const char* isa : {"portable", "auto"}) CHECK(judged(s.small, isa) == judged(in, isa));
}

TEST_CASE("compress: tensors of any type and shape come back, an architecture is not needed") {
    const Setting s;
    const std::string longest(300, 'n');
    write_file(s.in, safetensors({{"patterns", "BF16", {256, 256}, every_pattern()},
                                  {longest, "BF16", {3, 5000, 7}, weights(105000, 1)},
                                  {"row", "BF16", {1, 70000}, weights(70000, 2)},
                                  {"odd", "U8", {3}, "abc"},
                                  {"scalar", "F32", {}, std::string(4, '\1')},
                                  {"none", "BF16", {0, 9}, ""},
                                  {"vector", "BF16", {9000}, weights(9000, 3)},
                                  {"constant", "BF16", {80, 100}, std::string(16000, '\x3f')}}));
    const Json report = must({s.in, "-o", s.small});
    int coded = 0;
    for (const Json& tensor : report.find("tensors")->as_array("tensors")) {
        if (!tensor.find("coded")->as_bool("coded")) continue;
        ++coded;
        CHECK(number(tensor, "stored_bytes") < number(tensor, "bytes"));
    }
    CHECK(coded == 3);  // all patterns take as much as they did
    s.check_round_trip(s.in);
    const ProcessResult r = tool("run", {"-m", s.small, "-p", "x"});
    CHECK(r.exit != 0);
    CHECK(r.err.find("archive") != std::string::npos);
}

TEST_CASE("compress: weights take at most a hundredth more than their entropy") {
    const Setting s;
    write_file(s.in, safetensors({{"w", "BF16", {512, 1024}, weights(512 * 1024, 4)}}));
    const Json report = must({s.in, "-o", s.small});
    CHECK(number(report, "bits_per_weight") > number(report, "entropy_bits_per_weight"));
    CHECK(number(report, "bits_per_weight") < 1.01 * number(report, "entropy_bits_per_weight"));
}

TEST_CASE("compress: equal bytes with any number of threads") {
    const Setting s;
    write_file(s.in, safetensors({{"w", "BF16", {70, 5000}, weights(350000, 5)}}));
    must({s.in, "-o", s.small, "-t", "1"});
    must({s.in, "-o", s.out, "-t", "5"});
    CHECK(read_file(s.small) == read_file(s.out));
}

TEST_CASE("compress: what is damaged or not its own is refused, with nothing written") {
    const Setting s;
    write_file(s.in, safetensors({{"w", "BF16", {64, 1024}, weights(65536, 6)}}));
    must({s.in, "-o", s.small});
    const std::string whole = read_file(s.small);
    const auto refused = [&](const std::vector<std::string>& arguments, int exit,
                             const char* says) {
        const ProcessResult r = compress(arguments);
        CAPTURE(r.err);
        CHECK(r.exit == exit);
        CHECK(r.err.find(says) != std::string::npos);
        CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
        CHECK_FALSE(fs::exists(s.out));
    };
    // A mantissa, a word of the codes, a start, the tail.
    for (const double place : {0.3, 0.7, 0.9}) {
        std::string changed = whole;
        changed[static_cast<std::size_t>(place * static_cast<double>(whole.size()))] ^= 0x11;
        write_file(s.small, changed);
        refused({"--decompress", s.small, "-o", s.out}, 65, "small.gguf");
    }
    write_file(s.small, whole.substr(0, whole.size() - 100));
    refused({"--decompress", s.small, "-o", s.out}, 65, "small.gguf");
    write_file(s.small, whole);
    refused({s.small, "-o", s.out}, 2, "compressed already");
    refused({"--decompress", s.in, "-o", s.out}, 2, "not a file that compress wrote");
    refused({s.in, "-o", s.in}, 2, "in");
    CHECK(compress({"--decompress", s.small, "-o", s.small}).exit == 2);
}

TEST_CASE("compress: any rows of a coded matrix are read, from the file and from memory") {
    const Setting s;
    constexpr std::int64_t kRows = 70, kCols = 5000;  // a group of rows has several chunks
    const std::string bytes = weights(kRows * kCols, 7);
    write_file(s.in, safetensors({{"w", "BF16", {kRows, kCols}, bytes}}));
    must({s.in, "-o", s.small});
    const auto file = ModelFile::open(s.small);
    const CodedTensor matrix(*file, "t0", {kRows, kCols}, FloatKind::kBF16, "w");
    std::vector<std::byte> memory(matrix.kept_bytes());
    const auto kept = matrix.keep(*file, memory.data(), best_isa());
    for (const RowRange rows : {RowRange{0, 70}, RowRange{0, 1}, RowRange{6, 1}, RowRange{5, 9},
                                RowRange{13, 57}, RowRange{69, 1}}) {
        CAPTURE(rows.first);
        const std::size_t size = static_cast<std::size_t>(2 * rows.count * kCols);
        const std::string want =
            bytes.substr(static_cast<std::size_t>(2 * rows.first * kCols), size);
        std::string got(size, '?');
        matrix.read(*file, 0, rows, std::as_writable_bytes(std::span(got)));
        CHECK(got == want);
        got.assign(size, '?');
        kept->decode_rows(rows, reinterpret_cast<std::uint16_t*>(got.data()));
        CHECK(got == want);
    }
    CHECK_THROWS_WITH_AS(CodedTensor(*file, "t0", {kCols, kRows}, FloatKind::kBF16, "w"),
                         doctest::Contains("of another shape"), Error);
}
