// SPDX-License-Identifier: Apache-2.0
#include "model/factored_tensor.h"

#include <algorithm>

#include "core/error.h"
#include "format/weight_format.h"
#include "model/stacked_tensor.h"

namespace thimble {
namespace {

constexpr int kVersion = 1;

[[noreturn]] void fail(const std::string& where, const std::string& what) {
    throw Error(Exit::kBadData, where, what);
}

std::int64_t number(const Json& json, const char* key, std::int64_t most,
                    const std::string& where) {
    const Json* value = json.find(key);
    const std::int64_t n = value == nullptr ? 0 : value->as_int(where);
    if (n >= 1 && n <= most) return n;
    fail(where, "must have a '" + std::string(key) + "' from 1 to " + std::to_string(most));
}

void check_shape(const Json& json, Shape2 shape, const std::string& where) {
    const Json* dims = json.find("shape");
    if (dims != nullptr && dims->as_array(where).size() == 2 &&
        dims->as_array(where)[0].as_int(where) == shape.rows &&
        dims->as_array(where)[1].as_int(where) == shape.cols)
        return;
    fail(where, "is not of shape [" + std::to_string(shape.rows) + ", " +
                    std::to_string(shape.cols) + "], which the config wants");
}

SourceTensor find_factor(const ModelFile& file, const std::string& name, Shape2 shape,
                         const std::string& where) {
    SourceTensor factor;
    factor.name = name;
    factor.is_matrix = true;
    factor.dims = {static_cast<std::uint64_t>(shape.rows), static_cast<std::uint64_t>(shape.cols)};
    factor.packed = find_stored_planes(file, name, shape);
    if (factored_of(factor) != nullptr || stacked_of(factor) != nullptr)
        fail(where, "has a factor '" + name + "' that is no matrix of its own");
    if (factor.packed) {
        factor.form = factor.packed->form();
        return factor;
    }
    factor.entry = file.find(name);
    if (factor.entry == nullptr) fail(where, "has no factor '" + name + "'");
    const auto layout = layout_of(factor.entry->type);
    if (!layout || factor.entry->dims != factor.dims)
        fail(where, "has a factor '" + name + "' of another shape or type");
    factor.form = block_form(*layout, shape);
    return factor;
}

// Rows of a factor, decoded.
std::vector<float> read_factor(const ModelFile& file, const SourceTensor& factor, RowRange rows) {
    const PackedForm& form = factor.form;
    std::vector<std::byte> bytes(form.bytes(rows.count));
    for (std::size_t p = 0; p < form.planes.size(); ++p) {
        if (form.planes[p].bytes == 0) continue;
        const std::span<std::byte> to(bytes.data() + form.plane_offset(p, rows.count),
                                      form.plane_bytes(p, rows.count));
        if (factor.packed) {
            factor.packed->read(file, p, rows, to);
        } else {
            const auto at = static_cast<std::uint64_t>(rows.first) * form.planes[p].row_bytes;
            file.read(*factor.entry, at, to);
        }
    }
    const PackedView packed = form.view({rows.count, factor.cols()}, bytes.data());
    const WeightFormat& format = format_of(form.layout);
    if (form.planes.size() > 1) format.verify(packed, {0, rows.count}, rows.first);
    std::vector<float> out(static_cast<std::size_t>(rows.count * factor.cols()));
    format.decode(packed, {0, rows.count},
                  {reinterpret_cast<std::byte*>(out.data()), DType::kF32, rows.count, factor.cols(),
                   factor.cols()});
    return out;
}

}  // namespace

FactoredTensor::FactoredTensor(const ModelFile& file, const std::string& tensor, const Json& json,
                               Shape2 shape, const std::string& where) {
    if (!tensor.starts_with("blk.")) fail(where, "is of no matrix of a layer");
    if (number(json, "version", INT32_MAX, where) != kVersion)
        fail(where, "is of a version that this program does not know");
    check_shape(json, shape, where);
    const Json* linear = json.find("linear");
    if (linear == nullptr || !linear->as_members(where).empty())
        fail(where, "asks for a run-time step that this program does not know");
    const std::int64_t rank = number(json, "rank", std::min(shape.rows, shape.cols), where);
    a_ = find_factor(file, factor_a_name(tensor), {rank, shape.cols}, where);
    b_ = find_factor(file, factor_b_name(tensor), {shape.rows, rank}, where);
    for (const SourceTensor* factor : {&a_, &b_}) {
        if (factor->entry) entries_.push_back(factor->entry);
        if (!factor->packed) continue;
        const auto& planes = factor->packed->entries();
        entries_.insert(entries_.end(), planes.begin(), planes.end());
    }
    form_ = block_form(LayoutId::k_f32, shape);
}

void FactoredTensor::read(const ModelFile& file, std::size_t, RowRange rows,
                          std::span<std::byte> out) const {
    const std::vector<float> a = read_factor(file, a_, {0, a_.rows()});
    const std::vector<float> b = read_factor(file, b_, rows);
    const auto cols = static_cast<std::size_t>(a_.cols()), k = static_cast<std::size_t>(rank());
    std::vector<double> sums(cols);
    auto* to = reinterpret_cast<float*>(out.data());
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows.count); ++r) {
        std::ranges::fill(sums, 0.0);
        for (std::size_t i = 0; i < k; ++i) {
            const auto weight = static_cast<double>(b[r * k + i]);
            const float* row = a.data() + i * cols;
            for (std::size_t c = 0; c < cols; ++c) sums[c] += weight * static_cast<double>(row[c]);
        }
        std::ranges::transform(sums, to + r * cols, [](double x) { return static_cast<float>(x); });
    }
}

std::string factor_a_name(const std::string& tensor) { return tensor + ".a"; }
std::string factor_b_name(const std::string& tensor) { return tensor + ".b"; }

std::string describe_factors(Shape2 shape, std::int64_t rank) {
    Json json = Json::object();
    json.set("format", kFactoredFormat);
    json.set("version", kVersion);
    json.set("shape", JsonArray{shape.rows, shape.cols});
    json.set("rank", rank);
    json.set("linear", Json::object());
    return json.dump();
}

const FactoredTensor* factored_of(const SourceTensor& tensor) {
    return dynamic_cast<const FactoredTensor*>(tensor.packed.get());
}

std::int64_t largest_rank(const ModelSource& source) {
    std::int64_t most = 0;
    for (const SourceTensor& tensor : source.tensors())
        if (const FactoredTensor* f = factored_of(tensor)) most = std::max(most, f->rank());
    return most;
}

std::vector<MatrixPart> parts_of(const SourceTensor& matrix) {
    const FactoredTensor* factors = factored_of(matrix);
    if (factors == nullptr) return {{&matrix, MatrixPart::kWhole}};
    return {{&factors->a(), MatrixPart::kA}, {&factors->b(), MatrixPart::kB}};
}

const PackedView& part_view(const Linear& linear, MatrixPart::Kind kind) {
    if (kind == MatrixPart::kWhole) return linear.weight;
    return kind == MatrixPart::kA ? linear.factors->a : linear.factors->b;
}

void set_part(Linear& linear, MatrixPart::Kind kind, const PackedView& view) {
    if (kind == MatrixPart::kWhole) {
        linear.weight = view;
        return;
    }
    if (!linear.factors) linear.factors.emplace();
    (kind == MatrixPart::kA ? linear.factors->a : linear.factors->b) = view;
    linear.weight.shape = {linear.factors->b.shape.rows, linear.factors->a.shape.cols};
}

}  // namespace thimble
