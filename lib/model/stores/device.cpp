// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "core/error.h"
#include "model/device_loader.h"
#include "model/device_store.h"
#include "model/factored_tensor.h"
#include "model/weight_memory.h"
#include "tensor/device.h"

namespace thimble {
namespace {

std::size_t unit_bytes(const UnitSpec& unit) {
    std::size_t bytes = 0;
    for (const auto& m : unit.matrices) {
        for (const MatrixPart& part : parts_of(*m.weight))
            bytes += device_matrix_bytes(*part.tensor);
        if (m.bias) bytes += device_vector_bytes(*m.bias);
    }
    for (const auto& v : unit.vectors) bytes += device_vector_bytes(*v.weight);
    return bytes;
}

// A streamed matrix whose exponents are coded goes to the device so, and is decoded there when its
// unit is at work, into the one place for such.
bool goes_coded(const SourceTensor& tensor) {
    return tensor.packed && tensor.packed->kept_bytes() > 0;
}
// Its planes, then its code: the table, the exponents, and room to tell of damage (weights are
// checked when they are loaded).
constexpr std::size_t kTableBytes = ExponentCode::kTable, kCodeBytes = 256;
std::size_t coded_bytes(const SourceTensor& tensor) {
    return ((tensor.packed->kept_bytes() + 255) & ~std::size_t{255}) + kCodeBytes;
}
std::size_t decoded_bytes(const UnitSpec& unit) {
    std::size_t bytes = 0;
    for (const auto& m : unit.matrices)
        for (const MatrixPart& part : parts_of(*m.weight))
            if (goes_coded(*part.tensor)) bytes += device_matrix_bytes(*part.tensor);
    return bytes;
}
// Of a streamed unit, as it is copied.
std::size_t copied_bytes(const UnitSpec& unit) {
    std::size_t bytes = unit_bytes(unit) - decoded_bytes(unit);
    for (const auto& m : unit.matrices)
        for (const MatrixPart& part : parts_of(*m.weight))
            if (goes_coded(*part.tensor)) bytes += coded_bytes(*part.tensor);
    return bytes;
}

std::size_t piece_bytes(const UnitSpec& unit) {
    std::size_t most = 0;
    for (const auto& m : unit.matrices)
        for (const MatrixPart& part : parts_of(*m.weight))
            most = std::max(most, DeviceLoader::staging_bytes(*part.tensor));
    for (const auto& v : unit.vectors)
        most = std::max(most, DeviceLoader::staging_bytes(*v.weight));
    return most;
}

WeightMemory host_memory(const ModelSource& source, const std::vector<UnitSpec>& units,
                         const Exec& host, bool repack, const DevicePlan& plan) {
    WeightMemory memory(source, host, repack, true);
    for (std::size_t u = 0; u < units.size(); ++u) {
        if (plan.units[u] != UnitPlace::kHost) continue;
        const bool head_here = plan.units.back() == UnitPlace::kHost;
        memory.add_unit(units[u], u > 0 || (source.spec().tied_embedding && head_here));
    }
    return memory;
}

// Where the embedding lies whose matrix is the head's, too.
UnitPlace embedding_place(UnitPlace head) {
    return head == UnitPlace::kDevice ? UnitPlace::kDevice : UnitPlace::kHost;
}

// A unit's weights one after the other from `base`; with `decoded`, those that are copied coded lie
// there, and their codes in between the others.
UnitWeights weights_at(const UnitSpec& unit, std::byte* base, std::byte* decoded = nullptr) {
    UnitWeights weights;
    const auto vector = [&](const SourceTensor& t) {
        const View view{base, DType::kF32, 1, t.cols(), t.cols()};
        base += device_vector_bytes(t);
        return view;
    };
    for (const auto& m : unit.matrices) {
        Linear linear;
        for (const MatrixPart& part : parts_of(*m.weight)) {
            const SourceTensor& t = *part.tensor;
            const bool coded = decoded != nullptr && goes_coded(t);
            std::byte*& at = coded ? decoded : base;
            set_part(linear, part.kind, device_form(t).view({t.rows(), t.cols()}, at));
            at += device_matrix_bytes(t);
            if (coded) base += coded_bytes(t);
        }
        if (m.bias) linear.bias = vector(*m.bias);
        weights.matrices.push_back(linear);
    }
    for (const auto& v : unit.vectors) weights.vectors.push_back(vector(*v.weight));
    return weights;
}

class DeviceStore final : public WeightStore {
  public:
    DeviceStore(const ModelSource& source, CudaContext& cuda, bool repack, const DevicePlan& plan)
        : source_(source),
          cuda_(cuda),
          specs_(units_of(source)),
          places_(plan.units),
          host_(host_memory(source, specs_, cuda.host(), repack, plan)),
          units_(specs_.size()),
          pinned_at_(specs_.size()) {
        host_.load();
        load(plan);
    }

