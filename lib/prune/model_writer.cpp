// SPDX-License-Identifier: Apache-2.0
#include "prune/model_writer.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/error.h"
#include "model/config.h"
#include "ops/encode.h"
#include "prune/thresholds.h"
#include "prune/vocabulary.h"
#include "text/tokenizer.h"

namespace thimble::prune {
namespace {

constexpr std::int64_t kPieceBytes = std::int64_t{1} << 20;  // of floats, that one thread works on

bool is_plain(LayoutId layout) { return layout_info(layout).block_elements == 1; }

// Planes of some rows, one after the other.
class Planes final : public PlaneSink {
  public:
    void append(int plane, std::span<const std::byte> bytes) override {
        auto& to = planes[static_cast<std::size_t>(plane)];
        to.insert(to.end(), bytes.begin(), bytes.end());
    }
    std::array<std::vector<std::byte>, kMaxPlanes> planes;
};

// fn(first, place, count) for runs of `kept` that follow one another in the source.
template <class Fn>
void for_runs(const std::optional<Kept>& kept, std::int64_t begin, std::int64_t end, Fn&& fn) {
    if (!kept) return fn(begin, begin, end - begin);
    for (std::int64_t at = begin; at < end;) {
        const std::int64_t first = (*kept)[static_cast<std::size_t>(at)];
        std::int64_t count = 1;
        while (at + count < end && (*kept)[static_cast<std::size_t>(at + count)] == first + count)
            ++count;
        fn(first, at, count);
        at += count;
    }
}

}  // namespace

struct ModelWriter::Piece {
    const OutputTensor& tensor;
    const float* weights = nullptr;  // the source's, whole; null: read from it
    std::int64_t first = 0, end = 0;
    TensorWriter& writer;
    std::mutex& writing;

