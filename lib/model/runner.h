// SPDX-License-Identifier: Apache-2.0
// Loads a model's weights and runs forward steps.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/plan.h"
#include "kv/engine.h"
#include "model/adapted_store.h"
#include "model/source.h"
#include "model/store.h"

namespace thimble {

class StackedStore;
class Tap;

using StoreMaker =
    std::function<std::unique_ptr<WeightStore>(const ModelSource& source, const Exec& exec)>;

// With Device::kCuda: what the device gets.
struct CudaOptions {
    std::int64_t layers = -1;               // computed on the device; -1: all
    std::uint64_t vram_bytes = UINT64_MAX;  // most device memory
    std::int64_t tokens = 0;     // of a sequence whose KV is to lie there; 0: the context
    std::int64_t sequences = 1;  // open at once
};

struct RunnerOptions {
    Device device = Device::kCpu;
    Isa isa = Isa::kPortable;
    Activations activations = Activations::kAuto;
    std::int64_t step_tokens =
        512;             // most tokens per forward step (prefill chunk); also -b/--batch-size
    bool repack = true;  // build resident layouts
    // Most memory for weights and the buffers that they are read into: layers that do not fit are
    // read from disk in each step, and results stay the same.
    std::uint64_t weight_bytes = UINT64_MAX;
    std::int64_t logit_rows = 0;  // most logits rows materialised at once; 0: as many as fit 32 MiB
    KvOptions kv;
    CudaOptions cuda;
    std::vector<AdapterUse> adapters = {};  // of the Runner's own source
    StoreMaker store = {};  // on the CPU, instead of make_store; plans know nothing of it
};

class Runner {
  public:
    Runner(std::unique_ptr<ModelSource> source, const RunnerOptions& options, Team& team);
    ~Runner();
    [[nodiscard]] const ModelSpec& spec() const noexcept;
    [[nodiscard]] const ModelSource& source() const noexcept;
    [[nodiscard]] KvEngine& kv() noexcept;
    // How work on host memory runs, logits among it.
    [[nodiscard]] const Exec& exec() const noexcept;
    // Steps are timed from now on, on host memory; null: no more.
    void set_clock(OpClock* clock) noexcept;
    // Shows the matrices of products in the order of the forward pass, each while its unit is at
    // hand, until `see` returns false. Those in blocks are not among them.
    void each_matrix(const std::function<bool(const PackedView&)>& see);

    // Receives logits rows [first, first + logits.rows) of the requested range, in order; the view
    // (dtype of exec) is valid during the call only.
    using LogitsSink = std::function<void(std::int64_t first, View logits)>;
    // Appends tokens to the sequence (any number: split into steps of step_tokens) and delivers the
    // logits of the last `logits` of them (0: none, and the head is not computed).
    void forward(SeqId seq, std::span<const std::int32_t> tokens, std::int64_t logits,
                 const LogitsSink& sink);

    // The same of a prompt, or of one more after answers: when it ends the KV policy drops what its
    // budget has no room for. Where it may, the prompt passes layer by layer, so that only one
    // layer at a time holds all of its keys and values.
    // Policies may read fewer tokens than there are (KvEngine::filter_layer), and may have the
    // model repeat its prompt, for which set_encoder() must have been called.
    void prompt(SeqId seq, std::span<const std::int32_t> tokens, std::int64_t logits,
                const LogitsSink& sink);
    // The end alone, for tokens that forward() has read since the prompt began; and of that only
    // what a policy learns before it drops anything.
    void end_prompt(SeqId seq, std::span<const std::int32_t> tokens);
    void learn_prompt(SeqId seq, std::span<const std::int32_t> tokens);
    using Encode = std::function<std::vector<std::int32_t>(const std::string& text)>;
    void set_encoder(Encode encode);

    // One token of each of several sequences that see one another (KvEngine::begin_shared_step),
    // and the logits of all.
    void forward_shared(const std::vector<std::vector<SeqId>>& views,
                        std::span<const std::int32_t> tokens, const LogitsSink& sink);

    // Where the head is computed on a device: the most likely tokens after these and their logits,
    // as ops::top_k orders them; the other logits stay there.
    void forward_top(SeqId seq, std::span<const std::int32_t> tokens, std::span<float> logits,
                     std::span<std::int32_t> places);
    // How many these may be: 0 where the head is computed on the host.
    [[nodiscard]] std::int64_t most_top() const noexcept;

    // Texts that know nothing of each other, layer by layer: the weights of a layer are at hand
    // once for all of them, however many. Row after row of all texts, `hidden` [tokens, hidden] is
    // then what the head reads; each row has the bits that forward() gives it. After each layer
    // `done` (may be empty) says whether to go on; false if it did not.
    using Texts = std::span<const std::span<const std::int32_t>>;
    using LayerDone = std::function<bool(std::int64_t layers)>;
    [[nodiscard]] bool sweep(Texts texts, View hidden, Tap* tap, const LayerDone& done);
    // Its parts: what the first layer reads, and one layer over what `hidden` holds.
    void embed(Texts texts, View hidden);
    void sweep_layer(std::int64_t layer, Texts texts, View hidden, Tap* tap);
    // The head over rows that sweep() left; without a sink only the tap (may be null) sees them.
    void head(View hidden, Tap* tap, const LogitsSink& sink);
    // What the store of a Runner of this source and options holds.
    [[nodiscard]] static StorePlan store_plan(const ModelSource& source,
                                              const RunnerOptions& options);

    // Of a model in blocks, whose size can change between steps; null for others.
    [[nodiscard]] StackedStore* stacked() noexcept;

    // Bytes of layers that were read from disk since the model was loaded.
    [[nodiscard]] std::uint64_t streamed_bytes() const noexcept;
    // State bytes moved per decoded token at a context of n tokens: weights read + KV read and
    // written.
    [[nodiscard]] std::uint64_t bytes_per_token(std::int64_t context_tokens) const;
    // "26 of 30 layers and the head on the device, 4 streamed; KV: ...": what lies where; ""
    // without a CUDA device.
    [[nodiscard]] static std::string describe_placement(const ModelSource& source,
                                                        const RunnerOptions& options);
    // Adds what a Runner of this source and options holds at its peak with this load in each of
    // `sequences` sequences: weights, KV, activations, logits. Exact: equals the ledger.
    static void add_to_plan(Plan& plan, const ModelSource& source, const RunnerOptions& options,
                            const KvLoad& load, std::int64_t sequences, std::int64_t logits);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
