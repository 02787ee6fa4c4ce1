// SPDX-License-Identifier: Apache-2.0
// As many layers in memory as the budget allows; the others are read from disk in each pass. A
// thread reads the next of them while this one is at work; on arrival it is checked (the first
// time) and repacked into the one lease buffer, so blocks meet the same bytes as with all weights
// in memory and results do not depend on the budget. Embedding, head, norms and biases always stay.
#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "io/file.h"
#include "model/factored_tensor.h"
#include "model/weight_memory.h"
#include "ops/kept.h"

namespace thimble {
namespace {

constexpr std::size_t kPage = 4096;

// One matrix of a streamed layer, or a factor of one: where it lies as stored and, where that is
// another layout, as multiplied.
struct StreamedMatrix {
    const SourceTensor* tensor = nullptr;
    std::size_t index = 0;  // of the matrix in its unit
    MatrixPart::Kind kind = MatrixPart::kWhole;
    std::size_t raw_offset = 0;  // in a slot
    LayoutId layout = LayoutId::k_f32;
    std::size_t packed_offset = 0,
                packed_bytes = 0;  // in the lease buffer; 0 bytes: used as stored
    bool transposed = false;
};
struct StreamedLayer {
    std::vector<StreamedMatrix> matrices;
    std::size_t raw_bytes = 0, packed_bytes = 0;
    std::uint64_t disk_bytes = 0;
};

// Bytes that lie as in the file from page to page go past the page cache straight to their place.
std::size_t raw_place(const SourceTensor& tensor, std::size_t from) {
    from = weight_aligned(from);
    if (!tensor.entry || tensor.source_row) return from;
    const std::size_t wanted = tensor.entry->offset % kPage;
    return from + (wanted + kPage - from % kPage) % kPage;
}

StreamedLayer streamed_layer(const UnitSpec& unit, const Exec& exec, bool repack) {
    StreamedLayer layer;
    for (std::size_t i = 0; i < unit.matrices.size(); ++i) {
        for (const MatrixPart& part : parts_of(*unit.matrices[i].weight)) {
            const SourceTensor& tensor = *part.tensor;
            StreamedMatrix matrix;
            matrix.tensor = &tensor, matrix.index = i, matrix.kind = part.kind;
            matrix.raw_offset = raw_place(tensor, layer.raw_bytes);
            layer.raw_bytes = matrix.raw_offset + tensor.form.bytes(tensor.rows());
            layer.disk_bytes += tensor.stored_bytes();
            matrix.layout = working_layout(tensor, exec, repack);
            matrix.transposed = working_skips(tensor, exec, repack) == Skips::kInputs;
            if (matrix.layout != tensor.layout() || matrix.transposed) {
                matrix.packed_offset = layer.packed_bytes;
                matrix.packed_bytes = ops::packed_bytes(
                    matrix.layout, {tensor.rows(), tensor.cols()}, tensor.form.params);
                layer.packed_bytes += weight_aligned(matrix.packed_bytes);
            }
            layer.matrices.push_back(matrix);
        }
    }
    return layer;
}

// Which layers stay and what the others need.
struct Arrangement {
    std::vector<bool> streamed;  // by layer
    std::size_t slot_bytes = 0, lease_bytes = 0;
    std::uint64_t disk_bytes = 0;
    WeightMemory memory;

    [[nodiscard]] StorePlan plan() const {
        StorePlan plan;
        plan.resident_bytes = Buffer::charged_bytes(memory.bytes());
        plan.lease_bytes = Buffer::charged_bytes(lease_bytes);
        plan.io_bytes = 2 * Buffer::charged_bytes(slot_bytes);
        plan.staging_bytes = Buffer::charged_bytes(memory.staging_bytes());
        plan.streamed_layers = std::count(streamed.begin(), streamed.end(), true);
        plan.streamed_bytes = disk_bytes;
        return plan;
    }
};

// Streams `count` of the layers, spread evenly, so that those that stay give time to read ahead.
Arrangement arrange(const ModelSource& source, const std::vector<UnitSpec>& units, const Exec& exec,
                    const StoreOptions& options, std::size_t count) {
    const std::size_t layers = units.size() - 2;
    Arrangement a{{}, 0, 0, 0, WeightMemory(source, exec, options.repack, options.keep_coded)};
    a.memory.add_unit(units.front(), source.spec().tied_embedding);
    a.memory.add_unit(units.back(), true);
    for (std::size_t i = 0; i < layers; ++i) {
        const UnitSpec& unit = units[i + 1];
        a.streamed.push_back((i + 1) * count / layers > i * count / layers);
        if (!a.streamed.back()) {
            a.memory.add_unit(unit, true);
            continue;
        }
        a.memory.add_vectors(unit);
        const StreamedLayer layer = streamed_layer(unit, exec, options.repack);
        a.slot_bytes = std::max(a.slot_bytes, layer.raw_bytes);
        a.lease_bytes = std::max(a.lease_bytes, layer.packed_bytes);
        a.disk_bytes += layer.disk_bytes;
    }
    return a;
}

// As few streamed layers as fit; all of them where nothing does.
Arrangement arrange(const ModelSource& source, const std::vector<UnitSpec>& units, const Exec& exec,
                    const StoreOptions& options) {
    const std::size_t layers = units.size() - 2;
    for (std::size_t count = 1; count < layers; ++count) {
        Arrangement a = arrange(source, units, exec, options, count);
        if (a.plan().held_bytes() <= options.most_bytes) return a;
    }
    return arrange(source, units, exec, options, layers);
}

// Runs one task at a time on a thread of its own.
class Background {
  public:
    Background() : thread_([this] { work(); }) {}
    ~Background() {
        {
            const std::lock_guard lock(mutex_);
            stop_ = true;
        }
        changed_.notify_all();
        thread_.join();
    }
    Background(const Background&) = delete;
    Background& operator=(const Background&) = delete;

