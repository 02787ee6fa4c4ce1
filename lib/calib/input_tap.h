// SPDX-License-Identifier: Apache-2.0
// What the matrices of one layer are multiplied with, summed over tokens: squares by column in
// doubles, and x x^T in floats. Matrices that share an input share its sums.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <vector>

#include "model/block.h"
#include "model/runner.h"

namespace thimble {

// Which of the sums are made.
struct InputSums {
    bool squares = false, gram = false;
};

class InputTap final : public Tap {
  public:
    // `wanted`: whose inputs; by the matrix's place in the layer.
    using Wanted = std::function<bool(std::size_t matrix)>;
    InputTap(const Exec& exec, InputSums sums, Wanted wanted)
        : exec_(exec), sums_(sums), wanted_(std::move(wanted)) {}
    // Forgets the layer before.
    void clear() { inputs_.clear(), of_.clear(); }
    void input(UnitId unit, std::span<const std::size_t> matrices, View x) override;
    // Means over the tokens seen; empty where there were none, or where nobody needs them.
    [[nodiscard]] std::vector<double> squares(std::size_t matrix) const;
    [[nodiscard]] std::span<const float> gram(std::size_t matrix) const;
    // At most, in any layer.
    [[nodiscard]] static std::size_t bytes(const ModelSource& source, InputSums sums);

  private:
    struct Input {
        std::int64_t tokens = 0;
        std::vector<double> squares;
        Buffer gram;  // [cols, cols]
    };
    void add(Input& input, View x) const;

    const Exec& exec_;
    InputSums sums_;
    Wanted wanted_;
    std::list<Input> inputs_;
    std::map<std::size_t, Input*> of_;  // by matrix
};

}  // namespace thimble
