// SPDX-License-Identifier: Apache-2.0
// Drives a KvEngine with seeded random q, k, v and keeps what comes out. The inputs depend on
// (seed, layer, position) alone, so runs with other chunks, threads or rollbacks can be compared
// bit for bit, and an oracle can compute every row by itself in double.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kv/engine.h"
#include "kv/head_profile.h"

namespace thimble::test {

// A global layer, a sliding-window layer (halves, partly rotated) and a global one with soft cap.
std::vector<AttentionSpec> kv_layers(std::int64_t window);
KvOptions kv_options(const std::string& policy, std::int64_t context,
                     const std::string& type = "f32");
// "name" for policies without a budget, else "name:budget=N,...", with a sidecar for `layers`
// layers as kv_layers() makes them where one is needed.
std::string with_budget(const KvPolicyType& type, std::int64_t budget, std::size_t layers = 3);
// Every policy, each with this budget of tokens; after one that scores where it needs one.
std::vector<std::string> policies_with_budget(std::int64_t budget, std::size_t layers = 3);
// A file as evaluate --find-retrieval-heads writes it, there until the process ends.
std::string write_head_profile(const HeadProfile& profile);

class KvHarness {
  public:
    KvHarness(std::vector<AttentionSpec> layers, KvOptions options, Device device = Device::kCpu,
              int threads = 1, Isa isa = best_isa_for_tests());
    static Isa best_isa_for_tests();

    [[nodiscard]] KvEngine& engine() noexcept { return engine_; }
    SeqId open(std::uint64_t seed);
    // Appends `count` tokens in steps of at most `chunk`.
    void feed(SeqId seq, std::int64_t count, std::int64_t chunk);
    // What was fed so far was the prompt; or a whole prompt, layer by layer.
    void finish_prompt(SeqId seq);
    void feed_prompt(SeqId seq, std::int64_t count, std::int64_t chunk);  // as Runner::prompt does
    void feed_by_layer(SeqId seq, std::int64_t count, std::int64_t chunk);
    SeqId fork(SeqId seq);
    void truncate(SeqId seq, std::int64_t tokens);
    // Output of a layer for positions 0 ... as fed last: [position][heads * head_dim].
    using Rows = std::vector<std::vector<double>>;
    [[nodiscard]] const Rows& rows(SeqId seq, std::size_t layer) const {
        return sequences_.at(seq).rows[layer];
    }
    [[nodiscard]] const std::vector<Rows>& rows(SeqId seq) const { return sequences_.at(seq).rows; }

  private:
    struct Sequence {
        std::uint64_t seed = 0;
        std::vector<Rows> rows;  // [layer]
    };
    void step(SeqId seq, std::int64_t count);
    void attend(const Exec& exec, SeqId seq, std::size_t layer, std::int64_t first,
                std::int64_t count);
    template <class Fn>
    void with_exec(std::int64_t count, Fn&& fn);

    std::vector<AttentionSpec> layers_;
    KvOptions options_;
    KvEngine engine_;
    Device device_;
    Team team_;
    Isa isa_;
    std::map<SeqId, Sequence> sequences_;
};

enum class KvInput : std::uint32_t { kQuery, kKey, kValue };
// One row as the harness feeds it, before rotation: [heads * head_dim].
std::vector<double> kv_input(std::uint64_t seed, std::size_t layer, std::int64_t position,
                             KvInput what, int heads, int head_dim);

void rotate_in_double(const ops::Rope& rope, double position, double* head);

// Which keys a query at `position` reads and where they and it stand.
struct Visible {
    std::vector<std::int64_t> keys, positions;
    std::int64_t query_position = 0;
};
// Dense attention in double for one row of one layer.
std::vector<double> attend_in_double(const AttentionSpec& spec, std::uint64_t seed,
                                     std::size_t layer, std::int64_t position,
                                     const Visible& visible);
// The same with what each K/V head has.
std::vector<double> attend_in_double(const AttentionSpec& spec, std::uint64_t seed,
                                     std::size_t layer, std::int64_t position,
                                     const std::vector<Visible>& of_heads);

}  // namespace thimble::test
