// SPDX-License-Identifier: Apache-2.0
// The only owner of bulk memory. Move-only; charged to the process ledger for as long as it lives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "core/ledger.h"

namespace thimble {

// Where a Buffer's bytes lie.
enum class Place : std::uint8_t {
    kHost,
    kPinned,  // host memory that a device copies from and to without help; counts as ram
    kDevice,  // counts as vram; only ops look inside
};

class Buffer {
  public:
    Buffer() = default;
    // Uninitialised bytes, 64-byte aligned; from 2 MiB up whole pages that ask for huge pages and
    // are given back to the system on destruction. Throws kOverBudget, or kFailure if the system
    // has none.
    Buffer(std::size_t bytes, Purpose purpose);
    // Elsewhere: 256-byte aligned. Error(kOverBudget) where the device has no more.
    Buffer(std::size_t bytes, Purpose purpose, Place place);
    ~Buffer() { reset(); }
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        Buffer(std::move(other)).swap(*this);
        return *this;
    }
    void swap(Buffer& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        std::swap(purpose_, other.purpose_);
        std::swap(place_, other.place_);
    }
    void reset() noexcept;

    [[nodiscard]] std::byte* data() noexcept { return data_; }
    [[nodiscard]] const std::byte* data() const noexcept { return data_; }
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    [[nodiscard]] explicit operator bool() const noexcept { return data_ != nullptr; }
    template <class T>
    [[nodiscard]] T* as() noexcept {
        return reinterpret_cast<T*>(data_);
    }
    template <class T>
    [[nodiscard]] const T* as() const noexcept {
        return reinterpret_cast<const T*>(data_);
    }
    template <class T>
    [[nodiscard]] std::span<T> span() noexcept {
        return {as<T>(), bytes_ / sizeof(T)};
    }

    // Bytes the ledger is charged for a request (rounded to the allocation's granularity): for
    // plans.
    [[nodiscard]] static std::size_t charged_bytes(std::size_t bytes,
                                                   Place place = Place::kHost) noexcept;

  private:
    std::byte* data_ = nullptr;
    std::size_t bytes_ = 0;
    Purpose purpose_ = Purpose::kOther;
    Place place_ = Place::kHost;
};

}  // namespace thimble
