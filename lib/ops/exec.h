// SPDX-License-Identifier: Apache-2.0
// Where and how operations run.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/team.h"
#include "kernels/layout/isa.h"
#include "tensor/buffer.h"
#include "tensor/view.h"

namespace thimble {

// How a packed matmul reads its input. kAuto is a fixed table per (layout, ISA) in
// ops/activations.cpp, filled from measurements; it never depends on timing or batch size.
// kI8: 8 bits, a scale for 32 columns; kI8Token: a scale for a token; kBits1 to kBits8: bit planes
// of so many bits, a scale for a token, with weights in bit planes (with others as kAuto).
enum class Activations : std::uint8_t {
    kAuto,
    kF32,
    kBf16,
    kI8,
    kI8Token,
    kBits1,
    kBits8 = kBits1 + 7,
};
// How many planes; 0: none.
[[nodiscard]] constexpr int plane_bits(Activations a) noexcept {
    return a < Activations::kBits1
               ? 0
               : static_cast<int>(a) - static_cast<int>(Activations::kBits1) + 1;
}
// The names that --activations takes; anything else is kAuto.
[[nodiscard]] const std::vector<std::string>& activation_names();
[[nodiscard]] Activations activations_named(std::string_view name);

// Bump allocator for one forward step; its capacity is fixed by the plan before work begins.
class Workspace {
  public:
    // Measures what is taken, without memory behind it: for Exec::dry.
    Workspace() = default;
    explicit Workspace(std::size_t bytes, Place place = Place::kHost)
        : buffer_(bytes, Purpose::kActivations, place), capacity_(bytes) {}
    // 64-byte aligned; throws Error(kFailure) past the capacity (a fault in the plan, not of the
    // user).
    [[nodiscard]] std::byte* take(std::size_t bytes);
    [[nodiscard]] View take_view(DType dtype, std::int64_t rows, std::int64_t cols);
    [[nodiscard]] std::size_t used() const noexcept { return used_; }
    [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
    [[nodiscard]] std::size_t peak() const noexcept { return peak_; }
    void rewind(std::size_t used) noexcept { used_ = used; }

  private:
    Buffer buffer_;
    std::size_t capacity_ = SIZE_MAX / 2;
    std::size_t used_ = 0, peak_ = 0;
};

// Gives back what was taken since it was made.
class WorkspaceScope {
  public:
    explicit WorkspaceScope(Workspace& workspace)
        : workspace_(workspace), mark_(workspace.used()) {}
    ~WorkspaceScope() { workspace_.rewind(mark_); }
    WorkspaceScope(const WorkspaceScope&) = delete;
    WorkspaceScope& operator=(const WorkspaceScope&) = delete;

  private:
    Workspace& workspace_;
    std::size_t mark_;
};

class CudaContext;
class OpClock;
class ReadAhead;

// How products of many rows are computed on the CPU.
enum class Products : std::uint8_t {
    kPacked,  // from the packed weights, by our kernels: a row's bits do not depend on the batch
    kDense,   // training: weights decoded slice by slice to F32, or with Activations::kBf16 both
              // operands rounded to BF16, for a dense GEMM that sums in F32
};

struct Exec {
    Device device = Device::kCpu;
    Isa isa = Isa::kPortable;
    Activations activations = Activations::kAuto;
    Team* team = nullptr;
    Workspace* workspace = nullptr;
    CudaContext* cuda = nullptr;  // of Device::kCuda
    Products products = Products::kPacked;
    // Operations check shapes and take workspace, and compute nothing: views point nowhere. A step
    // run so over a Workspace that only measures is its own plan. Training's operations know it.
    bool dry = false;
    OpClock* clock = nullptr;    // ops/op_clock.h; null: operations are not timed
    ReadAhead* ahead = nullptr;  // ops/read_ahead.h; null: waiting threads fetch nothing

    // Work of the same step on host memory: itself, or what a CudaContext has for it.
    [[nodiscard]] const Exec& host() const noexcept;
    [[nodiscard]] DType dtype() const noexcept {
        return device == Device::kRef ? DType::kF64 : DType::kF32;
    }
};

// What quantised weights meet, kAuto resolved: "f64" (the reference device), "f32", "bf16" or
// "i8", and so on.
// Float weights always read f32.
[[nodiscard]] std::string describe_activations(const Exec& exec);

}  // namespace thimble