    Lease acquire(UnitId unit) override {
        const std::size_t u = index_of(unit, specs_);
        if (places_[u] != UnitPlace::kStreamed) return {*this, unit, units_[u]};
        Slot& slot = bring(u);
        ahead(after(u));
        return {*this, unit, slot.weights};
    }

    std::uint64_t bytes_per_token() const noexcept override { return bytes_per_token_of(units_); }

  private:
    static constexpr std::size_t kNone = SIZE_MAX;
    struct Slot {
        Buffer memory;
        std::size_t unit = kNone;
        UnitWeights weights;
        cuda::Event arrived, used;
    };

    // A matrix of a streamed unit, in pinned memory.
    struct Coded {
        std::size_t unit = 0, index = 0;
        MatrixPart::Kind kind = MatrixPart::kWhole;
        std::byte *planes = nullptr, *code = nullptr;
        std::unique_ptr<const ops::CodedMatrix> matrix;
    };

    void release(UnitId unit) noexcept override {
        const std::size_t u = index_of(unit, specs_);
        if (places_[u] != UnitPlace::kStreamed) return;
        try {
            for (Slot& slot : slots_) {
                if (slot.unit == u) slot.used.record(cuda_.compute());
            }
        } catch (const cuda::Failure&) {  // the next call on the stream says so, too
        }
    }

    // The slot that holds a unit; the compute stream waits for it.
    Slot& bring(std::size_t u) {
        ahead(u);
        Slot& slot = slots_[slots_[0].unit == u ? 0 : 1];
        on_device([&] {
            cuda_.compute().wait_for(slot.arrived);
            if (decoded_unit_ == u) return;
            decoded_unit_ = u;
            for (const Coded& c : coded_)
                if (c.unit == u) decode(c, slot);
        });
        return slot;
    }

    // Begins to copy a unit, unless it is here or on its way, into the slot used longer ago.
    void ahead(std::size_t u) {
        if (slots_[0].unit == u || slots_[1].unit == u) return;
        Slot& slot = slots_[turn_];
        turn_ ^= 1u;
        slot.unit = u;
        slot.weights = weights_at(specs_[u], slot.memory.data(), decoded_.data());
        on_device([&] {
            cuda_.copies().wait_for(slot.used);
            cuda::copy_to_device(cuda_.copies(), slot.memory.data(), pinned_.data() + pinned_at_[u],
                                 copied_bytes(specs_[u]));
            slot.arrived.record(cuda_.copies());
        });
    }

    // In the order of the work, after the unit before.
    void decode(const Coded& c, Slot& slot) {
        std::byte* const base =
            slot.memory.data() + (c.planes - (pinned_.data() + pinned_at_[c.unit]));
        const auto moved = [&]<class T>(const T* p) {
            return reinterpret_cast<T*>(base + (reinterpret_cast<const std::byte*>(p) - c.planes));
        };
        ops::DeviceCodes codes{};
        codes.chunks = c.matrix->chunks();
        codes.table = moved(reinterpret_cast<const std::uint8_t*>(c.code));
        codes.exponents = codes.table + kTableBytes;
        codes.damaged = moved(
            reinterpret_cast<const std::int32_t*>(c.code + kTableBytes + ExponentCode::kSymbols));
        const ops::CodedStrip& all = c.matrix->all();
        codes.all.words = moved(all.words), codes.all.rest = moved(all.rest);
        codes.all.starts = moved(all.starts);
        const std::byte* to = part_view(slot.weights.matrices[c.index], c.kind).planes[0].data;
        ops::decode_on_device(cuda_.compute(), codes,
                              reinterpret_cast<std::uint16_t*>(const_cast<std::byte*>(to)));
    }

