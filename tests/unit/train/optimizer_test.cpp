// SPDX-License-Identifier: Apache-2.0
// AdamW and gradient descent against torch and against double.
#include "train/optimizer.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>

#include "tests/support/golden_train.h"
#include "tests/support/trained_parameter.h"

using namespace thimble;
using namespace thimble::test;
using namespace thimble::train;

namespace {

constexpr double kEpsilon = std::numeric_limits<float>::epsilon();

// AdamW as its paper has it, in double.
struct DoubleAdamw {
    double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, w = 0, m = 0, v = 0;
    // Returns how far the weight went.
    double step(double g, double rate, double decay, double t) {
        m = beta1 * m + (1 - beta1) * g;
        v = beta2 * v + (1 - beta2) * g * g;
        const double mean = m / (1 - std::pow(beta1, t)), square = v / (1 - std::pow(beta2, t));
        const double before = w;
        w -= rate * decay * w + rate * mean / (std::sqrt(square) + eps);
        return w - before;
    }
};

}  // namespace

TEST_CASE("optimizers: the weights are torch's") {
    const std::vector<float> weights = floats(*golden_train().find("weights"));
    const JsonArray& gradients = golden_train().find("gradients")->as_array("golden");
    for (const Json& golden : golden_train().find("optimizers")->as_array("golden")) {
        const std::string spec = golden.find("spec")->as_string("golden");
        CAPTURE(spec);
        const auto optimizer = make_optimizer(spec, "test");
        const ParameterInfo info{{1, std::ssize(weights)}};
        TrainedParameter p(*optimizer, info, 1);
        std::copy(weights.begin(), weights.end(), p.weights.begin());
        const JsonArray& after = golden.find("after")->as_array("golden");
        REQUIRE(after.size() == gradients.size());
        std::vector<double> way(weights.size());  // that each weight has gone in all
        for (std::size_t step = 0; step < after.size(); ++step) {
            const std::vector<float> g = floats(gradients[step]), want = floats(after[step]);
            std::copy(g.begin(), g.end(), p.gradients.begin());
            UpdateTile tile = p.tile(static_cast<std::int64_t>(step) + 1);
            tile.learning_rate = golden.find("learning_rate")->as_double("golden");
            tile.weight_decay = golden.find("weight_decay")->as_double("golden");
            tile.gradient_scale = 1;
            const std::vector<float> before = p.weights;
            optimizer->update(best_isa(), tile);
            for (std::size_t i = 0; i < want.size(); ++i) {
                CAPTURE(i);
                // Each step rounds the weight (torch also after the decay) and carries a few
                // roundings of its own length.
                way[i] += std::abs(static_cast<double>(p.weights[i] - before[i]));
                const double bound = kEpsilon * (static_cast<double>(step + 1) *
                                                     std::abs(static_cast<double>(want[i])) +
                                                 8 * way[i]);
                CHECK(std::abs(static_cast<double>(p.weights[i] - want[i])) <= bound);
            }
        }
    }
}

TEST_CASE("adamw: 300 steps agree with double, over nine decades of gradients") {
    const auto optimizer = make_optimizer("adamw:beta2=0.99", "test");
    constexpr std::int64_t kCount = 90;
    TrainedParameter p(*optimizer, {{1, kCount}}, 2);
    std::vector<DoubleAdamw> want(kCount);
    std::vector<double> bound(kCount);
    for (std::size_t i = 0; i < want.size(); ++i)
        want[i].beta2 = 0.99, want[i].w = static_cast<double>(p.weights[i]);
    for (std::int64_t step = 1; step <= 300; ++step) {
        p.set_gradients(step);
        UpdateTile tile = p.tile(step);
        for (std::size_t i = 0; i < want.size(); ++i) {
            p.gradients[i] *= std::pow(10.0f, static_cast<float>(i % 10) - 6);
            const float scaled = p.gradients[i] * 0.75f;
            const double way = want[i].step(static_cast<double>(scaled), tile.learning_rate,
                                            tile.weight_decay, static_cast<double>(step));
            // The weight is rounded; m and v remember roundings of ten and a hundred steps, of
            // terms that may be larger than their sum: 30 times the step's own at most here.
            bound[i] +=
                kEpsilon * (std::abs(want[i].w) / 2 + 12 * std::abs(way) + 12 * tile.learning_rate);
        }
        optimizer->update(best_isa(), tile);
    }
    for (std::size_t i = 0; i < want.size(); ++i) {
        CAPTURE(i);
        CHECK(std::abs(static_cast<double>(p.weights[i]) - want[i].w) <= bound[i]);
    }
}

