// SPDX-License-Identifier: Apache-2.0
#include "model/stacked_tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "format/weight_format.h"
#include "kernels/layout/half.h"
#include "model/source.h"

namespace thimble {
namespace {

constexpr int kVersion = 1;

bool is_finite(std::uint16_t half) { return (half & 0x7c00) != 0x7c00; }

std::int64_t number(const Json& json, const char* key, std::int64_t most,
                    const std::string& where) {
    const Json* value = json.find(key);
    const std::int64_t n = value == nullptr ? 0 : value->as_int(where);
    if (n >= 1 && n <= most) return n;
    throw Error(Exit::kBadData, where,
                "must have a '" + std::string(key) + "' from 1 to " + std::to_string(most));
}

// Sums in double of one row, from blocks whose parts begin with that row.
void add_row(const ops::SignedBlock& block, const StackForm& form, std::int64_t row,
             std::vector<double>& sums) {
    const std::int64_t cols = form.shape.cols;
    const std::byte* signs = block.signs + row * cpu::sign_row_bytes(cols);
    const std::uint16_t* a = block.a + row * form.rank;
    for (std::int64_t c = 0; c < cols; ++c) {
        double sum = 0;
        for (std::int64_t k = 0; k < form.rank; ++k)
            sum += static_cast<double>(f16_to_f32(a[k])) *
                   static_cast<double>(f16_to_f32(block.b[c * form.rank + k]));
        const bool minus = (static_cast<int>(signs[c / 8]) >> (c % 8) & 1) != 0;
        sums[static_cast<std::size_t>(c)] +=
            (minus ? -sum : sum) * static_cast<double>(block.scale);
    }
}

}  // namespace

StackForm::StackForm(Shape2 s, std::int64_t r)
    : shape(s),
      rank(r),
      sign_bytes(static_cast<std::size_t>(s.rows * cpu::sign_row_bytes(s.cols))),
      a((sign_bytes + 3) & ~std::size_t{3}),
      b(a + static_cast<std::size_t>(2 * s.rows * r)),
      scale((b + static_cast<std::size_t>(2 * s.cols * r) + 3) & ~std::size_t{3}),
      bytes(scale + sizeof(float)) {}

ops::SignedBlock StackForm::block(const std::byte* data) const noexcept {
    ops::SignedBlock out{data, reinterpret_cast<const std::uint16_t*>(data + a),
                         reinterpret_cast<const std::uint16_t*>(data + b), 0};
    std::memcpy(&out.scale, data + scale, sizeof out.scale);
    return out;
}

StackedTensor::StackedTensor(const ModelFile& file, const std::string& tensor, const Json& json,
                             Shape2 shape, std::string where)
    : where_(std::move(where)), stack_(shape, number(json, "rank", kMostStackRank, where_)) {
    if (number(json, "version", INT32_MAX, where_) != kVersion)
        throw damaged("is of a version that this program does not know");
    const Json* dims = json.find("shape");
    if (dims == nullptr || dims->as_array(where_).size() != 2 ||
        dims->as_array(where_)[0].as_int(where_) != shape.rows ||
        dims->as_array(where_)[1].as_int(where_) != shape.cols) {
        throw damaged("is not of shape [" + std::to_string(shape.rows) + ", " +
                      std::to_string(shape.cols) + "], which the config wants");
    }
    const Json* linear = json.find("linear");
    if (linear == nullptr || !linear->as_members(where_).empty())
        throw damaged("asks for a run-time step that this program does not know");
    const std::int64_t levels = number(json, "levels", kMostStackLevels, where_);
    for (std::int64_t level = 0; level < levels; ++level) {
        const std::string name = stack_block_name(tensor, level);
        const TensorEntry* entry = file.find(name);
        if (entry == nullptr) throw damaged("has no block '" + name + "'");
        if (entry->type != TensorType::kI8 || entry->bytes != stack_.bytes)
            throw damaged("has a block '" + name + "' of another size or type");
        entries_.push_back(entry);
    }
    form_ = block_form(LayoutId::k_f32, shape);
}

Error StackedTensor::damaged(const std::string& what) const {
    return {Exit::kBadData, where_, what};
}

ops::SignedBlock StackedTensor::load(const ModelFile& file, std::int64_t level,
                                     std::byte* memory) const {
    file.read(*entries_[static_cast<std::size_t>(level)], 0, {memory, stack_.bytes});
    const ops::SignedBlock block = stack_.block(memory);
    const std::int64_t factors = (stack_.shape.rows + stack_.shape.cols) * stack_.rank;
    if (!std::isfinite(block.scale) || !std::all_of(block.a, block.a + factors, is_finite))
        throw damaged("has a block " + std::to_string(level) + " with a number that is not finite");
    return block;
}

void StackedTensor::read(const ModelFile& file, std::size_t, RowRange rows,
                         std::span<std::byte> out) const {
    const auto cols = static_cast<std::size_t>(stack_.shape.cols);
    std::vector<std::vector<std::byte>> memory;
    std::vector<ops::SignedBlock> blocks;
    for (std::int64_t level = 0; level < levels(); ++level) {
        memory.emplace_back(stack_.bytes);
        blocks.push_back(load(file, level, memory.back().data()));
    }
    std::vector<double> sums(cols);
    auto* to = reinterpret_cast<float*>(out.data());
    for (std::int64_t r = 0; r < rows.count; ++r) {
        std::ranges::fill(sums, 0.0);
        for (const ops::SignedBlock& block : blocks) add_row(block, stack_, rows.first + r, sums);
        std::ranges::transform(sums, to + static_cast<std::size_t>(r) * cols,
                               [](double x) { return static_cast<float>(x); });
    }
}

std::string stack_block_name(const std::string& tensor, std::int64_t level) {
    return tensor + ".l" + std::to_string(level);
}

std::string describe_stack(const StackForm& form, std::int64_t levels) {
    Json json = Json::object();
    json.set("format", kStackedFormat);
    json.set("version", kVersion);
    json.set("shape", JsonArray{form.shape.rows, form.shape.cols});
    json.set("rank", form.rank);
    json.set("levels", levels);
    json.set("linear", Json::object());
    return json.dump();
}

const StackedTensor* stacked_of(const SourceTensor& tensor) {
    return dynamic_cast<const StackedTensor*>(tensor.packed.get());
}

bool any_stacked(const ModelSource& source) {
    return std::ranges::any_of(source.tensors(),
                               [](const SourceTensor& t) { return stacked_of(t) != nullptr; });
}

StackOrder read_stack_order(const ModelSource& source) {
    const Metadata& metadata = source.file().metadata();
    const auto bad = [&](std::string_view key, const std::string& what) {
        return Error(Exit::kBadData,
                     escaped(source.file().path(), 1024) + ": key '" + std::string(key) + "'",
                     what);
    };
    const MetaArray* names = metadata.find_array(kStackLinearsKey);
    const MetaArray* order = metadata.find_array(kStackOrderKey);
    const auto* texts = names ? std::get_if<std::vector<std::string>>(&names->elements) : nullptr;
    const auto* numbers =
        order ? std::get_if<std::vector<std::int32_t>>(&order->elements) : nullptr;
    if (texts == nullptr) throw bad(kStackLinearsKey, "must list the matrices in blocks");
    if (numbers == nullptr) throw bad(kStackOrderKey, "must list the matrices of all blocks");
    StackOrder out;
    std::vector<std::int64_t> left;
    for (const std::string& name : *texts) {
        const SourceTensor* tensor = source.find(name);
        if (tensor == nullptr || stacked_of(*tensor) == nullptr ||
            std::ranges::find(out.linears, tensor) != out.linears.end())
            throw bad(kStackLinearsKey,
                      "names '" + escaped(name) + "', which is no other matrix in blocks");
        out.linears.push_back(tensor);
        left.push_back(stacked_of(*tensor)->levels());
    }
    const auto in_blocks = std::ranges::count_if(
        source.tensors(), [](const SourceTensor& t) { return stacked_of(t) != nullptr; });
    if (in_blocks != std::ssize(out.linears))
        throw bad(kStackLinearsKey, "does not name every matrix in blocks");
    std::size_t place = 0;
    for (const std::int32_t i : *numbers) {
        if (i < 0 || i >= std::ssize(left) || left[static_cast<std::size_t>(i)]-- == 0)
            throw bad(kStackOrderKey,
                      "names a block that is not there, at place " + std::to_string(place));
        const bool first = left[static_cast<std::size_t>(i)] + 1 ==
                           stacked_of(*out.linears[static_cast<std::size_t>(i)])->levels();
        if (first != (place < out.linears.size()))
            throw bad(kStackOrderKey, "does not begin with the first block of every matrix");
        ++place;
    }
    if (std::ranges::any_of(left, [](std::int64_t n) { return n != 0; }))
        throw bad(kStackOrderKey, "leaves blocks out");
    out.order = *numbers;
    return out;
}

}  // namespace thimble
