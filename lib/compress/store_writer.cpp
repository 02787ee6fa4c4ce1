// SPDX-License-Identifier: Apache-2.0
#include "compress/store_writer.h"

#include <array>
#include <cmath>

#include "core/ledger.h"
#include "ops/scan.h"

namespace thimble {
namespace {

struct Sums {
    double errors = 0, squares = 0;
    std::int64_t lost = 0;

    void add(const Sums& other) {
        errors += other.errors, squares += other.squares, lost += other.lost;
    }
};

bool needs_statistics(const StoreFacts& facts) {
    return facts.code == VectorCode::kU8 || facts.code == VectorCode::kSign || facts.has_length();
}

// Codes of one vector, and what they lost; `again`: [dims] to decode into.
Sums code_one(const VectorCoder& coder, const float* x, std::uint8_t* codes, float* again) {
    coder.encode(x, codes);
    coder.decode(codes, again);
    Sums sums;
    for (std::int64_t k = 0; k < coder.parameters().dims; ++k) {
        const double is = x[k], coded = again[k];
        sums.errors += (is - coded) * (is - coded), sums.squares += is * is;
        sums.lost += coded == 0 && is != 0;
    }
    return sums;
}

StoreErrors write_codes(const StoreTask& task, const VectorCoder& coder,
                        const VectorSpace::Projection& projection, TensorWriter& writer,
                        std::size_t tensor, VectorPasses& passes, Team& team, Isa isa) {
    const std::int64_t rows = VectorSpace::usual_rows(*task.vectors), bytes = coder.bytes();
    const std::int64_t dims = coder.parameters().dims, stride = ops::padded_dims(dims);
    VectorSpace space({task.vectors, task.facts.similarity, {}, rows}, passes, team, isa);
    Buffer codes(static_cast<std::size_t>(rows * bytes), Purpose::kIo);
    std::vector<Sums> sums(static_cast<std::size_t>(rows));
    Sums all;
    space.each(projection, [&](std::size_t, std::span<float> z, std::span<const std::int64_t> of) {
        team.run(std::ssize(of), 16, [&](std::int64_t begin, std::int64_t end) {
            std::vector<float> again(static_cast<std::size_t>(dims));
            for (std::int64_t r = begin; r < end; ++r) {
                sums[static_cast<std::size_t>(r)] =
                    code_one(coder, z.data() + r * stride, codes.as<std::uint8_t>() + r * bytes,
                             again.data());
            }
        });
        for (std::size_t r = 0; r < of.size(); ++r) all.add(sums[r]);
        const auto bytes_of = [&](std::int64_t n) { return static_cast<std::size_t>(n * bytes); };
        writer.write(tensor, bytes_of(of.front()), {codes.data(), bytes_of(std::ssize(of))});
    });
    return {all.squares > 0 ? std::sqrt(all.errors / all.squares) : 0, all.lost,
            task.facts.rows * dims};
}

}  // namespace

std::int64_t store_rows(const StoreFacts& facts, const VectorFile& vectors,
                        const VectorFile& calibration) {
    return vectors.rows() + (needs_statistics(facts) ? calibration.rows() : 0);
}

std::optional<StoreErrors> write_store(const StoreTask& task, VectorPasses& passes, Team& team,
                                       Isa isa) {
    const StoreFacts& facts = task.facts;
    const std::array<std::int64_t, 1> kept = {facts.projected ? facts.dims : 0};
    const VectorSpace::Projection projection{task.components, kept, false};
    const auto dims = static_cast<std::size_t>(facts.dims);
    VectorStatistics statistics;
    StoreParts parts;
    if (needs_statistics(facts)) {
        VectorSpace space(
            {task.calibration, facts.similarity, {}, VectorSpace::usual_rows(*task.calibration)},
            passes, team, isa);
        const auto stride = static_cast<std::size_t>(ops::padded_dims(facts.dims));
        space.each(projection, [&](std::size_t, std::span<float> z, auto rows) {
            for (std::size_t r = 0; r < rows.size(); ++r)
                statistics.add(z.subspan(r * stride, dims));
        });
        if (facts.has_length()) parts.length = static_cast<float>(space.mean_length(0));
    } else {
        statistics.add(std::vector<float>(dims));
    }
    if (passes.stopped()) return std::nullopt;
    const VectorCoder coder(facts.code, facts.prescale, statistics);
    parts.parameters = coder.parameters(), parts.components = task.components;
    const std::vector<TensorSpec> specs = store_specs(facts);
    SafetensorsWriter writer(task.path, specs, task.file);
    const Charge disk(Tier::kDisk, Purpose::kWeights, writer.file_bytes());
    for (std::size_t t = 0; t + 1 < specs.size(); ++t)
        writer.write(t, 0, part_bytes(parts, specs[t].name));
    const StoreErrors errors =
        write_codes(task, coder, projection, writer, specs.size() - 1, passes, team, isa);
    if (passes.stopped()) return std::nullopt;
    writer.finish();
    return errors;
}

}  // namespace thimble