    void start(std::function<void()> task) {
        {
            const std::lock_guard lock(mutex_);
            task_ = std::move(task);
            busy_ = true;
        }
        changed_.notify_all();
    }
    // Until the task is done; throws what it threw.
    void wait() {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return !busy_; });
        if (const std::exception_ptr fault = std::exchange(fault_, nullptr))
            std::rethrow_exception(fault);
    }

    // The same, whatever it threw.
    void drain() noexcept {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return !busy_; });
        fault_ = nullptr;
    }

  private:
    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            changed_.wait(lock, [this] { return stop_ || task_; });
            if (stop_) return;
            const std::function<void()> task = std::exchange(task_, nullptr);
            lock.unlock();
            std::exception_ptr fault;
            try {
                task();
            } catch (...) {
                fault = std::current_exception();
            }
            lock.lock();
            fault_ = fault;
            busy_ = false;
            changed_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::function<void()> task_;
    std::exception_ptr fault_;
    bool busy_ = false, stop_ = false;
    std::thread thread_;  // last: it uses the others
};

class StreamedStore final : public WeightStore {
  public:
    StreamedStore(const ModelSource& source, const Exec& exec, const StoreOptions& options)
        : source_(source),
          exec_(exec),
          specs_(units_of(source)),
          arrangement_(arrange(source, specs_, exec, options)) {
        arrangement_.memory.load();
        lease_ = Buffer(arrangement_.lease_bytes, Purpose::kWeights);
        for (Slot& slot : slots_) slot.raw = Buffer(arrangement_.slot_bytes, Purpose::kIo);
        layers_.resize(arrangement_.streamed.size());
        for (std::size_t u = 0; u < specs_.size(); ++u) {
            const bool streamed = u > 0 && u + 1 < specs_.size() && arrangement_.streamed[u - 1];
            units_.push_back(streamed ? without_matrices(u, options.repack)
                                      : arrangement_.memory.unit(specs_[u]));
            if (streamed) order_.push_back(u - 1);
        }
    }

    Lease acquire(UnitId unit) override {
        const std::size_t u = index_of(unit, specs_);
        if (unit.kind == UnitKind::kLayer && arrangement_.streamed[u - 1]) bring(u - 1);
        return {*this, unit, units_[u]};
    }

    std::uint64_t bytes_per_token() const noexcept override { return bytes_per_token_of(units_); }
    std::uint64_t streamed_bytes() const noexcept override { return streamed_bytes_; }

  private:
    static constexpr std::size_t kNone = SIZE_MAX;
    // A layer as stored.
    struct Slot {
        Buffer raw;
        std::size_t layer = kNone;  // that it holds, or will when the reader is done
        std::vector<PackedView> views;
        std::atomic<std::size_t> next{0};  // matrix to be read
    };

    void release(UnitId) noexcept override {}

    // A streamed layer's unit: norms and biases, and matrices whose bytes come later.
    UnitWeights without_matrices(std::size_t u, bool repack) {
        const UnitSpec& unit = specs_[u];
        layers_[u - 1] = streamed_layer(unit, exec_, repack);
        UnitWeights weights;
        for (const auto& m : unit.matrices)
            weights.matrices.push_back(arrangement_.memory.linear(m, {}));
        for (const StreamedMatrix& m : layers_[u - 1].matrices) {
            const Shape2 shape{m.tensor->rows(), m.tensor->cols()};
            PackedView weight = m.tensor->form.view(shape, nullptr);
            if (m.transposed) {
                weight = transposed_view(*m.tensor, nullptr);
            } else if (m.packed_bytes > 0) {
                weight = {};
                weight.layout = m.layout;
                weight.shape = shape;
                weight.n_planes = 1;
                weight.planes[0].bytes = m.packed_bytes;
            }
            set_part(weights.matrices[m.index], m.kind, weight);
        }
        for (const auto& v : unit.vectors)
            weights.vectors.push_back(arrangement_.memory.vector(*v.weight));
        return weights;
    }

