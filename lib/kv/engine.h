// SPDX-License-Identifier: Apache-2.0
// The KV engine owns KV memory, recurrent states, positions and RoPE for all sequences of one
// model.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kv/sequence_state.h"

namespace thimble {

struct KvOptions {
    std::string policy = "full";  // "streaming:sink=4,budget=1024", "snapkv:budget=25%+think"
    std::string type_k = "f16";   // f32 | f16 | bf16 | q8_0
    std::string type_v = "f16";
    // Most tokens of a sequence, unless the policy's positions are compact. 0: the model's trained
    // context, which whoever makes the engine fills in.
    std::int64_t context_tokens = 0;
    bool huge_pages = false;  // asks the system for pages of 2 MiB
    // --kv-policy, -ctk/--cache-type-k, -ctv/--cache-type-v, -c/--ctx-size, --kv-huge-pages
    void visit(OptionVisitor& v);
};

// How much a sequence is to hold: the first `prompt` of its tokens before its policy first drops
// any.
struct KvLoad {
    KvLoad(std::int64_t all) : tokens(all), prompt(all) {}  // NOLINT: all of them may be the prompt
    KvLoad(std::int64_t all, std::int64_t of_prompt) : tokens(all), prompt(of_prompt) {}
    std::int64_t tokens, prompt;
};

using SeqId = std::int32_t;

// Where the layers attend and where their keys and values lie.
struct KvPlacement {
    KvPlacement(Device d = Device::kCpu) : device(d) {}  // NOLINT: all layers on one host device
    Device device = Device::kCpu;
    // With a CUDA device, by layer: whether it attends there, and the first positions whose keys
    // and values lie there (the other positions' lie in host memory).
    struct Layer {
        bool on_device = false;
        std::int64_t device_tokens = 0;
    };
    std::vector<Layer> layers;

    [[nodiscard]] Layer at(std::size_t layer) const {
        return layer < layers.size() ? layers[layer] : Layer{};
    }
};

class KvEngine final : public SequenceState {
  public:
    // On Device::kRef keys and values are F64. options.context_tokens must be known (> 0).
    KvEngine(StateLayers layers, const KvOptions& options, const KvPlacement& placement);
    ~KvEngine() override;

    [[nodiscard]] SeqId open();  // memory is committed as slots are used, not here
    void close(SeqId seq);
    // A sequence with the same past, statistics included. Whole tiles are shared until one of the
    // two edits or cuts them; Error(kUsage) with keys on a CUDA device.
    [[nodiscard]] SeqId fork(SeqId seq);
    [[nodiscard]] std::int64_t tokens(SeqId seq) const;  // tokens seen so far = next position
    [[nodiscard]] std::int64_t capacity_tokens() const noexcept;
    // The same before there is an engine: context_tokens, or without end where a policy's compact
    // positions bound every layer.
    [[nodiscard]] static std::int64_t capacity_tokens(const StateLayers& layers,
                                                      const KvOptions& options);
    // Least count of tokens that the sequence can be cut back to (besides none): sliding windows,
    // recurrent layers and bounded policies keep at least the last 64 tokens revocable.
    [[nodiscard]] std::int64_t rollback_floor(SeqId seq) const;
    // Forgets all tokens from position `tokens` on; Error(kUsage) below rollback_floor().
    void truncate(SeqId seq, std::int64_t tokens);

