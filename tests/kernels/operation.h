// SPDX-License-Identifier: Apache-2.0
// An operation with its backward, as functions of plain arrays: central differences on the
// reference device, and agreement of every level with that device.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>

#include "harness.h"
#include "ops/gradients.h"

namespace thimble::test {

using Values = std::vector<double>;

inline Values random_values(std::uint64_t seed, std::int64_t n, float deviation = 1) {
    const std::vector<float> x = Random(seed).normals(n, deviation);
    return {x.begin(), x.end()};
}

inline Guarded placed(const Exec& exec, const Values& x, std::int64_t rows, std::int64_t cols) {
    Guarded out(exec.dtype(), rows, cols);
    for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < cols; ++c)
            out.set(r, c, x[static_cast<std::size_t>(r * cols + c)]);
    }
    return out;
}

inline Values values_of(Guarded& g) {
    CHECK(g.guards_hold());
    Values out;
    for (std::int64_t r = 0; r < g.rows(); ++r) {
        for (std::int64_t c = 0; c < g.cols(); ++c) out.push_back(g.at(r, c));
    }
    return out;
}

// forward: inputs to result; backward: inputs and the gradient of the result to those of the
// inputs, and anything else that it is known to write.
struct Operation {
    std::vector<Values> inputs;
    std::function<Values(Machine&, const std::vector<Values>&)> forward;
    std::function<std::vector<Values>(Machine&, const std::vector<Values>&, const Values&)>
        backward;
    std::size_t workspace_bytes = std::size_t{4} << 20;
};

inline std::unique_ptr<Machine> oracle() {
    return std::make_unique<Machine>(Isa::kPortable, 2, std::size_t{1} << 16, Device::kRef);
}

// Gradients of sum(weights * forward(inputs)) by central differences.
inline void check_differences(const Operation& op) {
    const auto machine = oracle();
    const Values y = op.forward(*machine, op.inputs);
    const Values weights = random_values(900, std::ssize(y));
    const std::vector<Values> got = op.backward(*machine, op.inputs, weights);
    REQUIRE(got.size() == op.inputs.size());
    const auto loss = [&](const std::vector<Values>& inputs) {
        const Values out = op.forward(*machine, inputs);
        double sum = 0;
        for (std::size_t i = 0; i < out.size(); ++i) sum += weights[i] * out[i];
        return sum;
    };
    for (std::size_t i = 0; i < op.inputs.size(); ++i) {
        REQUIRE(got[i].size() == op.inputs[i].size());
        double largest = 0, worst = 0;
        for (std::size_t e = 0; e < got[i].size(); ++e) {
            constexpr double kStep = 1e-5;
            std::vector<Values> moved = op.inputs;
            moved[i][e] += kStep;
            const double above = loss(moved);
            moved[i][e] -= 2 * kStep;
            const double expected = (above - loss(moved)) / (2 * kStep);
            largest = std::max(largest, std::abs(expected));
            worst = std::max(worst, std::abs(got[i][e] - expected));
        }
        CAPTURE(i);
        CHECK(worst <= 1e-6 * largest);
    }
}

// The first level that asks for a dense product limits oneDNN for the whole process.
inline std::vector<Isa> levels_from_best() {
    std::vector<Isa> out = levels();
    std::reverse(out.begin(), out.end());
    return out;
}

// Every level, with 1, 2 and 3 threads: within `bounds` of the reference device, and the same bits.
inline void check_levels(const Operation& op, const Values& dy, const std::vector<Values>& expected,
                         const std::vector<Values>& bounds,
                         Activations activations = Activations::kF32) {
    for (const Isa isa : levels_from_best()) {
        CAPTURE(name(isa));
        std::vector<Values> first;
        for (const int threads : {1, 2, 3}) {
            Machine m(isa, threads, op.workspace_bytes);
            m.exec.products = Products::kDense, m.exec.activations = activations;
            const std::vector<Values> got = op.backward(m, op.inputs, dy);
            CHECK(m.workspace.used() == 0);
            if (threads > 1) {
                CHECK(got == first);
                continue;
            }
            first = got;
            REQUIRE(got.size() == expected.size());
            for (std::size_t i = 0; i < got.size(); ++i) {
                REQUIRE(got[i].size() == expected[i].size());
                double worst = 0;
                for (std::size_t e = 0; e < got[i].size(); ++e) {
                    const double error = std::abs(got[i][e] - expected[i][e]);
                    worst = std::max(worst, std::isnan(error) ? 1e300 : error / bounds[i][e]);
                }
                CAPTURE(i);
                CHECK(worst <= 1.0);
            }
        }
    }
}

}  // namespace thimble::test
