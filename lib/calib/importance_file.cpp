// SPDX-License-Identifier: Apache-2.0
// Importance matrices on disk.
//
// GGUF: keys general.type = "imatrix", imatrix.datasets (strings), imatrix.chunk_count and
// imatrix.chunk_size (u32); for each weight NAME two f32 tensors, NAME.in_sum2 [cols, matrices] and
// NAME.counts [1, matrices] (fastest dimension first).
//
// .dat, little-endian: i32 entries; each: i32 length, name, i32 calls, i32 values, f32[values] of
// mean * calls; then, which may be missing: i32 chunks, i32 length, name of the text.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "calib/importance.h"
#include "core/error.h"
#include "core/strings.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"

namespace thimble {
namespace {

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";
constexpr std::int64_t kMaxCount = std::int64_t{1} << 48;  // thousands of them can be added
constexpr std::int32_t kMaxNameBytes = 255, kMaxDatasetBytes = 1 << 16;
constexpr std::int32_t kMaxEntries = 1'000'000;

// A file's bytes, on disk or in memory.
struct Bytes {
    const File* file = nullptr;
    std::span<const std::byte> memory;
    std::string name;

    [[nodiscard]] std::uint64_t size() const { return file ? file->bytes() : memory.size(); }
    [[nodiscard]] Cursor cursor(std::uint64_t most) const {
        return file ? Cursor(*file, most) : Cursor(memory, name);
    }
    void read(std::uint64_t offset, std::span<std::byte> out) const {
        if (file) {
            file->read(offset, out);
        } else {
            std::memcpy(out.data(), memory.subspan(offset, out.size()).data(), out.size());
        }
    }
    [[nodiscard]] std::vector<float> floats(const TensorEntry& tensor) const {
        std::vector<float> values(tensor.bytes / sizeof(float));
        read(tensor.offset, std::as_writable_bytes(std::span(values)));
        return values;
    }
};

std::string without_directories(std::string_view path) {
    const std::string_view name = path.substr(path.find_last_of("/\\") + 1);
    return is_utf8(name) ? std::string(name) : escaped(name, 1024);
}

Error fault(const Bytes& in, const std::string& name, std::string what) {
    return {Exit::kBadData, escaped(in.name, 1024),
            "entry '" + escaped(name) + "': " + std::move(what)};
}

struct Pair {
    const TensorEntry* sums = nullptr;
    const TensorEntry* counts = nullptr;
};

// Tensors of other statistics are left alone.
std::map<std::string, Pair> pairs_of(const GgufHeader& header) {
    std::map<std::string, Pair> pairs;
    for (const TensorEntry& tensor : header.tensors) {
        const std::string_view name = tensor.name;
        if (name.ends_with(kSums))
            pairs[std::string(name.substr(0, name.size() - kSums.size()))].sums = &tensor;
        if (name.ends_with(kCounts))
            pairs[std::string(name.substr(0, name.size() - kCounts.size()))].counts = &tensor;
    }
    return pairs;
}

ImportanceEntry read_pair(const Bytes& in, const std::string& name, const Pair& pair) {
    if (pair.sums == nullptr || pair.counts == nullptr) {
        throw fault(
            in, name,
            "only one of " + std::string(kSums) + " and " + std::string(kCounts) + " is there");
    }
    if (pair.sums->type != TensorType::kF32 || pair.counts->type != TensorType::kF32)
        throw fault(in, name, "sums and counts must be f32");
    const std::uint64_t sums = pair.sums->bytes / sizeof(float);
    const std::uint64_t counts = pair.counts->bytes / sizeof(float);
    if (counts == 0 || sums == 0 || sums % counts != 0) {
        throw fault(
            in, name,
            std::to_string(sums) + " sums are not rows of " + std::to_string(counts) + " matrices");
    }
    ImportanceEntry entry;
    entry.sums = in.floats(*pair.sums);
    for (const float count : in.floats(*pair.counts)) {
        if (!(count >= 0 && count <= static_cast<float>(kMaxCount)))
            throw fault(in, name, "a count is negative, too large or not a number");
        entry.counts.push_back(std::llround(count));
    }
    return entry;
}

ImportanceMatrix read_gguf(const Bytes& in) {
    Cursor cursor = in.cursor(kGgufMaxHeaderBytes);
    const GgufHeader header = parse_gguf_header(cursor, in.size());
    const std::string_view type = header.metadata.find_string("general.type").value_or("model");
    if (type != "imatrix") {
        throw Error(Exit::kBadData, escaped(in.name, 1024),
                    "key 'general.type' must be 'imatrix', found '" + escaped(type) + "'",
                    "the file is no importance matrix");
    }
    ImportanceMatrix matrix;
    matrix.chunk_count = header.metadata.get_int("imatrix.chunk_count", 0, INT32_MAX);
    matrix.chunk_tokens = header.metadata.get_int("imatrix.chunk_size", 0, INT32_MAX);
    if (const MetaArray* names = header.metadata.find_array("imatrix.datasets")) {
        const auto* texts = std::get_if<std::vector<std::string>>(&names->elements);
        if (texts == nullptr) throw cursor.error("key 'imatrix.datasets' must be strings");
        for (const std::string& text : *texts) matrix.datasets.push_back(without_directories(text));
    }
    std::uint64_t bytes = 0;
    const auto pairs = pairs_of(header);
    for (const auto& [name, pair] : pairs) {
        bytes += pair.sums ? pair.sums->bytes : 0;
        bytes += pair.counts ? pair.counts->bytes / sizeof(float) * sizeof(std::int64_t) : 0;
    }
    matrix.charge.resize(bytes);
    for (const auto& [name, pair] : pairs) matrix.entries.emplace(name, read_pair(in, name, pair));
    return matrix;
}

std::string read_text(Cursor& in, std::int32_t most, const std::string& what) {
    const auto bytes = in.read<std::int32_t>(what);
    if (bytes < 0 || bytes > most) {
        throw in.error(what + ": a length of " + std::to_string(bytes) + " bytes; 0 to " +
                       std::to_string(most) + " are accepted");
    }
    in.require(static_cast<std::uint64_t>(bytes), 1, what);
    std::string text(static_cast<std::size_t>(bytes), '\0');
    in.read_bytes(std::as_writable_bytes(std::span(text)), what);
    return text;
}

void read_dat_entry(Cursor& in, std::int32_t index, std::int64_t chunk_tokens,
                    ImportanceMatrix& matrix) {
    const std::string where = "entry " + std::to_string(index);
    const std::string name = read_text(in, kMaxNameBytes, "name of " + where);
    if (name.empty() || !is_utf8(name)) throw in.error(where + ": the name is empty or not UTF-8");
    const std::string what = "entry '" + escaped(name) + "'";
    const auto calls = in.read<std::int32_t>(what);
    const auto values = in.read<std::int32_t>(what);
    if (calls < 0 || values < 1) {
        throw in.error(what + ": " + std::to_string(calls) + " calls and " +
                       std::to_string(values) + " values");
    }
    in.require(static_cast<std::uint64_t>(values), sizeof(float), what);
    const auto [at, is_new] = matrix.entries.try_emplace(name);
    if (!is_new) throw in.error(what + " occurs twice");
    ImportanceEntry& entry = at->second;
    matrix.charge.resize(matrix.charge.bytes() +
                         static_cast<std::uint64_t>(values) * sizeof(float));
    entry.sums.resize(static_cast<std::size_t>(values));
    in.read_bytes(std::as_writable_bytes(std::span(entry.sums)), what);
    for (float& sum : entry.sums) sum *= static_cast<float>(chunk_tokens);
    entry.counts = {calls * chunk_tokens};
}

ImportanceMatrix read_dat(const Bytes& bytes, std::int64_t chunk_tokens) {
    Cursor in = bytes.cursor(bytes.size());
    const auto count = in.read<std::int32_t>("entry count");
    if (count < 1 || count > kMaxEntries) {
        throw in.error("neither a GGUF file nor a .dat importance matrix: " +
                       std::to_string(count) + " entries");
    }
    in.require(static_cast<std::uint64_t>(count), 4 + 1 + 4 + 4 + 4, "the entries");
    ImportanceMatrix matrix;
    matrix.chunk_tokens = chunk_tokens;
    for (std::int32_t i = 0; i < count; ++i) read_dat_entry(in, i, chunk_tokens, matrix);
    if (in.remaining() == 0) return matrix;
    matrix.chunk_count = in.read<std::int32_t>("chunk count");
    if (matrix.chunk_count < 0) throw in.error("a negative chunk count");
    if (in.remaining() == 0) return matrix;
    const std::string dataset = read_text(in, kMaxDatasetBytes, "name of the text");
    if (!dataset.empty()) matrix.datasets.push_back(without_directories(dataset));
    if (in.remaining() > 0) throw in.error("bytes follow the name of the text");
    return matrix;
}

ImportanceMatrix read(const Bytes& in, std::int64_t dat_chunk_tokens) {
    std::array<char, 4> magic{};
    in.cursor(in.size()).read_bytes(std::as_writable_bytes(std::span(magic)), "the first bytes");
    ImportanceMatrix matrix = std::string_view(magic.data(), magic.size()) == "GGUF"
                                  ? read_gguf(in)
                                  : read_dat(in, dat_chunk_tokens);
    if (matrix.entries.empty())
        throw Error(Exit::kBadData, escaped(in.name, 1024), "an importance matrix without entries");
    return matrix;
}

void write_gguf(const std::string& path, const ImportanceMatrix& matrix, IfExists if_exists) {
    Metadata metadata;
    metadata.set("general.type", std::string("imatrix"));
    auto datasets = std::make_shared<MetaArray>();
    datasets->elements = matrix.datasets;
    metadata.set("imatrix.datasets", std::shared_ptr<const MetaArray>(std::move(datasets)));
    metadata.set("imatrix.chunk_count", static_cast<std::uint32_t>(matrix.chunk_count));
    metadata.set("imatrix.chunk_size", static_cast<std::uint32_t>(matrix.chunk_tokens));
    std::vector<TensorSpec> specs;
    for (const auto& [name, entry] : matrix.entries) {
        // As ggml does, without leading dimensions of 1.
        std::vector<std::uint64_t> sums = {entry.cols()}, counts = {1};
        if (entry.counts.size() > 1) {
            sums.insert(sums.begin(), entry.counts.size());
            counts.insert(counts.begin(), entry.counts.size());
        }
        specs.push_back({name + std::string(kSums), TensorType::kF32, sums});
        specs.push_back({name + std::string(kCounts), TensorType::kF32, counts});
    }
    GgufWriter writer(path, metadata, specs, if_exists);
    std::size_t index = 0;
    for (const auto& [name, entry] : matrix.entries) {
        writer.write(index++, 0, std::as_bytes(std::span(entry.sums)));
        std::vector<float> counts;
        for (const std::int64_t count : entry.counts) counts.push_back(static_cast<float>(count));
        writer.write(index++, 0, std::as_bytes(std::span(counts)));
    }
    writer.finish();
}

class DatWriter {
  public:
    DatWriter(const std::string& path, IfExists if_exists) : file_(path, 0, if_exists) {}
    void put(std::int64_t value) {
        const auto narrow = static_cast<std::int32_t>(value);
        write(std::as_bytes(std::span(&narrow, 1)));
    }
    void put(std::string_view text) {
        put(static_cast<std::int64_t>(text.size()));
        write(std::as_bytes(std::span(text)));
    }
    void write(std::span<const std::byte> bytes) {
        file_.write(offset_, bytes);
        offset_ += bytes.size();
    }
    void finish() { file_.commit(); }