    // One step of `count` new tokens of one sequence: begin, then per layer attend, then end.
    // Error(kUsage) naming --ctx-size when the sequence would not fit.
    void begin_step(SeqId seq, std::int64_t count);
    // A new sequence is in its prompt: nothing is dropped, statistics are gathered. At the end of
    // the prompt the policy drops what its budget has no room for; later tokens are answers.
    void begin_prompt(SeqId seq);
    void end_prompt(const Exec& exec, SeqId seq);
    [[nodiscard]] bool in_prompt(SeqId seq) const;
    // From now on this sequence has another budget than the policy's options say.
    void set_budget(SeqId seq, const KvBudget& budget);
    // Has the policy see how the model repeats places [first, end) of the prompt: steps of `probe`,
    // a fork of `seq`, are shown to it, and end_repeat() closes the fork and keeps what it learnt.
    // repeat_tokens(): how many places at a time; 0: the policy does not ask for it.
    [[nodiscard]] std::int64_t repeat_tokens() const noexcept;
    void begin_repeat(SeqId probe, std::int64_t first, std::int64_t end);
    void end_repeat(SeqId seq, SeqId probe);
    // Layer after which a policy chooses which tokens of a prompt are read at all; -1: none does. A
    // prompt is fed to a sequence of its own layer by layer up to that one, filter() then names the
    // places that it keeps (all, if the budget has room), ascending.
    [[nodiscard]] int filter_layer() const;
    [[nodiscard]] std::vector<std::int32_t> filter(const Exec& exec, SeqId seq,
                                                   std::int64_t tokens);
    void forget_layer(SeqId seq, int layer);
    // Whether a prompt may pass through one layer after the other, so that only one layer at a time
    // holds all of it: begin_layer_step() instead of begin_step(), for `count` tokens that follow
    // `offset` others of the prompt, and end_step(); after a layer's last one end_layer(), and when
    // all layers are done end_layers().
    [[nodiscard]] bool edits_by_layer() const noexcept;
    // Whether a prompt does so with these options, to its end or to the layer that filters it.
    [[nodiscard]] static bool passes_by_layer(const KvOptions& options);
    void begin_layer_step(SeqId seq, std::int64_t offset, std::int64_t count);
    void end_layer(const Exec& exec, SeqId seq, int layer, std::int64_t prompt_tokens);
    void end_layers(SeqId seq, std::int64_t prompt_tokens);
    // One token of each of several sequences at once, which see one another ("Hogwild! Inference:
    // Parallel LLM Generation via Concurrent Attention", 2025). Row i goes to the last sequence of
    // views[i], which reads all sequences of its view as if they followed one another, what the
    // others write in this step included. Every sequence begins at its own position 0, so one may
    // stand at several places. Error(kUsage) with a policy that drops keys or a CUDA device; never
    // with recurrent layers, whose state has read one text only.
    void begin_shared_step(std::vector<std::vector<SeqId>> views);
    // Appends what `from` holds to `to`, rotated to its new place; `from` is empty then.
    void move_tokens(const Exec& exec, SeqId from, SeqId to);

    // Stores k and v, too.
    void attend(const Exec& exec, int layer, View q, View k, View v, View out) override;
    // Keeps the states of the last tokens, too.
    void recur(const Exec& exec, int layer, View keep, View take, View out) override;
    void end_step();

    [[nodiscard]] std::uint64_t bytes() const noexcept;  // committed now, equal to the ledger's
    [[nodiscard]] std::uint64_t bytes(SeqId seq) const;  // what it shares with others included
    // What a head holds: how many slots, and their positions; of a window what the last query read.
    [[nodiscard]] std::int64_t slots(SeqId seq, int layer, int kv_head) const;
    [[nodiscard]] std::vector<std::int32_t> positions(SeqId seq, int layer, int kv_head) const;
    // From now on each row that is attended to after a prompt, in layers that policies govern, is
    // shown head by head, with what that layer then holds. Its memory is in no plan.
    using Watcher = std::function<void(const KvLayerView& layer, const KvRows& rows)>;
    void watch(Watcher watcher);
    // Most bytes of host memory that one sequence holds on its way to so many tokens: exact where
    // nothing is dropped, else a bound within pages and edits' scratch. Never falls as tokens grow.
    [[nodiscard]] static std::uint64_t predict_bytes(const StateLayers& layers,
                                                     const KvOptions& options, const KvLoad& load,
                                                     const KvPlacement& placement);
    // Most keys of a layer that a query reads after so many tokens; 0: all.
    [[nodiscard]] std::int64_t read_tokens(int layer, std::int64_t tokens) const;
    // The same of device memory, which a sequence takes when it is opened.
    [[nodiscard]] static std::uint64_t predict_device_bytes(const StateLayers& layers,
                                                            const KvOptions& options,
                                                            const KvPlacement& placement);
    // Whether there are keys, and every layer's heads are whole blocks of this layout.
    [[nodiscard]] static bool can_store(const std::vector<AttentionSpec>& layers, LayoutId layout);
    // Workspace bytes that attend() takes for a step of `count` tokens: of layers that attend on a
    // host device, or on the CUDA device (where `host` is what these take of host workspace).
    struct WorkspaceBytes {
        std::size_t host = 0, device = 0;
    };
    [[nodiscard]] static WorkspaceBytes workspace_bytes(const StateLayers& layers,
                                                        const KvOptions& options,
                                                        std::int64_t count,
                                                        const KvPlacement& placement);

    struct State;  // of the files of this folder
    [[nodiscard]] State& state() const noexcept { return *state_; }

  private:
    std::unique_ptr<State> state_;
};

}  // namespace thimble
