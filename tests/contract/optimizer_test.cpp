// SPDX-License-Identifier: Apache-2.0
// What every registered optimizer promises.
#include <doctest/doctest.h>

#include <cmath>
#include <set>
#include <string>

#include "tests/support/trained_parameter.h"

using namespace thimble;
using namespace thimble::test;
using namespace thimble::train;

namespace {

// Every registered name with its defaults, and some with options.
std::vector<std::string> specs() {
    std::vector<std::string> out = optimizers().names();
    for (const char* more : {"adamw:beta1=0.5,eps=1e-4", "adamw8bit:block=64,embeddings",
                             "adamw8bit:block=4096,min-elements=0", "sgd:momentum=0.9",
                             "sgd:momentum=0.9,nesterov", "lomo:clip-value=0.01"})
        out.emplace_back(more);
    return out;
}

// A scalar, vectors, ragged matrices, one with whole blocks, an embedding.
const ParameterInfo kParameters[] = {
    {{1, 1}},          {{1, 37}},          {{1, 4096}},     {{33, 200}},
    {{40, 256}, true}, {{100, 96}, false}, {{7, 1}, false},
};

template <class Fn>
void for_each_case(Fn&& fn) {
    for (const std::string& spec : specs()) {
        CAPTURE(spec);
        const auto optimizer = make_optimizer(spec, "test");
        for (const ParameterInfo& parameter : kParameters) {
            CAPTURE(parameter.shape.rows);
            CAPTURE(parameter.shape.cols);
            fn(*optimizer, parameter);
        }
    }
}

// Cuts of [0, count) at multiples of the unit, in an order of their own.
std::vector<std::pair<std::int64_t, std::int64_t>> shuffled_cuts(std::int64_t count,
                                                                 std::int64_t unit,
                                                                 std::uint64_t seed) {
    std::vector<std::pair<std::int64_t, std::int64_t>> cuts;
    for (std::int64_t at = 0; at < count;) {
        const auto units =
            static_cast<std::int64_t>(philox(seed, static_cast<std::uint64_t>(at)).v[0] % 300) /
                (unit > 1 ? 64 : 1) +
            1;
        const std::int64_t n = std::min(units * unit, count - at);
        cuts.emplace_back(at, n);
        at += n;
    }
    for (std::size_t i = cuts.size(); i > 1; --i)
        std::swap(cuts[i - 1], cuts[philox(seed + 1, i).v[0] % i]);
    return cuts;
}

}  // namespace

TEST_CASE("optimizers: the parts' bytes add up to the slots'") {
    for_each_case([](const Optimizer& optimizer, const ParameterInfo& parameter) {
        const auto slots = optimizer.slots(parameter);
        REQUIRE(slots.size() <= kMaxSlots);
        const std::int64_t unit = optimizer.tile_elements(parameter), n = parameter.elements();
        REQUIRE(unit >= 1);
        std::size_t all = 0;
        std::set<std::string_view> names;
        for (const SlotInfo& slot : slots) {
            CHECK(names.insert(slot.name).second);
            CHECK(unit % slot.unit_elements == 0);
            CHECK(slot.bytes(0) == 0);
            CHECK(slot.bytes(n) > 0);
            std::size_t sum = 0;
            for (std::int64_t at = 0; at < n; at += unit) {
                CHECK(slot.bytes(at) == sum);
                sum += slot.bytes(std::min(unit, n - at));
            }
            CHECK(slot.bytes(n) == sum);
            all += sum;
        }
        CHECK(optimizer.state_bytes(parameter) == all);
    });
}

TEST_CASE("optimizers: neither cuts nor their order change a bit") {
    for_each_case([](const Optimizer& optimizer, const ParameterInfo& parameter) {
        TrainedParameter whole(optimizer, parameter, 3), parts(optimizer, parameter, 3);
        const std::int64_t unit = optimizer.tile_elements(parameter);
        for (std::int64_t step = 1; step <= 4; ++step) {
            whole.train(best_isa(), step, 1);
            parts.set_gradients(step);
            const auto seed = static_cast<std::uint64_t>(step);
            for (const auto& [at, count] : shuffled_cuts(parameter.elements(), unit, seed))
                optimizer.update(best_isa(), slice(optimizer, parts.tile(step), at, count));
        }
        CHECK(parts.same_bits(whole));
        CHECK(whole.guards_hold());
        CHECK(parts.guards_hold());
    });
}

TEST_CASE("optimizers: every level gives the same bits") {
    for_each_case([](const Optimizer& optimizer, const ParameterInfo& parameter) {
        TrainedParameter first(optimizer, parameter, 4);
        first.train(Isa::kPortable, 1, 6);
        for (const Isa isa : machine_levels()) {
            CAPTURE(name(isa));
            TrainedParameter other(optimizer, parameter, 4);
            other.train(isa, 1, 6);
            CHECK(other.same_bits(first));
        }
    });
}

