// SPDX-License-Identifier: Apache-2.0
#include "cost/machine_time.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "ops/ops.h"

namespace thimble::cost {
namespace {

constexpr double kWide = 2048, kNarrow = 512;  // of the profile's rates

// A row has a cost of its own besides that of its elements: the time of one operation or byte grows
// with the inverse of the width.
double at_width(double narrow, double wide, double cols) {
    const double part = (1 / cols - 1 / kWide) / (1 / kNarrow - 1 / kWide);
    return 1 / std::max(1 / wide + part * (1 / narrow - 1 / wide), 0.5 / wide);
}

bool is_float(LayoutId layout) { return layout_info(layout).block_elements == 1; }

}  // namespace

MachineTime::MachineTime(const Machine& machine, const ModelSource& source)
    : rate_(machine.profile.at(machine.threads)),
      name_(machine.profile.name),
      disk_bytes_per_second_(machine.profile.disk_read_bytes_per_second),
      spec_(source.spec()) {
    for (const SourceTensor& tensor : source.tensors()) {
        const bool table = tensor.name == "token_embd.weight";
        if (!tensor.is_matrix || (table && !spec_.tied_embedding)) continue;
        add(tensor, table || tensor.name == "output.weight");
    }
    // Of a layer: q, k, v at once; the output; gate and up at once; down.
    calls_ = 4 * static_cast<double>(spec_.layers) + 1;
}

void MachineTime::add(const SourceTensor& tensor, bool head) {
    const auto cols = static_cast<double>(tensor.cols());
    Product product;
    product.head = head;
    product.ops = 2 * static_cast<double>(tensor.rows()) * cols;
    product.bytes = static_cast<double>(tensor.stored_bytes());
    const std::string layout(layout_info(tensor.layout()).name);
    const LayoutRate* rate = rate_.find(layout);
    if (rate != nullptr) {
        product.ops_per_second =
            at_width(rate->narrow_ops_per_second, rate->wide_ops_per_second, cols);
        product.bytes_per_second =
            at_width(rate->narrow_read_bytes_per_second, rate->wide_read_bytes_per_second, cols);
    } else {
        product.ops_per_second =
            is_float(tensor.layout()) ? rate_.f32_ops_per_second : rate_.i8_ops_per_second;
        product.bytes_per_second = rate_.read_bytes_per_second;
        if (misses_.find(layout) == std::string::npos)
            misses_ += (misses_.empty() ? "" : ", ") + layout;
    }
    products_.push_back(product);
}

Hardware MachineTime::hardware() const {
    double best = 0;
    for (const Product& product : products_) best = std::max(best, product.ops_per_second);
    const auto memory = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) *
                        static_cast<double>(::sysconf(_SC_PAGESIZE));
    return {.name = "machine profile " + name_,
            .ops_per_second = best,
            .bytes_per_second = rate_.read_bytes_per_second,
            .memory_bytes = memory,
            .link_bytes_per_second = disk_bytes_per_second_};
}

// Few tokens are bound by the weights that are read, many by arithmetic.
double MachineTime::product_seconds(const Product& product, double tokens) const {
    return std::max(product.bytes / product.bytes_per_second,
                    tokens * product.ops / product.ops_per_second);
}

double MachineTime::attention_seconds(double ops, double bytes) const {
    const double by_ops = rate_.attention_ops_per_second > 0 ? rate_.attention_ops_per_second
                                                             : rate_.f32_ops_per_second;
    const double by_bytes = rate_.attention_bytes_per_second > 0 ? rate_.attention_bytes_per_second
                                                                 : rate_.read_bytes_per_second;
    return ops / by_ops + bytes / by_bytes;
}

double MachineTime::activation_bytes() const {
    const auto hidden = static_cast<double>(spec_.hidden);
    // Of a layer, in the mean.
    const double ffn = static_cast<double>(spec_.all_ffn) / static_cast<double>(spec_.layers);
    double sum = 0;
    for (const AttentionSpec& layer : spec_.attention) {
        const double heads = static_cast<double>(layer.shape.heads) * layer.shape.head_dim;
        const double kv_heads = static_cast<double>(layer.shape.kv_heads) * layer.shape.head_dim;
        double elements = 2 * 2 * hidden;                                   // two norms
        if (spec_.post_norms) elements += 2 * 2 * hidden + 2 * 3 * hidden;  // two more, and sums
        if (spec_.qk_norm) elements += 2 * (heads + kv_heads);
        elements += 2 * (heads + kv_heads) + 2 * 2 * kv_heads;  // rotations; keys and values stored
        elements += 3 * ffn;                                    // the gate
        elements += 2 * (2 * hidden + heads + ffn);  // inputs of products as these read them
        sum += elements * sizeof(float);
    }
    for (const RecurrentLayer& layer : spec_.recurrent) {
        const auto channels = static_cast<double>(layer.channels);
        double elements = 2 * 2 * hidden + 3 * ffn;  // two norms, the gate of the FFN
        elements += (4 + 3 + 3 + 2 + 3) * channels;  // both gates, the recurrence, norm, output's
        elements += 2 * 2 * (4 * hidden + channels + ffn);  // inputs of products, normed and coded
        sum += elements * sizeof(float);
    }
    return sum;
}

double MachineTime::prefill_seconds(const ServedModel& model, std::int64_t tokens) const {
    const auto n = static_cast<double>(tokens);
    double sum = attention_seconds(prefill_ops(model, tokens).attention, 0);
    for (const Product& product : products_) sum += product_seconds(product, product.head ? 1 : n);
    if (rate_.elementwise_bytes_per_second > 0)
        sum += n * activation_bytes() / rate_.elementwise_bytes_per_second;
    return sum;
}

double MachineTime::decode_seconds(const ServedModel& model, std::int64_t tokens,
                                   std::int64_t users) const {
    const auto n = static_cast<double>(users);
    double sum = attention_seconds(0, n * kv_bytes(model, tokens));
    if (rate_.attention_calls_per_second > 0)
        sum += n * static_cast<double>(model.layers.size()) / rate_.attention_calls_per_second;
    for (const Product& product : products_) sum += product_seconds(product, n);
    if (rate_.calls_per_second > 0) sum += calls_ / rate_.calls_per_second;
    if (rate_.elementwise_bytes_per_second > 0)
        sum += n * activation_bytes() / rate_.elementwise_bytes_per_second;
    return sum;
}

}  // namespace thimble::cost
