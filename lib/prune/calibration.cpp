// SPDX-License-Identifier: Apache-2.0
#include "prune/calibration.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "calib/collector.h"
#include "core/error.h"
#include "kernels/layout/rng.h"
#include "text/tokenizer.h"

namespace thimble::prune {
namespace {

// Tokens whose states are held at once where layers in a row are compared.
constexpr std::int64_t kGroupTokens = 4096;
constexpr std::uint64_t kWriteSeed = 1;
constexpr std::int64_t kRowElements = std::int64_t{1} << 20;  // of a matrix, read at a time

// The token at a place of the distribution, from 0 to 1.
std::int32_t drawn(View logits, float place) {
    const float* row = logits.row<float>(0);
    const float most = *std::max_element(row, row + logits.cols);
    double sum = 0;
    for (std::int64_t i = 0; i < logits.cols; ++i) sum += std::exp(double{row[i]} - double{most});
    double left = sum * static_cast<double>(place);
    for (std::int64_t i = 0; i < logits.cols; ++i) {
        left -= std::exp(double{row[i]} - double{most});
        if (left < 0) return static_cast<std::int32_t>(i);
    }
    return static_cast<std::int32_t>(logits.cols - 1);
}

std::size_t state_bytes(const ModelSource& source, std::int64_t tokens) {
    return static_cast<std::size_t>(tokens * source.spec().hidden) * sizeof(float);
}

}  // namespace

double cosine(const float* a, const float* b, std::int64_t n) {
    double ab = 0, aa = 0, bb = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        const double x = a[i], y = b[i];
        ab += x * y, aa += x * x, bb += y * y;
    }
    return aa > 0 && bb > 0 ? ab / (std::sqrt(aa) * std::sqrt(bb)) : 1;
}

std::vector<double> squared_column_norms(const ModelSource& source, const SourceTensor& tensor,
                                         Team& team) {
    const std::int64_t rows = tensor.rows(), cols = tensor.cols();
    const std::int64_t step = std::max<std::int64_t>(kRowElements / cols, 1);
    std::vector<float> weights(static_cast<std::size_t>(std::min(step, rows) * cols));
    std::vector<double> norms(static_cast<std::size_t>(cols));
    std::vector<std::byte> scratch;
    for (std::int64_t first = 0; first < rows; first += step) {
        const std::int64_t count = std::min(step, rows - first);
        source.read_rows(tensor, first, count, weights.data(), scratch);
        team.run(cols, 64, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t r = 0; r < count; ++r) {
                for (std::int64_t c = begin; c < end; ++c) {
                    const double w = weights[static_cast<std::size_t>(r * cols + c)];
                    norms[static_cast<std::size_t>(c)] += w * w;
                }
            }
        });
    }
    return norms;
}

Calibration::Calibration(const ModelSource& source, Runner* runner, Team& team, const Texts& texts,
                         Progress progress)
    : source_(source),
      runner_(runner),
      team_(team),
      texts_(texts),
      progress_(std::move(progress)) {}

Runner& Calibration::runner() {
    if (runner_ == nullptr) throw Error(Exit::kFailure, "prune", "there is no text to look at");
    return *runner_;
}

std::vector<double> Calibration::squares(const SourceTensor& tensor) {
    if (!squares_) {
        squares_ = collect_importance(runner(), team_, texts_, {.group_tokens = kGroupTokens},
                                      [&](std::int64_t done, std::int64_t total) {
                                          return progress_("inputs", done, total);
                                      });
        if (!squares_) throw Stopped();
    }
    const auto entry = squares_->entries.find(tensor.name);
    if (entry == squares_->entries.end()) return {};
    std::vector<double> means;
    for (const float sum : entry->second.sums)
        means.push_back(static_cast<double>(sum) /
                        static_cast<double>(entry->second.counts.front()));
    return means;
}

std::vector<double> Calibration::column_energy(const SourceTensor& tensor) {
    std::vector<double> energy = squares(tensor);
    if (energy.empty()) {
        throw Error(Exit::kBadData, escaped(source_.file().path(), 1024),
                    "no token reached '" + tensor.name + "'");
    }
    const std::vector<double> norms = squared_column_norms(source_, tensor, team_);
    for (std::size_t c = 0; c < energy.size(); ++c) energy[c] *= norms[c];
    return energy;
}

const Metadata& Calibration::vocabulary() {
    if (!vocabulary_) {
        vocabulary_ = source_.gguf_metadata();
        if (source_.file().container() == Container::kHuggingFace)
            Tokenizer::open(source_.file())->write_vocabulary(*vocabulary_);
    }
    return *vocabulary_;
}

