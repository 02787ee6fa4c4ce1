// SPDX-License-Identifier: Apache-2.0
// Which format each tensor is stored in, and why.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "format/weight_format.h"
#include "model/source.h"
#include "quant/folding.h"
#include "quant/merge.h"
#include "quant/options.h"

namespace thimble {

struct TensorChoice {
    const SourceTensor* tensor = nullptr;
    SharedFormat format = shared_format_of(LayoutId::k_f32);
    bool copied = false;                     // the stored bytes are taken over as they are
    bool requantized = false;                // quantised in the source already
    bool merged = false;                     // an adapter becomes part of it
    const TensorFold* fold = nullptr;        // how a rewrite changes it, of the job's Folding
    std::string reason = {};                 // "" for the base format, else what led to another
    std::span<const float> importance = {};  // of the columns, [cols]; empty: encoded without
    std::string no_importance = {};          // with --imatrix: why there is none

    [[nodiscard]] LayoutId layout() const { return format->info().layout; }
    [[nodiscard]] std::string format_name() const { return spec_of(*format); }

    [[nodiscard]] bool rewritten() const noexcept {
        return merged || (fold != nullptr && fold->changes_rows());
    }
};

// One choice per tensor, in the source's order. Throws Error(kUsage) for a rule or option that
// concerns no matrix (with the nearest name), for rows that are not whole blocks under --strict,
// and for quantised input without --allow-requantize. What `merge` or `folding` change is encoded
// again whatever its format.
[[nodiscard]] std::vector<TensorChoice> choose_formats(const ModelSource& source,
                                                       const QuantizeOptions& options,
                                                       const AdapterMerge& merge,
                                                       const Folding& folding);

// What --format takes: mixes whose base can be written, their aliases, formats and theirs, each
// with its options.
[[nodiscard]] std::vector<InlineForm> target_forms();

// llama.cpp's number for the file, which follows from --format alone; nullopt for formats of ours.
[[nodiscard]] std::optional<std::uint32_t> file_type_of(const QuantizeOptions& options);

}  // namespace thimble
