// SPDX-License-Identifier: Apache-2.0
// Times of a model on the machine of a profile: products by the rate of each weight's layout and
// width, attention, the work over activations, and the start of each call, one after the other.
// Where a profile lacks a rate, the nearest one that it has stands in, and misses() says so.
#pragma once

#include <string>
#include <vector>

#include "cost/serving.h"
#include "cost/time_model.h"
#include "model/source.h"

namespace thimble::cost {

class MachineTime {
  public:
    MachineTime(const Machine& machine, const ModelSource& source);

    // The profile as one set of peaks: the best rate of the model's layouts, memory's bandwidth,
    // this machine's memory, the disk.
    [[nodiscard]] Hardware hardware() const;
    // `model` says what the cache keeps; the logits of the last token are computed.
    [[nodiscard]] double prefill_seconds(const ServedModel& model, std::int64_t tokens) const;
    // One token for each of `users` that have so many.
    [[nodiscard]] double decode_seconds(const ServedModel& model, std::int64_t tokens,
                                        std::int64_t users) const;
    // Layouts of the model that the profile has no rate of; "" if none.
    [[nodiscard]] const std::string& misses() const noexcept { return misses_; }

  private:
    struct Product {
        double ops = 0, bytes = 0;  // of one token
        double ops_per_second = 0, bytes_per_second = 0;
        bool head = false;
    };
    void add(const SourceTensor& tensor, bool head);
    [[nodiscard]] double product_seconds(const Product& product, double tokens) const;
    [[nodiscard]] double attention_seconds(double ops, double bytes) const;
    // Norms, gates and sums of one token, in and out.
    [[nodiscard]] double activation_bytes() const;

    RateAtThreads rate_;
    std::string name_;
    double disk_bytes_per_second_;
    const ModelSpec& spec_;
    std::vector<Product> products_;
    double calls_ = 0;  // of a step
    std::string misses_;
};

}  // namespace thimble::cost
