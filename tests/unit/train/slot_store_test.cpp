// SPDX-License-Identifier: Apache-2.0
#include "train/slot_store.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "core/cpu.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::train;

namespace {

// A few matrices and vectors with weights, and gradients of any step.
struct Problem {
    Problem() {
        const Shape2 shapes[] = {{64, 96}, {1, 96}, {300, 33}, {1, 5}, {128, 64}};
        for (std::size_t i = 0; i < std::size(shapes); ++i) {
            Parameter p;
            p.name = "p" + std::to_string(i);
            p.info.shape = shapes[i];
            parameters.add({{UnitKind::kLayer, 0}, ParameterId::Part::kMatrix, i, 0}, p);
        }
        Exec exec;
        exec.activations = Activations::kF32;
        parameters.allocate(exec, true);
        std::mt19937 random(11);
        std::normal_distribution<float> normal;
        for (std::size_t i = 0; i < parameters.size(); ++i)
            for (std::int64_t e = 0; e < parameters[i].info.elements(); ++e)
                parameters[i].values[e] = normal(random);
    }
    void make_gradients(unsigned step) {
        std::mt19937 random(step);
        std::normal_distribution<float> normal;
        for (std::size_t i = 0; i < parameters.size(); ++i)
            for (std::int64_t e = 0; e < parameters[i].info.elements(); ++e)
                static_cast<float*>(parameters[i].gradient.data)[e] = normal(random);
    }
    ParameterSet parameters;
};

void update(Problem& problem, const Optimizer& optimizer, const std::vector<Chunk>& chunks,
            const std::vector<std::size_t>& order, SlotStore& store, std::int64_t step) {
    problem.make_gradients(static_cast<unsigned>(step));
    for (const std::size_t c : order) {
        const Chunk& chunk = chunks[c];
        Parameter& p = problem.parameters[chunk.parameter];
        UpdateTile tile;
        tile.parameter = p.info;
        tile.first = chunk.first, tile.count = chunk.count;
        tile.weights = p.values + chunk.first;
        tile.gradients = static_cast<const float*>(p.gradient.data) + chunk.first;
        tile.slots = store.acquire(c);
        tile.step = step;
        tile.learning_rate = 1e-2;
        optimizer.update(best_isa(), tile);
        store.release(c);
    }
}

bool same_values(Problem& a, Problem& b) {
    bool same = true;
    for (std::size_t i = 0; i < a.parameters.size(); ++i)
        same = same && std::memcmp(a.parameters[i].values, b.parameters[i].values,
                                   a.parameters[i].value_bytes()) == 0;
    return same;
}

}  // namespace

TEST_CASE("optimizer state on disk gives the bits of state in memory, in any order of chunks") {
    for (const char* name : {"adamw", "adamw8bit", "sgd:momentum=0.9", "sgd"}) {
        for (const std::int64_t elements : {500, 5000, 1 << 20}) {
            CAPTURE(name);
            CAPTURE(elements);
            const auto optimizer = make_optimizer(name, "test");
            Problem memory, disk;
            const std::vector<Chunk> chunks = chunks_of(memory.parameters, *optimizer, elements);
            const test::TempDir directory;
            const auto tier = storage::open_file_tier(directory.path());
            const auto in_memory = make_memory_slots(memory.parameters, *optimizer, chunks);
            const std::uint64_t ram = Ledger::process().current_bytes(Tier::kRam);
            const std::uint64_t room = Ledger::process().current_bytes(Tier::kDisk);
            const auto on_disk = make_disk_slots(disk.parameters, *optimizer, chunks, *tier);
            const storage::PageBytes bytes = disk_slot_bytes(disk.parameters, *optimizer, chunks);
            CHECK(Ledger::process().current_bytes(Tier::kRam) - ram == bytes.ram);
            CHECK(Ledger::process().current_bytes(Tier::kDisk) - room == bytes.disk);

            std::vector<std::size_t> order(chunks.size());
            std::iota(order.begin(), order.end(), std::size_t{0});
            std::mt19937 random(4);
            for (std::int64_t step = 1; step <= 8; ++step) {
                if (step == 4) std::reverse(order.begin(), order.end());
                if (step > 5) std::shuffle(order.begin(), order.end(), random);
                update(memory, *optimizer, chunks, order, *in_memory, step);
                update(disk, *optimizer, chunks, order, *on_disk, step);
                REQUIRE(same_values(memory, disk));
            }
        }
    }
}

TEST_CASE("chunks of an order that repeats are each read once a step, none in the first") {
    const auto optimizer = make_optimizer("adamw", "test");
    for (const bool shuffled : {false, true}) {
        CAPTURE(shuffled);
        Problem problem;
        const std::vector<Chunk> chunks = chunks_of(problem.parameters, *optimizer, 500);
        const test::TempDir directory;
        const auto tier = storage::open_file_tier(directory.path());
        const auto store = make_disk_slots(problem.parameters, *optimizer, chunks, *tier);
        const std::uint64_t all = disk_slot_bytes(problem.parameters, *optimizer, chunks).disk;
        std::vector<std::size_t> order(chunks.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        if (shuffled) std::shuffle(order.begin(), order.end(), std::mt19937(9));
        std::uint64_t before = 0;
        for (std::int64_t step = 1; step <= 6; ++step) {
            update(problem, *optimizer, chunks, order, *store, step);
            tier->drain();
            CHECK(tier->counters().bytes_written == static_cast<std::uint64_t>(step) * all);
            const std::uint64_t read = tier->counters().bytes_read - before;
            before += read;
            // The two chunks that begin the next step are on their way.
            if (step == 1 && !shuffled) CHECK(read <= 2 * 8192);
            if (step >= 3) CHECK(read == all);  // an unknown order is learnt
        }
    }
}