    // The streamed unit that comes next, again and again.
    [[nodiscard]] std::size_t after(std::size_t u) const {
        for (std::size_t n = 1; n <= places_.size(); ++n) {
            const std::size_t next = (u + n) % places_.size();
            if (places_[next] == UnitPlace::kStreamed) return next;
        }
        return u;
    }

    void load(const DevicePlan& plan) {
        memory_ = Buffer(plan.resident_bytes, Purpose::kWeights, Place::kDevice);
        pinned_ = Buffer(plan.pinned_bytes, Purpose::kWeights, Place::kPinned);
        std::optional<DeviceLoader> loader(std::in_place, source_, cuda_, plan.staging_bytes);
        std::size_t resident = 0, pinned = 0, slot = 0, decoded = 0;
        for (std::size_t u = 0; u < specs_.size(); ++u) {
            if (places_[u] == UnitPlace::kHost) {
                units_[u] = host_.unit(specs_[u]);
                continue;
            }
            if (u == 0) continue;  // of the head
            const bool stays = places_[u] == UnitPlace::kDevice;
            std::byte* base = stays ? memory_.data() + resident : pinned_.data() + pinned;
            pinned_at_[u] = pinned;
            if (stays) {
                units_[u] = weights_at(specs_[u], base);
                resident += unit_bytes(specs_[u]);
            } else {
                units_[u] = weights_at(specs_[u], base, base);  // no bytes are for decoded ones
                keep_coded(u, base);
                pinned += copied_bytes(specs_[u]);
                slot = std::max(slot, copied_bytes(specs_[u]));
                decoded = std::max(decoded, decoded_bytes(specs_[u]));
            }
            load_unit(specs_[u], units_[u], stays ? Place::kDevice : Place::kPinned, *loader);
        }
        if (places_[0] == UnitPlace::kDevice) units_[0].matrices = {embedding_of_head()};
        loader.reset();
        if (slot == 0) return;
        decoded_ = Buffer(decoded, Purpose::kWeights, Place::kDevice);
        for (std::int64_t i = 0; i < std::min<std::int64_t>(plan.count(UnitPlace::kStreamed), 2);
             ++i)
            slots_[static_cast<std::size_t>(i)].memory =
                Buffer(slot, Purpose::kWeights, Place::kDevice);
    }

    // The coded matrices of a streamed unit to their places among the others.
    void keep_coded(std::size_t u, std::byte* base) {
        const UnitSpec& unit = specs_[u];
        for (std::size_t i = 0; i < unit.matrices.size(); ++i) {
            for (const MatrixPart& part : parts_of(*unit.matrices[i].weight)) {
                const SourceTensor& t = *part.tensor;
                const bool coded = goes_coded(t);
                if (coded) keep_coded(t, {u, i, part.kind, base, nullptr, nullptr});
                base += coded ? coded_bytes(t) : device_matrix_bytes(t);
            }
            if (unit.matrices[i].bias) base += device_vector_bytes(*unit.matrices[i].bias);
        }
    }

    void keep_coded(const SourceTensor& t, Coded c) {
        c.code = c.planes + coded_bytes(t) - kCodeBytes;
        c.matrix = t.packed->keep(source_.file(), c.planes, cuda_.host().isa);
        verify_coded(source_, cuda_.host(), t, *c.matrix);
        const ExponentCode& code = c.matrix->code();
        code.table(reinterpret_cast<std::uint8_t*>(c.code));
        std::memcpy(c.code + kTableBytes, code.exponents, ExponentCode::kSymbols);
        coded_.push_back(std::move(c));
    }

    // Of a tied head: its matrix is the embedding's.
    [[nodiscard]] Linear embedding_of_head() const {
        return {units_.back().matrices[specs_.back().matrix("output")].weight, std::nullopt};
    }

