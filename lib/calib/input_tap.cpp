// SPDX-License-Identifier: Apache-2.0
#include "calib/input_tap.h"

#include <algorithm>

#include "ops/dense.h"

namespace thimble {
namespace {

constexpr std::int64_t kColumns = 64;  // that one thread adds at a time

std::size_t gram_bytes(std::int64_t cols) {
    return static_cast<std::size_t>(cols * cols) * sizeof(float);
}

}  // namespace

void InputTap::input(UnitId, std::span<const std::size_t> matrices, View x) {
    if (std::none_of(matrices.begin(), matrices.end(), wanted_)) return;
    Input*& first = of_[matrices.front()];
    if (first == nullptr) {
        first = &inputs_.emplace_back();
        if (sums_.squares) first->squares.assign(static_cast<std::size_t>(x.cols), 0.0);
        if (sums_.gram) {
            first->gram = Buffer(gram_bytes(x.cols), Purpose::kActivations);
            std::fill_n(first->gram.as<float>(), x.cols * x.cols, 0.0F);
        }
    }
    for (const std::size_t matrix : matrices) of_[matrix] = first;
    add(*first, x);
}

void InputTap::add(Input& input, View x) const {
    input.tokens += x.rows;
    if (sums_.squares) {
        exec_.team->run(x.cols, kColumns, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t r = 0; r < x.rows; ++r) {
                const float* row = x.row<float>(r);
                for (std::int64_t c = begin; c < end; ++c) {
                    const auto v = static_cast<double>(row[c]);
                    input.squares[static_cast<std::size_t>(c)] += v * v;
                }
            }
        });
    }
    if (!sums_.gram) return;
    ops::dense::Product product;
    product.a = x, product.a_transposed = true;
    product.b = x;
    product.c = {input.gram.data(), DType::kF32, x.cols, x.cols, x.cols};
    product.accumulate = true;
    ops::dense::multiply_tiled(exec_, product);
}

std::vector<double> InputTap::squares(std::size_t matrix) const {
    const auto found = of_.find(matrix);
    if (found == of_.end()) return {};
    std::vector<double> means = found->second->squares;
    for (double& mean : means) mean /= static_cast<double>(found->second->tokens);
    return means;
}

std::span<const float> InputTap::gram(std::size_t matrix) const {
    const auto found = of_.find(matrix);
    if (found == of_.end() || !found->second->gram) return {};
    const Buffer& gram = found->second->gram;
    return {gram.as<float>(), gram.bytes() / sizeof(float)};
}

std::size_t InputTap::bytes(const ModelSource& source, InputSums sums) {
    std::size_t most = 0;
    const std::vector<UnitSpec> units = units_of(source);
    for (std::size_t u = 1; u + 1 < units.size(); ++u) {
        std::size_t sum = 0;
        for (const auto& m : units[u].matrices) {
            if (sums.gram) sum += Buffer::charged_bytes(gram_bytes(m.weight->cols()));
        }
        most = std::max(most, sum);
    }
    return most;
}

}  // namespace thimble
