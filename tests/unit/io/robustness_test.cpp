// SPDX-License-Identifier: Apache-2.0
// Every cut and every spoiled header byte of small good files, in process: a clear error or a file
// that is consistent in itself, at once and in little memory.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <ctime>
#include <fstream>

#include "core/error.h"
#include "io/model_file.h"
#include "io/safetensors_writer.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::test;

namespace {

std::string golden(const std::string& name) {
    return slurp(std::string(THIMBLE_TESTS_DIR) + "/golden/io/" + name);
}

// While it lives, the process can take only `bytes` more of private memory.
class DataLimit {
  public:
    explicit DataLimit(std::uint64_t bytes) {
#if !defined(__SANITIZE_ADDRESS__)  // its shadow would count too
        std::uint64_t pages[6] = {};
        std::ifstream statm("/proc/self/statm");
        for (std::uint64_t& field : pages) statm >> field;  // the sixth: data + stack
        ::getrlimit(RLIMIT_DATA, &before_);
        rlimit limit = before_;
        limit.rlim_cur = pages[5] * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) + bytes;
        limited_ = ::setrlimit(RLIMIT_DATA, &limit) == 0;
#else
        (void)bytes;
#endif
    }
    ~DataLimit() {
        if (limited_) ::setrlimit(RLIMIT_DATA, &before_);
    }
    DataLimit(const DataLimit&) = delete;
    DataLimit& operator=(const DataLimit&) = delete;

  private:
    rlimit before_{};
    bool limited_ = false;
};

double cpu_milliseconds() {
    timespec t{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
}

// True when the path opens, and then every byte of every tensor can be read; false when it is
// refused as it should be. Anything else fails the test.
bool opens(const std::string& path) {
    const DataLimit limit(std::uint64_t{32} << 20);
    const double start = cpu_milliseconds();
    bool opened = false;
    try {
        const auto file = ModelFile::open(path);
        opened = true;
        for (const TensorEntry& tensor : file->tensors()) {
            std::vector<std::byte> bytes(tensor.bytes);
            file->read(tensor, 0, bytes);
            const auto mapped = file->map(tensor);
            if (!std::equal(bytes.begin(), bytes.end(), mapped.begin(), mapped.end()))
                FAIL_CHECK("mapped and read bytes differ");
        }
    } catch (const Error& e) {
        if (opened || (e.exit() != Exit::kBadData && e.exit() != Exit::kNoInput))
            FAIL_CHECK("unexpected error: " << e.what());
        if (std::string_view(e.what()).find('\n') != std::string_view::npos)
            FAIL_CHECK("more than one line: " << e.what());
    } catch (const std::exception& e) {
        FAIL_CHECK("another exception: " << e.what());
    }
    const double spent = cpu_milliseconds() - start;
    if (spent > 50) FAIL_CHECK("took " << spent << " ms");
    return opened;
}

void check_every_cut(const std::string& path, const std::string& opened_path,
                     std::size_t needed_bytes) {
    const std::string whole = slurp(path);
    REQUIRE(opens(opened_path));
    for (std::size_t length = whole.size(); length-- > 0;) {
        REQUIRE(::truncate(path.c_str(), static_cast<off_t>(length)) == 0);
        const bool opened = opens(opened_path);
        if (opened != (length >= needed_bytes)) FAIL_CHECK("cut to " << length << ": " << opened);
    }
    spew(path, whole);
}

void check_every_header_byte(const std::string& path, std::size_t header_bytes) {
    const std::string whole = slurp(path);
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    const auto put = [&](std::size_t at, char c) {
        file.seekp(static_cast<std::streamoff>(at));
        file.put(c);
        file.flush();
    };
    int refused = 0;
    for (std::size_t at = 0; at < header_bytes; ++at) {
        std::string values = {'\0', '\xff', '"', '9', '-', '{'};
        for (int bit = 0; bit < 8; ++bit) values += static_cast<char>(whole[at] ^ (1 << bit));
        for (const char value : values) {
            CAPTURE(at);
            put(at, value);
            refused += opens(path) ? 0 : 1;
        }
        put(at, whole[at]);
    }
    CHECK(refused > 1000);  // the changes do reach the checks
    CHECK(opens(path));
}

std::size_t first_offset(const std::string& path) {
    std::uint64_t least = UINT64_MAX;
    const auto opened = ModelFile::open(path);
    for (const TensorEntry& t : opened->tensors()) least = std::min(least, t.offset);
    return least;
}

}  // namespace

TEST_CASE("robustness: a GGUF file cut at every byte") {
    const TempDir dir;
    spew(dir / "a.gguf", golden("every_type.gguf"));
    const auto file = ModelFile::open(dir / "a.gguf");
    std::uint64_t end = 0;
    for (const TensorEntry& t : file->tensors()) end = std::max(end, t.offset + t.bytes);
    check_every_cut(dir / "a.gguf", dir / "a.gguf", end);
}

TEST_CASE("robustness: a safetensors file, an index and a config cut at every byte") {
    const TempDir dir;
    spew(dir / "a.safetensors", golden("every_type.safetensors"));
    check_every_cut(dir / "a.safetensors", dir / "a.safetensors",
                    slurp(dir / "a.safetensors").size());

    SafetensorsOptions options;
    options.max_shard_bytes = 1;
    const std::string model = dir / "model";
    {
        SafetensorsWriter writer(model, {{"a", TensorType::kU8, {3}}, {"b", TensorType::kF32, {1}}},
                                 options);
        writer.write(0, 0, std::vector<std::byte>(3));
        writer.write(1, 0, std::vector<std::byte>(4));
        writer.finish();
    }
    const std::string config = R"({"model_type": "llama", "rope_theta": 1e4})";
    spew(model + "/config.json", config);
    const std::string index = model + "/model.safetensors.index.json";
    check_every_cut(index, model, slurp(index).size() - 1);  // its final newline
    check_every_cut(model + "/config.json", model, config.size());
    const std::string shard = model + "/model-00002-of-00002.safetensors";
    check_every_cut(shard, model, slurp(shard).size());
}

TEST_CASE("robustness: every header byte of a GGUF file changed") {
    const TempDir dir;
    spew(dir / "a.gguf", golden("every_type.gguf"));
    check_every_header_byte(dir / "a.gguf", first_offset(dir / "a.gguf"));
}

TEST_CASE("robustness: every header byte of a safetensors file changed") {
    const TempDir dir;
    spew(dir / "a.safetensors", golden("every_type.safetensors"));
    check_every_header_byte(dir / "a.safetensors", first_offset(dir / "a.safetensors"));
}

TEST_CASE("robustness: what is not a file") {
    const TempDir dir;
    CHECK_FALSE(opens(dir / "absent.gguf"));
    CHECK_FALSE(opens("/dev/null"));
    CHECK_FALSE(opens("/dev/zero"));
    spew(dir / "empty.gguf", "");
    CHECK_FALSE(opens(dir / "empty.gguf"));
}
