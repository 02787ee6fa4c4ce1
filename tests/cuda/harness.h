// SPDX-License-Identifier: Apache-2.0
// What the tests of CUDA kernels share: exact device arrays (emulated, each ends at a guard page),
// and runs in several orders of a block's threads whose results must agree bit for bit.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/memory.h"
#include "kernels/layout/rng.h"

namespace thimble::cuda_test {

cuda::Stream& stream();

// Device memory of exactly these elements.
template <class T>
class Array {
  public:
    explicit Array(std::size_t n)
        : n_(n), p_(static_cast<T*>(cuda::allocate_device(n * sizeof(T)))) {}
    explicit Array(const std::vector<T>& values) : Array(values.size()) { put(values); }
    ~Array() { cuda::free_device(p_); }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;
    [[nodiscard]] T* data() const noexcept { return p_; }
    [[nodiscard]] std::size_t size() const noexcept { return n_; }
    void put(const std::vector<T>& values) {
        cuda::copy_to_device(stream(), p_, values.data(), values.size() * sizeof(T));
    }
    [[nodiscard]] std::vector<T> get() const {
        std::vector<T> out(n_);
        cuda::copy_to_host(stream(), out.data(), p_, n_ * sizeof(T));
        stream().wait();
        return out;
    }

  private:
    std::size_t n_;
    T* p_;
};

// Normal-looking values of a seed.
std::vector<float> values(std::size_t n, std::uint32_t seed, float size = 1);

// Runs `work`, which queues kernels on stream() and returns what they wrote, under several orders
// of threads and fills of fresh memory; all must agree and none may fault. Returns the result.
std::vector<float> run_all_orders(const std::function<std::vector<float>()>& work);

// |got - want| <= tolerance * (size of want's terms), at every place.
void check_close(std::span<const float> got, std::span<const double> want, double tolerance);

// The rows of kernels.def are tests: check_<name>() must exist.
#define THIMBLE_CUDA_KERNEL(name, Problem) void check_##name();
#include "kernels/cuda/kernels.def"
#undef THIMBLE_CUDA_KERNEL

}  // namespace thimble::cuda_test