    void load_unit(const UnitSpec& unit, const UnitWeights& to, Place place, DeviceLoader& loader) {
        for (std::size_t i = 0; i < unit.matrices.size(); ++i) {
            for (const MatrixPart& part : parts_of(*unit.matrices[i].weight)) {
                if (place == Place::kDevice || !goes_coded(*part.tensor))
                    loader.load(*part.tensor, part_view(to.matrices[i], part.kind), place);
            }
            if (unit.matrices[i].bias)
                loader.load(*unit.matrices[i].bias, *to.matrices[i].bias, place);
        }
        for (std::size_t i = 0; i < unit.vectors.size(); ++i)
            loader.load(*unit.vectors[i].weight, to.vectors[i], place);
    }

    const ModelSource& source_;
    CudaContext& cuda_;
    std::vector<UnitSpec> specs_;
    std::vector<UnitPlace> places_;
    WeightMemory host_;
    std::vector<UnitWeights> units_;      // of streamed ones: in pinned memory
    std::vector<std::size_t> pinned_at_;  // where a streamed unit begins
    std::vector<Coded> coded_;            // of all streamed units
    Buffer memory_, pinned_, decoded_;
    std::size_t decoded_unit_ = kNone;
    std::array<Slot, 2> slots_;
    unsigned turn_ = 0;  // the slot to be filled next
};

}  // namespace

std::int64_t DevicePlan::count(UnitPlace place) const noexcept {
    return std::count(units.begin(), units.end(), place);
}

DevicePlan plan_device_store(const ModelSource& source, const Exec& host, bool repack,
                             std::int64_t device_layers, std::uint64_t most_bytes) {
    const std::vector<UnitSpec> units = units_of(source);
    const std::size_t layers = units.size() - 2;
    const auto wanted = static_cast<std::size_t>(
        std::clamp<std::int64_t>(device_layers, 0, static_cast<std::int64_t>(layers)));
    DevicePlan plan;
    // The head is read in full for every token: it stays before any layer does.
    std::vector<std::size_t> order;
    if (wanted > 0) order.push_back(units.size() - 1);
    for (std::size_t u = 1; u <= wanted; ++u) order.push_back(u);
    const auto arrange = [&](std::size_t stay) {
        DevicePlan p;
        p.units.assign(units.size(), UnitPlace::kHost);
        std::size_t resident = 0, pinned = 0, slot = 0, decoded = 0, piece = 0;
        for (std::size_t i = 0; i < order.size(); ++i) {
            const UnitSpec& unit = units[order[i]];
            p.units[order[i]] = i < stay ? UnitPlace::kDevice : UnitPlace::kStreamed;
            if (i < stay) {
                resident += unit_bytes(unit);
            } else {
                pinned += copied_bytes(unit);
                slot = std::max(slot, copied_bytes(unit));
                decoded = std::max(decoded, decoded_bytes(unit));
            }
            piece = std::max(piece, piece_bytes(unit));
        }
        if (source.spec().tied_embedding) p.units.front() = embedding_place(p.units.back());
        p.resident_bytes = Buffer::charged_bytes(resident, Place::kDevice);
        const std::size_t slots =
            std::min<std::size_t>(order.size() - std::min(stay, order.size()), 2);
        p.slot_bytes = slots * Buffer::charged_bytes(slot, Place::kDevice) +
                       Buffer::charged_bytes(decoded, Place::kDevice);
        p.pinned_bytes = Buffer::charged_bytes(pinned, Place::kPinned);
        p.staging_bytes = Buffer::charged_bytes(piece, Place::kPinned);
        return p;
    };
    // Nothing fits: the least there is, which need not be all streamed.
    plan = arrange(order.size());
    for (std::size_t stay = order.size(); plan.device_bytes() > most_bytes && stay-- > 0;) {
        const DevicePlan less = arrange(stay);
        if (less.device_bytes() < plan.device_bytes()) plan = less;
    }
    const WeightMemory memory = host_memory(source, units, host, repack, plan);
    plan.host_bytes = Buffer::charged_bytes(memory.bytes());
    // Either is only there while its part is loaded.
    plan.staging_bytes =
        std::max<std::uint64_t>(plan.staging_bytes, Buffer::charged_bytes(memory.staging_bytes()));
    return plan;
}

std::unique_ptr<WeightStore> make_device_store(const ModelSource& source, CudaContext& cuda,
                                               bool repack, const DevicePlan& plan) {
    return std::make_unique<DeviceStore>(source, cuda, repack, plan);
}

}  // namespace thimble