    // Makes the layer's weights usable, and begins to read the one after it.
    void bring(std::size_t layer) {
        if (current_ == layer) return;
        if (slots_[0].layer != layer && slots_[1].layer != layer) {
            settle();
            current_ = kNone;
            read(layer, slots_[0]);
        }
        const std::size_t at = slots_[0].layer == layer ? 0 : 1;
        help(slots_[at]);
        settle();
        take(layer, slots_[at]);
        current_ = layer;
        const std::size_t next = after(layer);
        if (next != layer && slots_[1 - at].layer != next) read(next, slots_[1 - at]);
    }

    // What the reader has not begun is done here.
    void help(Slot& slot) {
        try {
            fill(slot, slot.layer);
        } catch (...) {
            reader_.drain();
            slot.layer = kNone;
            throw;
        }
    }
    // The reader has nothing left to do, or fails.
    void settle() {
        try {
            reader_.wait();
        } catch (...) {
            reading_->layer = kNone;
            throw;
        }
    }

    [[nodiscard]] std::size_t after(std::size_t layer) const {
        const auto at = std::find(order_.begin(), order_.end(), layer);
        if (at == order_.end()) return layer;
        return at + 1 == order_.end() ? order_.front() : *(at + 1);
    }

    void read(std::size_t layer, Slot& slot) {
        slot.layer = layer;
        slot.views.resize(layers_[layer].matrices.size());
        slot.next = 0;
        streamed_bytes_ += layers_[layer].disk_bytes;
        reading_ = &slot;
        reader_.start([this, layer, &slot] { fill(slot, layer); });
    }

    // Matrices that no thread has begun, until there are none.
    void fill(Slot& slot, std::size_t layer) {
        const File::PastCache past_cache;
        const std::vector<StreamedMatrix>& matrices = layers_[layer].matrices;
        for (std::size_t i; (i = slot.next++) < matrices.size();) {
            const StreamedMatrix& m = matrices[i];
            std::byte* to = slot.raw.data() + m.raw_offset;
            slot.views[i] = source_.read_packed(*m.tensor, 0, m.tensor->rows(), to);
        }
    }
    void take(std::size_t layer, const Slot& slot) {
        StreamedLayer& streamed = layers_[layer];
        UnitWeights& weights = units_[layer + 1];
        const bool is_new = std::find(checked_.begin(), checked_.end(), layer) == checked_.end();
        for (std::size_t i = 0; i < streamed.matrices.size(); ++i) {
            const StreamedMatrix& m = streamed.matrices[i];
            const PackedView& stored = slot.views[i];
            if (is_new) verify_weights(source_, exec_, *m.tensor, 0, stored);
            set_part(weights.matrices[m.index], m.kind, packed(m, stored));
        }
        if (is_new) checked_.push_back(layer);
    }

    // As it is multiplied, in the lease buffer.
    PackedView packed(const StreamedMatrix& m, const PackedView& stored) {
        if (m.packed_bytes == 0) return stored;
        std::byte* to = lease_.data() + m.packed_offset;
        if (!m.transposed) return ops::repack(exec_, stored, m.layout, to);
        ops::transpose_piece(exec_, stored, 0, m.tensor->rows(), to);
        return transposed_view(*m.tensor, to);
    }

    const ModelSource& source_;
    Exec exec_;
    std::vector<UnitSpec> specs_;
    Arrangement arrangement_;
    std::vector<StreamedLayer> layers_;  // by layer; empty for those that stay
    std::vector<UnitWeights> units_;
    Buffer lease_;
    std::array<Slot, 2> slots_;
    std::vector<std::size_t> order_;    // of streamed layers
    std::vector<std::size_t> checked_;  // layers whose weights are known to be finite
    std::size_t current_ = kNone;       // the layer in the lease buffer
    Slot* reading_ = nullptr;           // what the reader reads, or read last
    std::uint64_t streamed_bytes_ = 0;
    Background reader_;  // last: it uses the others
};

}  // namespace

StorePlan plan_streamed_store(const ModelSource& source, const Exec& exec,
                              const StoreOptions& options) {
    const std::vector<UnitSpec> units = units_of(source);
    return arrange(source, units, exec, options).plan();
}

std::unique_ptr<WeightStore> make_streamed_store(const ModelSource& source, const Exec& exec,
                                                 const StoreOptions& options) {
    return std::make_unique<StreamedStore>(source, exec, options);
}

}  // namespace thimble
