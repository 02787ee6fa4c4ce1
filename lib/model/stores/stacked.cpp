// SPDX-License-Identifier: Apache-2.0
#include "model/stacked_store.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "model/weight_memory.h"

namespace thimble {
namespace {

// What is in memory whatever the number of blocks, and room for rows that are rebuilt.
struct Arrangement {
    WeightMemory memory;
    std::size_t room_bytes = 0;

    [[nodiscard]] std::uint64_t fixed_bytes() const {
        return Buffer::charged_bytes(memory.bytes()) + Buffer::charged_bytes(room_bytes);
    }
};

Arrangement arrange(const ModelSource& source, const std::vector<UnitSpec>& units, const Exec& exec,
                    const StoreOptions& options) {
    Arrangement a{WeightMemory(source, exec, options.repack, false)};
    for (std::size_t u = 0; u < units.size(); ++u) {
        for (const auto& m : units[u].matrices) {
            if (const StackedTensor* stacked = stacked_of(*m.weight)) {
                a.room_bytes =
                    std::max(a.room_bytes, ops::stack_room_bytes(stacked->stack().shape));
                continue;
            }
            a.memory.add_matrix(*m.weight, u > 0 || source.spec().tied_embedding);
        }
        a.memory.add_vectors(units[u]);
    }
    return a;
}

std::uint64_t block_bytes(const StackOrder& order, std::size_t place) {
    const auto linear = static_cast<std::size_t>(order.order[place]);
    return Buffer::charged_bytes(stacked_of(*order.linears[linear])->stack().bytes);
}

struct Prefix {
    std::size_t blocks = 0;
    std::uint64_t bytes = 0;
};
// The longest beginning of the order that fits into `most`, the first block of each matrix at
// least.
Prefix prefix_of(const StackOrder& order, std::uint64_t most) {
    Prefix out;
    for (; out.blocks < order.order.size(); ++out.blocks) {
        const std::uint64_t bytes = block_bytes(order, out.blocks);
        if (out.blocks >= order.linears.size() && out.bytes + bytes > most) break;
        out.bytes += bytes;
    }
    return out;
}

std::uint64_t room_for_blocks(const Arrangement& a, std::uint64_t most_bytes) {
    const std::uint64_t fixed = a.fixed_bytes();
    return most_bytes > fixed ? most_bytes - fixed : 0;
}

class Store final : public StackedStore {
  public:
    Store(const ModelSource& source, const Exec& exec, const StoreOptions& options)
        : source_(source),
          specs_(units_of(source)),
          order_(read_stack_order(source)),
          arrangement_(arrange(source, specs_, exec, options)),
          room_(arrangement_.room_bytes, Purpose::kWeights) {
        arrangement_.memory.load();
        for (const SourceTensor* tensor : order_.linears) {
            Matrix& m = matrices_[tensor];
            const StackForm& form = stacked_of(*tensor)->stack();
            m.stack = {form.shape, form.rank, {}, room_.span<float>()};
        }
        for (const UnitSpec& spec : specs_) units_.push_back(unit(spec));
        resize(options.most_bytes);
    }

    Lease acquire(UnitId unit) override { return {*this, unit, units_[index_of(unit, specs_)]}; }
    std::uint64_t bytes_per_token() const noexcept override {
        return bytes_per_token_of(units_) + block_bytes_;
    }
    const StackOrder& order() const noexcept override { return order_; }
    std::int64_t blocks() const noexcept override { return static_cast<std::int64_t>(blocks_); }
    std::uint64_t held_bytes() const noexcept override {
        std::uint64_t bytes = arrangement_.fixed_bytes();
        for (std::size_t place = 0; place < blocks_; ++place) bytes += block_bytes(order_, place);
        return bytes;
    }

    void resize(std::uint64_t most_bytes) override {
        const Prefix wanted = prefix_of(order_, room_for_blocks(arrangement_, most_bytes));
        while (blocks_ > wanted.blocks) {
            Matrix& m = matrix(order_.order[--blocks_]);
            block_bytes_ -= m.memory.back().bytes();
            m.blocks.pop_back();
            m.memory.pop_back();
        }
        for (; blocks_ < wanted.blocks; ++blocks_) {
            const auto linear = order_.order[blocks_];
            const StackedTensor& tensor =
                *stacked_of(*order_.linears[static_cast<std::size_t>(linear)]);
            Matrix& m = matrix(linear);
            Buffer memory(tensor.stack().bytes, Purpose::kWeights);
            m.blocks.push_back(tensor.load(source_.file(), std::ssize(m.blocks), memory.data()));
            block_bytes_ += memory.bytes();
            m.memory.push_back(std::move(memory));
        }
        for (auto& [tensor, m] : matrices_) m.stack.blocks = m.blocks;
    }

    void limit(std::size_t linear, std::int64_t levels) override {
        Matrix& m = matrix(static_cast<std::int32_t>(linear));
        m.stack.blocks = std::span(m.blocks).first(static_cast<std::size_t>(levels));
    }

  private:
    struct Matrix {
        ops::Stack stack;
        std::vector<ops::SignedBlock> blocks;
        std::vector<Buffer> memory;
    };

    void release(UnitId) noexcept override {}

    Matrix& matrix(std::int32_t linear) {
        return matrices_.at(order_.linears[static_cast<std::size_t>(linear)]);
    }

    UnitWeights unit(const UnitSpec& spec) {
        UnitWeights weights;
        for (const auto& m : spec.matrices) {
            const auto stacked = matrices_.find(m.weight);
            PackedView weight;
            if (stacked == matrices_.end()) {
                weight = arrangement_.memory.matrix(*m.weight);
            } else {
                weight.shape = stacked->second.stack.shape;
            }
            weights.matrices.push_back(arrangement_.memory.linear(m, weight));
            if (stacked != matrices_.end()) weights.matrices.back().stack = &stacked->second.stack;
        }
        for (const auto& v : spec.vectors)
            weights.vectors.push_back(arrangement_.memory.vector(*v.weight));
        return weights;
    }

    const ModelSource& source_;
    std::vector<UnitSpec> specs_;
    StackOrder order_;
    Arrangement arrangement_;
    Buffer room_;
    std::map<const SourceTensor*, Matrix> matrices_;
    std::vector<UnitWeights> units_;
    std::size_t blocks_ = 0;
    std::uint64_t block_bytes_ = 0;
};

}  // namespace

StorePlan plan_stacked_store(const ModelSource& source, const Exec& exec,
                             const StoreOptions& options) {
    const StackOrder order = read_stack_order(source);
    const Arrangement a = arrange(source, units_of(source), exec, options);
    const Prefix prefix = prefix_of(order, room_for_blocks(a, options.most_bytes));
    StorePlan plan;
    plan.resident_bytes = a.fixed_bytes() + prefix.bytes;
    plan.staging_bytes = Buffer::charged_bytes(a.memory.staging_bytes());
    plan.blocks = static_cast<std::int64_t>(prefix.blocks);
    plan.all_blocks = std::ssize(order.order);
    return plan;
}

std::unique_ptr<StackedStore> make_stacked_store(const ModelSource& source, const Exec& exec,
                                                 const StoreOptions& options) {
    return std::make_unique<Store>(source, exec, options);
}

}  // namespace thimble