    void write(std::size_t plane, std::uint64_t offset, std::span<const std::byte> bytes) const {
        std::size_t spec = tensor.first_spec;
        for (std::size_t p = 0; p < plane; ++p) spec += tensor.form.planes[p].bytes > 0 ? 1 : 0;
        const std::lock_guard lock(writing);
        writer.write(spec, offset, bytes);
    }
};

ModelWriter::ModelWriter(const Cut& cut, const Setup& setup)
    : cut_(cut), setup_(setup), config_(config_after(cut, setup.source->config())) {
    if (!setup_.format) setup_.format = shared_format_of(LayoutId::k_f16);
    for (const SourceTensor& tensor : setup_.source->tensors()) add(tensor);
}

void ModelWriter::add(const SourceTensor& tensor) {
    OutputTensor out;
    out.from = &tensor;
    out.name = tensor.name;
    const bool in_layer = tensor.rule->gguf.find('#') != std::string_view::npos;
    if (in_layer) {
        const auto place = std::find(cut_.layers.begin(), cut_.layers.end(), tensor.layer);
        if (place == cut_.layers.end()) return;
        out.name = tensor_name(tensor.rule->gguf, place - cut_.layers.begin());
    }
    const ModelConfig& before = setup_.source->config();
    out.rows = kept_of(tensor.rule->rows, tensor.layer, cut_, before);
    out.cols = kept_of(tensor.rule->cols, tensor.layer, cut_, before);
    out.shape = {out.rows ? std::ssize(*out.rows) : tensor.rows(),
                 out.cols ? std::ssize(*out.cols) : tensor.cols()};
    out.edited = in_layer && tensor.is_matrix && (setup_.edits || (setup_.refits && out.cols));

    const bool plain = is_plain(tensor.layout());
    const bool as_stored =
        !out.cols && !out.edited && tensor.add == 0 && tensor.is_stored() && tensor.is_matrix;
    if (setup_.format_of) out.format = setup_.format_of(tensor);
    if (!as_stored && !out.format) {
        const bool keeps = plain && !tensor.packed && tensor.is_stored();
        out.format = !tensor.is_matrix && !keeps ? shared_format_of(LayoutId::k_f32)
                     : keeps                     ? shared_format_of(tensor.layout())
                                                 : setup_.format;
        if (!tensor.is_matrix && setup_.source->file().container() != Container::kGguf)
            out.format = shared_format_of(LayoutId::k_f32);
    }
    out.form = tensor.form;
    if (out.format) out.form = form_of(*out.format, out.shape);
    for (PlaneInfo& plane : out.form.planes) {
        if (!out.format && out.rows && plane.row_bytes > 0) {
            plane.bytes = plane.row_bytes * static_cast<std::size_t>(out.shape.rows);
            if (!plane.dims.empty()) plane.dims[0] = static_cast<std::uint64_t>(out.shape.rows);
        }
    }
    out.first_spec = specs_.size();
    if (has_planes(out.form.layout)) {
        for (TensorSpec& spec : plane_specs(out.name, out.form)) specs_.push_back(std::move(spec));
    } else {
        std::vector<std::uint64_t> dims = tensor.dims;
        dims.back() = static_cast<std::uint64_t>(out.shape.cols);
        if (dims.size() == 2) dims[0] = static_cast<std::uint64_t>(out.shape.rows);
        specs_.push_back({out.name, *tensor_type_of(out.form.layout), dims});
    }
    tensors_.push_back(std::move(out));
}

Metadata ModelWriter::metadata() const {
    const ModelSource& source = *setup_.source;
    Metadata out = source.gguf_metadata();
    if (source.file().container() == Container::kHuggingFace)
        Tokenizer::open(source.file())->write_vocabulary(out);
    if (cut_.tokens) trim_vocabulary(out, *cut_.tokens);
    for (const char* key : {"split.no", "split.count", "split.tensors.count"}) out.erase(key);
    for (const OutputTensor& tensor : tensors_) {
        if (has_planes(tensor.form.layout))
            out.set(std::string(kFormatKey) + tensor.name,
                    describe_planes(tensor.form, tensor.shape));
    }
    const bool changed = std::any_of(tensors_.begin(), tensors_.end(), [](const OutputTensor& t) {
        return t.format && t.from->is_matrix && t.form.layout != t.from->layout();
    });
    if (changed) out.erase("general.file_type");
    if (!source.thresholds().empty()) {
        const auto method = out.find_string(kThresholdsMethodKey);
        write_thresholds(thresholds_after(cut_, source), std::string(method.value_or("")), out);
    }
    const std::string prefix(source.architecture().id);
    out.erase(prefix + ".attention.sliding_window_pattern");
    write_config(config_, source.architecture(), out);
    return out;
}

std::size_t ModelWriter::buffer_bytes(int threads) const {
    std::size_t row = 0;
    for (const OutputTensor& tensor : tensors_) {
        const auto cols = static_cast<std::size_t>(tensor.from->cols());
        row = std::max(row, cols * 3 * sizeof(float));  // as read, as cut, as encoded
    }
    return static_cast<std::size_t>(threads) * 3 *
           std::max<std::size_t>(row, static_cast<std::size_t>(kPieceBytes));
}

void ModelWriter::copy(const OutputTensor& tensor, TensorWriter& writer, Team& team) const {
    store(tensor, {}, writer, team);
}

void ModelWriter::store(const OutputTensor& tensor, std::span<const float> weights,
                        TensorWriter& writer, Team& team) const try {
    std::mutex writing;
    const std::int64_t rows =
        std::max<std::int64_t>(kPieceBytes / 4 / std::max<std::int64_t>(tensor.from->cols(), 1), 1);
    const float* from = weights.empty() ? nullptr : weights.data();
    std::unique_ptr<Encoder> encoder;
    if (tensor.format) encoder = ops::encoder(setup_.isa, *tensor.format, tensor.shape, {});
    team.run(tensor.shape.rows, rows, [&](std::int64_t begin, std::int64_t end) {
        const Piece piece{tensor, from, begin, end, writer, writing};
        encoder ? encode_rows(piece, *encoder) : copy_rows(piece);
    });
} catch (const Error& e) {
    if (e.exit() != Exit::kBadData) throw;
    throw Error(e.exit(),
                escaped(setup_.source->file().path(), 1024) + ": tensor '" + tensor.from->name +
                    "', " + e.where(),
                e.problem(), e.hint());
}

void ModelWriter::copy_rows(const Piece& piece) const {
    const OutputTensor& tensor = piece.tensor;
    const PackedForm& form = tensor.from->form;
    for (std::size_t p = 0; p < form.planes.size(); ++p) {
        const std::size_t row_bytes = form.planes[p].row_bytes;
        std::vector<std::byte> bytes;
        if (row_bytes == 0) {
            if (piece.first > 0 || form.planes[p].bytes == 0) continue;
            bytes.resize(form.planes[p].bytes);
            setup_.source->read_plane(*tensor.from, p, {}, bytes);
            piece.write(p, 0, bytes);
            continue;
        }
        bytes.resize(row_bytes * static_cast<std::size_t>(piece.end - piece.first));
        for_runs(tensor.rows, piece.first, piece.end,
                 [&](std::int64_t first, std::int64_t place, std::int64_t count) {
                     const auto at = static_cast<std::size_t>(place - piece.first) * row_bytes;
                     const auto n = static_cast<std::size_t>(count) * row_bytes;
                     setup_.source->read_plane(*tensor.from, p, {first, count},
                                               std::span(bytes).subspan(at, n));
                 });
        piece.write(p, static_cast<std::uint64_t>(piece.first) * row_bytes, bytes);
    }
}

void ModelWriter::encode_rows(const Piece& piece, const Encoder& encoder) const {
    const OutputTensor& tensor = piece.tensor;
    const auto before = static_cast<std::size_t>(tensor.from->cols());
    const auto after = static_cast<std::size_t>(tensor.shape.cols);
    const auto count = static_cast<std::size_t>(piece.end - piece.first);
    std::vector<float> read(count * before);
    std::vector<std::byte> scratch;
    for_runs(tensor.rows, piece.first, piece.end,
             [&](std::int64_t first, std::int64_t place, std::int64_t n) {
                 float* to = read.data() + static_cast<std::size_t>(place - piece.first) * before;
                 if (piece.weights == nullptr)
                     return setup_.source->read_rows(*tensor.from, first, n, to, scratch);
                 std::memcpy(to, piece.weights + static_cast<std::size_t>(first) * before,
                             static_cast<std::size_t>(n) * before * sizeof(float));
             });
    if (tensor.cols) {
        for (std::size_t r = 0; r < count; ++r) {
            for (std::size_t c = 0; c < after; ++c)
                read[r * after + c] =
                    read[r * before + static_cast<std::size_t>((*tensor.cols)[c])];
        }
        read.resize(count * after);
    }
    Planes out;
    if (piece.first > 0) {  // tables come with the first rows
        encoder.encode(0, {}, out);
        for (auto& plane : out.planes) plane.clear();
    }
    encoder.encode(piece.first, read, out);
    for (std::size_t p = 0; p < tensor.form.planes.size(); ++p) {
        const PlaneInfo& plane = tensor.form.planes[p];
        if (plane.bytes == 0 || out.planes[p].empty()) continue;
        piece.write(p, static_cast<std::uint64_t>(piece.first) * plane.row_bytes, out.planes[p]);
    }
}

}  // namespace thimble::prune