  private:
    AtomicFile file_;
    std::uint64_t offset_ = 0;
};

void write_dat(const std::string& path, const ImportanceMatrix& matrix, IfExists if_exists) {
    const std::int64_t chunk = std::max<std::int64_t>(matrix.chunk_tokens, 1);
    const auto most = [](const ImportanceEntry& entry) {
        return *std::max_element(entry.counts.begin(), entry.counts.end());
    };
    DatWriter out(path, if_exists);
    out.put(std::count_if(matrix.entries.begin(), matrix.entries.end(),
                          [&](const auto& item) { return most(item.second) > 0; }));
    for (const auto& [name, entry] : matrix.entries) {
        if (most(entry) == 0) continue;
        const std::int64_t calls =
            std::min<std::int64_t>((most(entry) + chunk - 1) / chunk, INT32_MAX);
        std::vector<float> values(entry.sums.size(), static_cast<float>(calls));
        for (std::size_t i = 0; i < values.size(); ++i) {
            const auto count = static_cast<double>(entry.counts[i / entry.cols()]);
            if (count > 0)
                values[i] = static_cast<float>(static_cast<double>(entry.sums[i]) / count *
                                               static_cast<double>(calls));
        }
        out.put(name);
        out.put(calls);
        out.put(static_cast<std::int64_t>(values.size()));
        out.write(std::as_bytes(std::span(values)));
    }
    out.put(matrix.chunk_count);
    out.put(matrix.datasets.empty() ? std::string_view()
                                    : std::string_view(matrix.datasets.back()));
    out.finish();
}

}  // namespace

ImportanceMatrix read_importance(const std::string& path, std::int64_t dat_chunk_tokens) {
    const File file(path);
    return read({&file, {}, path}, dat_chunk_tokens);
}

ImportanceMatrix parse_importance(std::span<const std::byte> bytes, const std::string& name,
                                  std::int64_t dat_chunk_tokens) {
    return read({nullptr, bytes, name}, dat_chunk_tokens);
}

void write_importance(const std::string& path, const ImportanceMatrix& matrix,
                      ImportanceFormat format, IfExists if_exists) {
    for (const auto& [name, entry] : matrix.entries) {
        const std::size_t bad = unusable_sums(entry);
        if (bad == 0) continue;
        throw Error(Exit::kBadData, escaped(path, 1024),
                    "entry '" + escaped(name) + "': " + std::to_string(bad) +
                        " sums are negative or not finite",
                    "--exclude-weights " + escaped(name) + " leaves it out");
    }
    if (format == ImportanceFormat::kGguf) {
        write_gguf(path, matrix, if_exists);
    } else {
        write_dat(path, matrix, if_exists);
    }
}

}  // namespace thimble
