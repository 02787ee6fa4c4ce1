// SPDX-License-Identifier: Apache-2.0
// Support of the tests of compress: the tool as a user runs it, and files of weights.
#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <numeric>

#include "io/json.h"
#include "kernels/layout/half.h"
#include "kernels/layout/rng.h"
#include "tests/support/process.h"

namespace thimble::test {

namespace fs = std::filesystem;

inline ProcessResult tool(const char* name, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), tool_path(name));
    arguments.emplace_back("-q");
    return run_process(arguments);
}
inline ProcessResult compress(std::vector<std::string> arguments) {
    return tool("compress", std::move(arguments));
}
inline Json must(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--json", "-"});
    const ProcessResult r = compress(std::move(arguments));
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    return parse_json(r.out, "stdout");
}

struct Setting {
    TemporaryDirectory directory;
    std::string in = directory.file("in.safetensors"), small = directory.file("small.gguf"),
                out = directory.file("out");
    void check_round_trip(const std::string& source) const {
        CHECK(must({"--decompress", small, "-o", out}).find("sha256") != nullptr);
        CHECK(read_file(out) == read_file(source));
        fs::remove(out);
    }
};

struct Part {
    std::string name, dtype;
    std::vector<std::int64_t> shape;
    std::string bytes;
};

inline std::string safetensors(const std::vector<Part>& parts) {
    Json header = Json::object();
    std::string data;
    for (const Part& part : parts) {
        Json one = Json::object();
        JsonArray shape;
        for (const std::int64_t d : part.shape) shape.emplace_back(d);
        one.set("dtype", part.dtype);
        one.set("shape", std::move(shape));
        one.set("data_offsets",
                JsonArray{static_cast<std::int64_t>(data.size()),
                          static_cast<std::int64_t>(data.size() + part.bytes.size())});
        header.set(part.name, std::move(one));
        data += part.bytes;
    }
    const std::string text = header.dump() + "   ";  // as the format pads
    const std::uint64_t size = text.size();
    return std::string(reinterpret_cast<const char*>(&size), sizeof size) + text + data;
}

inline std::string weights(std::size_t count, std::uint64_t seed) {
    std::string out;
    for (std::size_t i = 0; i < count; ++i) {
        const Philox4 r = philox(seed, i);
        float sum = -2;
        for (const std::uint32_t v : r.v) sum += unit_float(v);
        const auto bits = static_cast<std::uint16_t>(float_to_bits(0.03f * sum) >> 16);
        out.append(reinterpret_cast<const char*>(&bits), sizeof bits);
    }
    return out;
}

inline std::string every_pattern() {
    std::vector<std::uint16_t> all(65536);
    std::iota(all.begin(), all.end(), std::uint16_t{0});
    return {reinterpret_cast<const char*>(all.data()), 2 * all.size()};
}

inline double number(const Json& json, const char* key) {
    const Json* found = json.find(key);
    REQUIRE(found != nullptr);
    return found->as_double(key);
}

}  // namespace thimble::test