std::vector<double> Calibration::token_counts() const {
    std::vector<double> counts(static_cast<std::size_t>(source_.spec().vocab));
    for (const auto& text : texts_) {
        for (const std::int32_t token : text) counts[static_cast<std::size_t>(token)] += 1;
    }
    return counts;
}

std::vector<double> Calibration::written_counts(std::int64_t prompt, std::int64_t count) {
    Runner& model = runner();
    std::vector<double> counts(static_cast<std::size_t>(source_.spec().vocab));
    for (std::size_t i = 0; i < texts_.size(); ++i) {
        const SeqId seq = model.kv().open();
        std::vector<std::int32_t> next(texts_[i].begin(),
                                       texts_[i].begin() + std::min(prompt, std::ssize(texts_[i])));
        for (std::int64_t n = 0; n < count; ++n) {
            const float random =
                unit_float(philox(kWriteSeed, static_cast<std::uint64_t>(n), i).v[0]);
            std::int32_t token = 0;
            model.forward(seq, next, 1,
                          [&](std::int64_t, View logits) { token = drawn(logits, random); });
            counts[static_cast<std::size_t>(token)] += 1;
            next = {token};
        }
        model.kv().close(seq);
        if (!progress_("texts", static_cast<std::int64_t>(i) + 1, std::ssize(texts_)))
            throw Stopped();
    }
    return counts;
}

std::vector<double> Calibration::influence(const Kept& layers, std::int64_t span) {
    Runner& model = runner();
    const std::int64_t hidden = source_.spec().hidden;
    const auto groups = groups_of(texts_, kGroupTokens);
    std::int64_t most = 0;
    for (const auto& [first, end] : groups)
        most = std::max(most, tokens_of(std::span(texts_).subspan(first, end - first)));
    // What the last `span` layers read, in a ring, and what the one at work makes of it.
    std::vector<Buffer> before;
    for (std::int64_t i = 0; i < span; ++i)
        before.emplace_back(state_bytes(source_, most), Purpose::kActivations);
    Buffer states(state_bytes(source_, most), Purpose::kActivations);
    Buffer cosines(static_cast<std::size_t>(most) * sizeof(double), Purpose::kActivations);

    const auto count = std::ssize(layers);
    std::vector<double> sums(static_cast<std::size_t>(std::max<std::int64_t>(count - span + 1, 0)));
    std::int64_t seen = 0, done = 0;
    for (const auto& [first, end] : groups) {
        const auto texts = std::span(texts_).subspan(first, end - first);
        const std::int64_t tokens = tokens_of(texts);
        const View x = {states.data(), DType::kF32, tokens, hidden, hidden};
        model.embed(texts, x);
        for (std::int64_t i = 0; i < count; ++i) {
            std::memcpy(before[static_cast<std::size_t>(i % span)].data(), states.data(),
                        state_bytes(source_, tokens));
            model.sweep_layer(layers[static_cast<std::size_t>(i)], texts, x, nullptr);
            if (!progress_("layers", ++done, count * std::ssize(groups))) throw Stopped();
            if (i + 1 < span) continue;
            const std::int64_t from = i + 1 - span;
            const float* old = before[static_cast<std::size_t>(from % span)].as<float>();
            team_.run(tokens, 64, [&](std::int64_t begin, std::int64_t last) {
                for (std::int64_t t = begin; t < last; ++t)
                    cosines.as<double>()[t] =
                        cosine(old + t * hidden, states.as<float>() + t * hidden, hidden);
            });
            std::int64_t row = 0;
            for (const auto& text : texts) {
                for (std::int64_t t = 1; t < std::ssize(text); ++t)
                    sums[static_cast<std::size_t>(from)] += 1 - cosines.as<double>()[row + t];
                row += std::ssize(text);
            }
        }
        seen += tokens - std::ssize(texts);
    }
    for (double& sum : sums) sum /= static_cast<double>(std::max<std::int64_t>(seen, 1));
    return sums;
}

void Calibration::add_to_plan(Plan& plan, const ModelSource& source, const Needs& needs,
                              std::int64_t tokens, std::int64_t longest) {
    const std::int64_t group = std::min(tokens, std::max(kGroupTokens, longest));
    if (needs.squares) add_collection_to_plan(plan, source, Device::kCpu, group, false);
    if (needs.span == 0) return;
    std::uint64_t& held = plan.at(Tier::kRam, Purpose::kActivations);
    held += static_cast<std::uint64_t>(needs.span + 1) *
            Buffer::charged_bytes(state_bytes(source, group));
    held += Buffer::charged_bytes(static_cast<std::size_t>(group) * sizeof(double));
}

}  // namespace thimble::prune
