// SPDX-License-Identifier: Apache-2.0
// The order of channels that puts likes beside likes, so that blocks along a row share a scale that
// suits all of them. "Block floating point with outlier channel rearrangement" (2024).
// differs: the paper sorts channels of keys for their cache. Here axes of weights are sorted that
// nothing but weights reads; keys stay, for the rotation pairs their channels.
#pragma once

#include <cstdint>
#include <span>

namespace thimble {

// In each run of `group` of the n channels, `order` lists them by ascending key, equal ones by
// index: order[i] is the channel that becomes channel i. keys, order: [n], n a multiple of group;
// keys are not NaN.
void sort_channels(std::span<const double> keys, std::int64_t group, std::span<std::int32_t> order);

// keys: [heads, head_dim], summed over the query heads of each key-value head into its first
// [kv_heads, head_dim].
void add_shared_heads(std::span<double> keys, std::int64_t heads, std::int64_t kv_heads,
                      std::int64_t head_dim);

// The order of [kv_heads, head_dim] channels as each of `heads` query heads has it: [heads,
// head_dim].
void spread_order(std::span<const std::int32_t> of_values, std::int64_t heads,
                  std::int64_t kv_heads, std::int64_t head_dim, std::span<std::int32_t> order);

}  // namespace thimble
