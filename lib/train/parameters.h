// SPDX-License-Identifier: Apache-2.0
// The parameters that are trained: their values (F32), their gradients and how backward finds them.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "model/gradient_sink.h"
#include "ops/exec.h"
#include "tensor/buffer.h"
#include "train/optimizer.h"

namespace thimble::train {

struct Parameter {
    std::string name;  // as checkpoints and reports call it: "blk.0.attn_q.weight.lora_a"
    ParameterInfo info;
    bool decays = true;                    // takes weight decay: matrices do, vectors do not
    double rate = 1;                       // times the learning rate
    const SourceTensor* tensor = nullptr;  // that it replaces; null for adapters
    float* values = nullptr;               // [rows, cols]
    double* in_double = nullptr;           // a vector's values again, on the reference device
    View gradient = {};                    // [rows, cols] in exec.dtype(), where it is stored

    [[nodiscard]] std::size_t value_bytes() const noexcept {
        return static_cast<std::size_t>(info.elements()) * sizeof(float);
    }
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

    // Bytes that allocate() takes for values and for gradients.
    [[nodiscard]] std::size_t value_bytes() const noexcept;
    [[nodiscard]] std::size_t gradient_bytes(DType dtype) const noexcept;
    // With exec.dry nothing but addresses that nothing may touch.
    void allocate(const Exec& exec, bool with_gradients);
    void zero_gradients(const Exec& exec);
    // The values changed.
    void refresh();

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
    Buffer values_, gradients_;
    std::vector<double> in_double_;  // vectors' values, on the reference device
};

}  // namespace thimble::train
