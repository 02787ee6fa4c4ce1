// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "compress/embeddings.h"
#include "core/error.h"
#include "io/atomic_file.h"
#include "io/npy.h"

namespace thimble {
namespace {

constexpr std::int64_t kPieceBytes = std::int64_t{4} << 20;

std::size_t float_bytes(std::int64_t count) {
    return static_cast<std::size_t>(count) * sizeof(float);
}

}  // namespace

struct RestoreJob::State {
    EmbeddingOptions options;
    std::unique_ptr<EmbeddingStore> store;
    std::string header;
    std::int64_t most_rows = 0;

    [[nodiscard]] std::size_t code_bytes() const {
        return static_cast<std::size_t>(most_rows *
                                        vector_bytes(store->facts().code, store->facts().dims));
    }
};

RestoreJob::RestoreJob(const EmbeddingOptions& options) : state_(std::make_unique<State>()) {
    State& s = *state_;
    s.options = options;
    if (options.output.empty())
        throw Error(Exit::kUsage, "--output", "is needed: the .npy file to write");
    refuse_overwriting_inputs(options.output, {&options.input, 1});
    s.store = std::make_unique<EmbeddingStore>(options.input);
    const StoreFacts& facts = s.store->facts();
    s.header = npy_header(static_cast<std::uint64_t>(facts.rows),
                          static_cast<std::uint64_t>(facts.source_dims));
    s.most_rows = std::clamp<std::int64_t>(kPieceBytes / (4 * facts.source_dims), 1, facts.rows);
}

RestoreJob::~RestoreJob() = default;

Plan RestoreJob::plan() {
    const State& s = *state_;
    const StoreFacts& facts = s.store->facts();
    Plan plan;
    plan.at(Tier::kRam, Purpose::kIo) =
        Buffer::charged_bytes(s.code_bytes()) +
        Buffer::charged_bytes(float_bytes(s.most_rows * facts.dims)) +
        Buffer::charged_bytes(float_bytes(s.most_rows * facts.source_dims));
    if (facts.projected) {
        plan.at(Tier::kRam, Purpose::kOther) =
            PrincipalComponents::resident_bytes(facts.source_dims, facts.dims);
    }
    plan.output_bytes = output_bytes();
    plan.at(Tier::kDisk, Purpose::kWeights) = plan.output_bytes;
    if (facts.similarity == Similarity::kCosine)
        plan.notes.emplace_back("the vectors were made of length one: their lengths are lost");
    return plan;
}

bool RestoreJob::run(Team& team, const VectorProgress& progress) {
    State& s = *state_;
    const StoreFacts& facts = s.store->facts();
    AtomicFile out(s.options.output, output_bytes(),
                   s.options.overwrite ? IfExists::kReplace : IfExists::kRefuse);
    const Charge disk(Tier::kDisk, Purpose::kWeights, output_bytes());
    out.write(0, std::as_bytes(std::span(s.header)));
    const EmbeddingStore::Loaded loaded = s.store->load();
    const VectorCoder coder(loaded.parameters);
    Buffer codes(s.code_bytes(), Purpose::kIo),
        z(float_bytes(s.most_rows * facts.dims), Purpose::kIo),
        x(float_bytes(s.most_rows * facts.source_dims), Purpose::kIo);
    for (std::int64_t first = 0; first < facts.rows; first += s.most_rows) {
        const std::int64_t n = std::min(s.most_rows, facts.rows - first);
        s.store->read(first, n, codes.span<std::byte>());
        float* const numbers = loaded.components ? z.as<float>() : x.as<float>();
        team.run(n, 16, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t r = begin; r < end; ++r) {
                float* const row = numbers + r * facts.dims;
                coder.decode(codes.as<std::uint8_t>() + r * coder.bytes(), row);
                for (std::int64_t k = 0; k < facts.dims; ++k) {
                    if (!std::isfinite(row[k])) {
                        throw Error(Exit::kBadData, escaped(s.options.input, 1024),
                                    "vector " + std::to_string(first + r) +
                                        " holds a code that is no finite number");
                    }
                    row[k] *= loaded.length;
                }
            }
        });
        if (loaded.components) loaded.components->restore(numbers, n, x.as<float>(), team);
        out.write(s.header.size() + float_bytes(first * facts.source_dims),
                  {x.data(), float_bytes(n * facts.source_dims)});
        if (!progress(first + n, facts.rows)) return false;
    }
    out.commit();
    return true;
}

const StoreFacts& RestoreJob::facts() const noexcept { return state_->store->facts(); }

std::uint64_t RestoreJob::output_bytes() const noexcept {
    const StoreFacts& facts = state_->store->facts();
    return state_->header.size() + 4 * static_cast<std::uint64_t>(facts.rows) *
                                       static_cast<std::uint64_t>(facts.source_dims);
}

}  // namespace thimble
