// SPDX-License-Identifier: Apache-2.0
#include "quant/model_compare.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "core/checked.h"
#include "core/error.h"
#include "format/weight_format.h"
#include "model/source.h"

namespace thimble {
namespace {

constexpr std::size_t kChunkWeights = std::size_t{1} << 16;
constexpr std::int64_t kChunksPerGroup = 64;

// One tensor as rows of floats: through its architecture, or just as stored.
struct Rows {
    const ModelFile* file = nullptr;
    const TensorEntry* entry = nullptr;
    const ModelSource* source = nullptr;
    const SourceTensor* tensor = nullptr;  // with `source`

    [[nodiscard]] std::vector<std::uint64_t> dims() const {
        return tensor != nullptr ? tensor->dims : entry->dims;
    }
    // None where it is of a type that is not decoded.
    [[nodiscard]] std::optional<LayoutId> layout() const {
        return tensor != nullptr ? std::optional(tensor->layout()) : layout_of(entry->type);
    }
    [[nodiscard]] std::int64_t cols() const {
        return static_cast<std::int64_t>(dims().empty() ? 1 : dims().back());
    }
    [[nodiscard]] std::int64_t rows() const {
        std::uint64_t n = 1;
        for (const std::uint64_t extent : dims()) n *= extent;
        return cols() == 0 ? 0 : static_cast<std::int64_t>(n) / cols();
    }

    // Bytes of a row to be read as stored; 0 where its source reads it.
    [[nodiscard]] std::size_t row_bytes() const {
        if (tensor != nullptr || !layout()) return 0;
        const LayoutInfo& info = layout_info(*layout());
        return static_cast<std::size_t>(cols() / info.block_elements) * info.block_bytes;
    }

    void read(std::int64_t first, std::int64_t count, std::span<std::byte> stored,
              std::span<float> out) const {
        if (tensor != nullptr) {
            std::vector<std::byte> scratch;
            source->read_rows(*tensor, first, count, out.data(), scratch);
            return;
        }
        const std::span<std::byte> bytes =
            stored.first(row_bytes() * static_cast<std::size_t>(count));
        file->read(*entry, static_cast<std::uint64_t>(first) * row_bytes(), bytes);
        PackedView view;
        view.layout = *layout();
        view.shape = {count, cols()};
        view.n_planes = 1;
        view.planes[0] = {bytes.data(), row_bytes(), bytes.size()};
        format_of(view.layout)
            .decode(view, {0, count}, {out.data(), DType::kF32, count, cols(), cols()});
    }
};

std::int64_t chunk_rows(std::int64_t cols) {
    return std::max<std::int64_t>(
        1, static_cast<std::int64_t>(kChunkWeights) / std::max<std::int64_t>(cols, 1));
}

// Matrices of several tensors each, which only a source puts together.
bool has_planes(const ModelFile& file) {
    const auto& entries = file.metadata().entries();
    return std::any_of(entries.begin(), entries.end(),
                       [](const auto& e) { return e.first.starts_with(kFormatKey); });
}

std::size_t aligned(std::size_t bytes) { return *checked_round_up(bytes, 64); }

}  // namespace

std::uint64_t element_count(const TensorEntry& tensor) noexcept {
    return tensor.rows() * tensor.row_elements();
}

double bits_per_weight(std::uint64_t bytes, std::uint64_t elements) noexcept {
    return elements == 0 ? 0 : 8 * static_cast<double>(bytes) / static_cast<double>(elements);
}

struct ModelCompare::State {
    std::unique_ptr<ModelFile> files[2];
    std::unique_ptr<ModelSource> sources[2];                 // where names must be translated
    std::unordered_map<std::string, std::string> canonical;  // of the model's stored names
    std::size_t slice_bytes = 0;                             // of `buffer`, per worker
    Buffer buffer;