TEST_CASE("adamw: a weight is rounded once a step, decay and all") {
    const auto optimizer = make_optimizer("adamw", "test");
    constexpr std::size_t kCount = 500;
    TrainedParameter p(*optimizer, {{1, kCount}}, 3);
    p.set_gradients(1);
    const std::vector<float> before = p.weights;
    UpdateTile tile = p.tile(1);
    tile.learning_rate = 1e-4;
    optimizer->update(best_isa(), tile);
    for (std::size_t i = 0; i < kCount; ++i) {
        DoubleAdamw want;
        want.w = static_cast<double>(before[i]);
        const double way = want.step(static_cast<double>(p.gradients[i] * 0.75f),
                                     tile.learning_rate, tile.weight_decay, 1);
        const double place = std::exp2(std::ilogb(before[i])) * kEpsilon;
        CHECK(std::abs(static_cast<double>(p.weights[i]) - want.w) <=
              0.5 * place + 8 * kEpsilon * std::abs(way));
    }
}

TEST_CASE("adamw: moments that gradients no longer feed end at 0, not among subnormal numbers") {
    for (const Isa isa : machine_levels()) {
        const auto optimizer = make_optimizer("adamw:beta2=0.9", "test");
        TrainedParameter p(*optimizer, {{1, 33}}, 4);
        p.set_gradients(1);
        for (float& g : p.gradients) g = std::copysign(1e-15f, g);
        optimizer->update(isa, p.tile(1));
        p.set_gradients(2, 0);
        for (std::int64_t step = 2; step < 700; ++step) {
            optimizer->update(isa, p.tile(step));
            for (int slot = 0; slot < 2; ++slot) {
                const auto* x =
                    reinterpret_cast<const float*>(p.slots[static_cast<std::size_t>(slot)].data());
                for (int i = 0; i < 33; ++i) REQUIRE(std::fpclassify(x[i]) != FP_SUBNORMAL);
            }
        }
        for (std::size_t i = 0; i < 33 * sizeof(float); ++i) {
            CHECK(p.slots[0][i] == std::byte{});
            CHECK(p.slots[1][i] == std::byte{});
        }
    }
}

TEST_CASE("sgd: velocity is the sum of decayed gradients, in double") {
    for (const bool nesterov : {false, true}) {
        const auto optimizer =
            make_optimizer(nesterov ? "sgd:momentum=0.8,nesterov" : "sgd:momentum=0.8", "test");
        constexpr std::size_t kCount = 50;
        TrainedParameter p(*optimizer, {{1, kCount}}, 5);
        std::vector<double> w(p.weights.begin(), p.weights.begin() + kCount), u(kCount);
        std::vector<double> bound(kCount);
        for (std::int64_t step = 1; step <= 40; ++step) {
            p.set_gradients(step);
            const UpdateTile tile = p.tile(step);
            for (std::size_t i = 0; i < kCount; ++i) {
                const double g =
                    static_cast<double>(p.gradients[i]) * 0.75 + tile.weight_decay * w[i];
                u[i] = 0.8 * u[i] + g;
                const double way = tile.learning_rate * (nesterov ? g + 0.8 * u[i] : u[i]);
                w[i] -= way;
                // The sum may cancel: its terms are up to 30 * 4 long.
                bound[i] += kEpsilon * (std::abs(w[i]) + tile.learning_rate * 120 * 5);
            }
            optimizer->update(best_isa(), tile);
        }
        for (std::size_t i = 0; i < kCount; ++i)
            CHECK(std::abs(static_cast<double>(p.weights[i]) - w[i]) <= bound[i]);
    }
    CHECK_THROWS_WITH_AS(make_optimizer("sgd:nesterov", "--optimizer"),
                         "--optimizer: sgd: nesterov has no effect without momentum (add "
                         "momentum=0.9)",
                         Error);
}

TEST_CASE("lomo: the bits of sgd, without state; its clip holds each element") {
    const auto lomo = make_optimizer("lomo", "test"), sgd = make_optimizer("sgd", "test");
    const auto held = make_optimizer("lomo:clip-value=0.5", "test");
    const ParameterInfo info{{5, 77}};
    TrainedParameter a(*lomo, info, 6), b(*sgd, info, 6), c(*held, info, 6), d(*sgd, info, 6);
    CHECK(lomo->updates_in_backward());
    CHECK(!sgd->updates_in_backward());
    CHECK(a.slots.empty());
    for (std::int64_t step = 1; step <= 5; ++step) {
        a.train(best_isa(), step, 1), b.train(best_isa(), step, 1), c.train(best_isa(), step, 1);
        d.set_gradients(step);
        for (float& g : d.gradients) g = std::min(0.5f, std::max(-0.5f, g * 0.75f));
        UpdateTile tile = d.tile(step);
        tile.gradient_scale = 1;
        sgd->update(best_isa(), tile);
    }
    CHECK(a.same_bits(b));
    CHECK(c.same_bits(d));
    CHECK(!a.same_bits(c));
}
