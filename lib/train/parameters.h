// SPDX-License-Identifier: Apache-2.0
// The parameters that are trained: their values (F32 or BF16), their gradients (F32) and how
// backward finds them. Both are in host memory, where the optimizer works; a CUDA device has copies
// of its own.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "model/gradient_sink.h"
#include "ops/exec.h"
#include "storage/page_cache.h"
#include "tensor/buffer.h"
#include "train/optimizer.h"

namespace thimble::train {

struct Parameter {
    std::string name;  // as checkpoints and reports call it: "blk.0.attn_q.weight.lora_a"
    ParameterInfo info;
    bool decays = true;                    // takes weight decay: matrices do, vectors do not
    double rate = 1;                       // times the learning rate
    const SourceTensor* tensor = nullptr;  // that it replaces; null for adapters
    bool in_bf16 = false;                  // a matrix whose values are BF16, not F32
    // [rows, cols], one of the two; on disk: while its page is held.
    float* values = nullptr;
    std::uint16_t* values_bf16 = nullptr;
    std::optional<std::size_t> page = {};  // where values on disk lie: their layer's
    std::size_t page_offset = 0;
    double* in_double = nullptr;     // a vector's values again, on the reference device
    std::byte* on_device = nullptr;  // the values again, where a CUDA device computes
    View gradient = {};              // [rows, cols] in exec.dtype(), where it is stored
    View device_gradient = {};       // what backward on a CUDA device adds to

    [[nodiscard]] std::size_t value_bytes() const noexcept {
        return static_cast<std::size_t>(info.elements()) * size_of(type());
    }
    [[nodiscard]] DType type() const noexcept { return in_bf16 ? DType::kBF16 : DType::kF32; }
    void place(std::byte* memory) noexcept;  // of the values
    [[nodiscard]] std::span<std::byte> stored() const noexcept;
    // Values [first, first + out.size()) as F32, and the other way, rounded to the nearest.
    void read(std::int64_t first, std::span<float> out) const noexcept;
    void write(std::int64_t first, std::span<const float> from) const noexcept;
    // As a matrix that Linears multiply by.
    [[nodiscard]] PackedView packed() const;
    // A vector as blocks read it.
    [[nodiscard]] View vector() const;
};

class ParameterSet final : public GradientSink {
  public:
    ParameterSet() = default;
    ParameterSet(ParameterSet&&) = default;

    // Returns its place. Before allocate().
    std::size_t add(const ParameterId& id, Parameter parameter);
    // Another use of it, as a tied head is of the embedding.
    void also(const ParameterId& id, std::size_t parameter);
    [[nodiscard]] int uses(std::size_t parameter) const noexcept { return uses_[parameter]; }
    [[nodiscard]] std::optional<std::size_t> find(const ParameterId& id) const;

    [[nodiscard]] const std::deque<Parameter>& items() const noexcept { return items_; }
    [[nodiscard]] Parameter& operator[](std::size_t i) { return items_[i]; }
    [[nodiscard]] std::size_t size() const noexcept { return items_.size(); }
    [[nodiscard]] std::int64_t elements() const noexcept;

    // The values of layers will lie on a tier, a page each. Before allocate().
    void page_layers();
    // Bytes that allocate() takes for values in memory and on pages, and for gradients; on a CUDA
    // device it takes as many again for either.
    [[nodiscard]] std::size_t value_bytes() const noexcept;
    [[nodiscard]] storage::PageBytes page_bytes() const;
    [[nodiscard]] std::size_t gradient_bytes(DType dtype) const noexcept;
    // With exec.dry nothing but addresses that nothing may touch. The tier is for page_layers(),
    // and lives as long.
    void allocate(const Exec& exec, bool with_gradients, storage::StorageTier* tier = nullptr);
    void zero_gradients(const Exec& exec);
    // After backward: the stored gradients are those that it made.
    void collect_gradients(const Exec& exec);
    // All of them where they are stored, one after the other; F32.
    [[nodiscard]] std::span<float> stored_gradients() noexcept { return gradients_.span<float>(); }
    // The values changed, of all or of one: what is derived from them and lies elsewhere.
    void refresh(const Exec& exec);
    void refresh(const Exec& exec, std::size_t parameter);

    [[nodiscard]] bool has_pages() const noexcept { return pages_ != nullptr; }
    // A page that is to be held soon.
    void prefetch(std::size_t page) { pages_->prefetch(page); }
    // While it is held the values on it are in memory.
    void hold(std::size_t page);
    void release(std::size_t page) { pages_->release(page); }
    // The values of a parameter, in memory now, are changed.
    void change(std::size_t parameter) {
        if (has_pages() && items_[parameter].page) pages_->change(*items_[parameter].page);
    }

    [[nodiscard]] std::optional<View> gradient(const ParameterId& id) override;
    void done(const ParameterId&) override {}

  private:
    using Key = std::tuple<UnitKind, std::int64_t, ParameterId::Part, std::size_t, std::size_t>;
    static Key key_of(const ParameterId& id) {
        return {id.unit.kind, id.unit.layer, id.part, id.index, id.term};
    }

    std::deque<Parameter> items_;
    std::vector<int> uses_;
    std::map<Key, std::size_t> places_;
    std::vector<UnitId> units_;  // of each parameter's first use
    std::vector<std::size_t> page_sizes_;
    Buffer values_, gradients_, device_values_, device_gradients_;
    std::unique_ptr<storage::PageCache> pages_;
    std::vector<double> in_double_;  // vectors' values, on the reference device
};

// Keeps the values of one parameter after the other in memory.
class HeldValues {
  public:
    explicit HeldValues(ParameterSet& parameters) : parameters_(parameters) {}
    ~HeldValues();
    HeldValues(const HeldValues&) = delete;
    HeldValues& operator=(const HeldValues&) = delete;

    // Those of the parameter before are let go: a page that both lie on is written but once.
    Parameter& hold(std::size_t parameter);

  private:
    ParameterSet& parameters_;
    std::optional<std::size_t> page_;
};

}  // namespace thimble::train