    [[nodiscard]] const ModelFile& file(std::size_t side) const {
        return sources[side] ? sources[side]->file() : *files[side];
    }
    [[nodiscard]] std::optional<Rows> rows(std::size_t side, const std::string& name) const {
        Rows out{&file(side), nullptr, nullptr, nullptr};
        if (sources[side]) {
            out.source = sources[side].get();
            out.tensor = out.source->find(name);
            if (out.tensor == nullptr) return std::nullopt;
            return out;
        }
        out.entry = out.file->find(name);
        if (out.entry == nullptr) return std::nullopt;
        return out;
    }
    // Bytes of one worker's slice that hold `count` rows of both sides.
    [[nodiscard]] static std::size_t slice(const Rows& a, const Rows& b, std::int64_t count) {
        const auto n = static_cast<std::size_t>(count);
        const std::size_t stored = std::max(a.row_bytes(), b.row_bytes());
        return aligned(stored * n) +
               2 * aligned(static_cast<std::size_t>(a.cols()) * sizeof(float) * n);
    }
    [[nodiscard]] std::string name_of(std::string_view stored) const {
        const auto at = canonical.find(std::string(stored));
        return at == canonical.end() ? std::string(stored) : at->second;
    }
    [[nodiscard]] std::size_t greatest_slice() const;
    [[nodiscard]] TensorError sum(const Rows& model, const Rows& reference, Team& team);
};

ModelCompare::ModelCompare(const std::string& model, const std::string& reference)
    : state_(std::make_unique<State>()) {
    State& s = *state_;
    s.files[0] = ModelFile::open(model);
    s.files[1] = ModelFile::open(reference);
    if (s.files[0]->container() != s.files[1]->container() || has_planes(*s.files[0]) ||
        has_planes(*s.files[1])) {
        for (std::size_t side = 0; side < 2; ++side)
            s.sources[side] = std::make_unique<ModelSource>(std::move(s.files[side]));
        for (const SourceTensor& tensor : s.sources[0]->tensors()) {
            if (tensor.entry != nullptr) s.canonical.emplace(tensor.entry->name, tensor.name);
            if (tensor.packed)
                s.canonical.emplace(tensor.packed->entries().front()->name, tensor.name);
        }
    }
    const auto& tensors = s.file(0).tensors();
    const bool paired = std::any_of(tensors.begin(), tensors.end(), [&](const TensorEntry& entry) {
        return s.rows(1, s.name_of(entry.name)).has_value();
    });
    if (!paired) {
        throw Error(Exit::kUsage, "--reference",
                    "'" + escaped(reference) + "' has no tensor that the model has, too",
                    "give the model that this one was made from");
    }
    s.slice_bytes = s.greatest_slice();
}

ModelCompare::~ModelCompare() = default;

std::size_t ModelCompare::State::greatest_slice() const {
    std::size_t most = 0;
    for (const TensorEntry& entry : file(0).tensors()) {
        const std::string name = name_of(entry.name);
        const auto a = rows(0, name), b = rows(1, name);
        if (!a || !b) continue;
        most = std::max(most, slice(*a, *b, std::min(a->rows(), chunk_rows(a->cols()))));
    }
    return most;
}

std::uint64_t ModelCompare::buffer_bytes(int threads) const {
    return Buffer::charged_bytes(state_->slice_bytes * static_cast<std::size_t>(threads));
}

std::uint64_t ModelCompare::header_bytes() const {
    return state_->file(0).metadata().memory_bytes() + state_->file(1).metadata().memory_bytes();
}

TensorError ModelCompare::State::sum(const Rows& model, const Rows& reference, Team& team) {
    const std::int64_t rows = model.rows(), cols = model.cols();
    const std::int64_t grain = std::min(rows, chunk_rows(cols));
    const auto n = static_cast<std::size_t>(grain);
    const std::size_t stored_bytes =
        aligned(std::max(model.row_bytes(), reference.row_bytes()) * n);
    const std::size_t float_bytes = aligned(static_cast<std::size_t>(cols) * sizeof(float) * n);
    TensorError total;
    for (std::int64_t done = 0; done < rows;) {
        const std::int64_t some = std::min(rows - done, grain * kChunksPerGroup);
        std::array<TensorError, kChunksPerGroup> errors{};
        team.run_indexed(some, grain, [&](std::int64_t begin, std::int64_t end, int worker) {
            std::byte* own = buffer.data() + slice_bytes * static_cast<std::size_t>(worker);
            const auto weights = static_cast<std::size_t>((end - begin) * cols);
            const std::span<std::byte> stored(own, stored_bytes);
            auto* floats = reinterpret_cast<float*>(own + stored_bytes);
            const std::span<float> want(floats, weights);
            const std::span<float> got(floats + float_bytes / sizeof(float), weights);
            reference.read(done + begin, end - begin, stored, want);
            model.read(done + begin, end - begin, stored, got);
            errors[static_cast<std::size_t>(begin / grain)].compare(want, got);
        });
        for (const TensorError& e : errors) total.add(e);
        done += some;
    }
    return total;
}

ModelCompare::Result ModelCompare::compare(std::string_view name, Team& team) {
    State& s = *state_;
    const std::string canonical = s.name_of(name);
    const auto model = s.rows(0, canonical), reference = s.rows(1, canonical);
    if (!model) return {{}, "not a weight of the architecture"};
    if (!reference) return {{}, "not in the reference"};
    if (model->dims() != reference->dims()) return {{}, "another shape in the reference"};
    for (const Rows* rows : {&*model, &*reference}) {
        if (rows->layout()) continue;
        return {{}, std::string(find_tensor_type(rows->entry->type)->name) + " is not decoded"};
    }
    if (!s.buffer) {
        const auto workers = static_cast<std::size_t>(team.threads());
        s.buffer = Buffer(s.slice_bytes * workers, Purpose::kIo);
    }
    return {s.sum(*model, *reference, team), ""};
}

}  // namespace thimble