TEST_CASE(
    "optimizers: a team and cuts give the bits of one thread, with F32 and with bf16 weights") {
    const ParameterInfo parameter{{300, 384}};
    for (const std::string& spec : specs()) {
        CAPTURE(spec);
        const auto optimizer = make_optimizer(spec, "test");
        Team one(1), three(3);
        TrainedParameter a(*optimizer, parameter, 5), b(*optimizer, parameter, 5);
        const auto n = static_cast<std::size_t>(parameter.elements());
        std::vector<std::uint16_t> a_bf16(n), b_bf16(n);
        const RandomKey key{9, 2};
        round_stochastic(best_isa(), key, 0, 0, {a.weights.data(), n}, a_bf16.data());
        b_bf16 = a_bf16;
        for (std::int64_t step = 1; step <= 2; ++step) {
            a.set_gradients(step), b.set_gradients(step);
            update(*optimizer, one, best_isa(), a.tile(step));
            update(*optimizer, three, best_isa(), b.tile(step));
        }
        CHECK(a.same_bits(b));
        const auto scratch = [&](int threads) {
            const std::int64_t count = bf16_scratch_elements(*optimizer, parameter, threads);
            return std::vector<float>(static_cast<std::size_t>(count) + 1, -77.5f);
        };
        std::vector<float> a_scratch = scratch(1), b_scratch = scratch(3);
        for (std::int64_t step = 3; step <= 4; ++step) {
            update_bf16(*optimizer, one, best_isa(), a.tile(step), key, a_bf16.data(), a_scratch);
            const std::int64_t cut = 10 * 4096, n_b = parameter.elements();
            for (const auto& [at, count] : {std::pair{cut, n_b - cut}, {std::int64_t{0}, cut}}) {
                const UpdateTile part = slice(*optimizer, b.tile(step), at, count);
                update_bf16(*optimizer, three, best_isa(), part, key, b_bf16.data() + at,
                            b_scratch);
            }
        }
        CHECK(a_scratch.back() == -77.5f);
        CHECK(b_scratch.back() == -77.5f);
        CHECK(a.slots == b.slots);
        CHECK(a_bf16 == b_bf16);
    }
}

TEST_CASE("optimizers: a step can be repeated, and saved state goes on as if never saved") {
    for_each_case([](const Optimizer& optimizer, const ParameterInfo& parameter) {
        TrainedParameter straight(optimizer, parameter, 6);
        straight.train(best_isa(), 1, 3);
        TrainedParameter restored(optimizer, parameter, 777);
        restored.weights = straight.weights;
        restored.slots = straight.slots;
        const TrainedParameter saved = straight;
        straight.set_gradients(4);
        optimizer.update(best_isa(), straight.tile(4));
        const TrainedParameter once = straight;
        straight.weights = saved.weights, straight.slots = saved.slots;
        optimizer.update(best_isa(), straight.tile(4));
        CHECK(straight.same_bits(once));
        restored.gradients = straight.gradients;
        optimizer.update(best_isa(), restored.tile(4));
        CHECK(restored.same_bits(once));
        CHECK(!saved.same_bits(once));
    });
}

TEST_CASE("optimizers: gradients of zero without decay move nothing from a fresh state") {
    for_each_case([](const Optimizer& optimizer, const ParameterInfo& parameter) {
        TrainedParameter still(optimizer, parameter, 7);
        still.set_gradients(1, 0);
        const TrainedParameter before = still;
        for (std::int64_t step = 1; step <= 3; ++step) {
            UpdateTile tile = still.tile(step);
            tile.weight_decay = 0;
            optimizer.update(best_isa(), tile);
        }
        CHECK(still.same_bits(before));
    });
}

TEST_CASE("optimizers: the scale of gradients is theirs, whoever multiplies") {
    for_each_case([](const Optimizer& optimizer, const ParameterInfo& parameter) {
        TrainedParameter here(optimizer, parameter, 8), there(optimizer, parameter, 8);
        for (std::int64_t step = 1; step <= 3; ++step) {
            here.set_gradients(step), there.set_gradients(step);
            for (float& g : there.gradients) g *= 0.75f;
            UpdateTile tile = there.tile(step);
            tile.gradient_scale = 1;
            optimizer.update(best_isa(), here.tile(step));
            optimizer.update(best_isa(), tile);
        }
        CHECK(here.same_bits(there));
    });
}

TEST_CASE("optimizers: all walk down a bowl") {
    const ParameterInfo parameter{{64, 128}};
    for (const std::string& spec : specs()) {
        CAPTURE(spec);
        const auto optimizer = make_optimizer(spec, "test");
        TrainedParameter walker(*optimizer, parameter, 9);
        const auto height = [&] {
            double sum = 0;
            for (std::size_t i = 0; i < static_cast<std::size_t>(walker.elements()); ++i)
                sum += std::pow(static_cast<double>(walker.weights[i]) - 0.5, 2);
            return sum / static_cast<double>(walker.elements());
        };
        const double before = height();
        for (std::int64_t step = 1; step <= 300; ++step) {
            for (std::size_t i = 0; i < static_cast<std::size_t>(walker.elements()); ++i)
                walker.gradients[i] = walker.weights[i] - 0.5f;
            UpdateTile tile = walker.tile(step);
            tile.learning_rate = 0.02, tile.weight_decay = 0;
            optimizer->update(best_isa(), tile);
        }
        // lomo with its clip goes 0.02 * 0.01 * 300 = 0.06 each way.
        CHECK(height() < (spec.find("clip") == std::string::npos ? 0.02 : 0.95) * before);
    }
}

TEST_CASE("optimizers: unknown names and options are told with the nearest one") {
    CHECK_THROWS_WITH_AS(make_optimizer("adamw_8bit", "--optimizer"),
                         "--optimizer: unknown optimizer 'adamw_8bit' (did you mean 'adamw8bit'?)",
                         Error);
    for (const auto& type : optimizers().items()) {
        CHECK_THROWS_AS(make_optimizer(std::string(type->name()) + ":no-such-key=1", "test"),
                        Error);
        CHECK(!type->help().empty());
    }
    CHECK(optimizer_forms().size() == optimizers().items().size());
}
