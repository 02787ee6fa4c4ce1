// SPDX-License-Identifier: Apache-2.0
// The figures of questions about texts: the score of all, and of those alike in the text's length,
// in the depth of what is asked for, in their place among a text's questions, or in kind.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "eval/context_task.h"

namespace thimble::eval {

class ContextFigures {
  public:
    void expect(const ContextItem& item);  // each item, in order
    void settle();                         // after the last one: which figures there are
    [[nodiscard]] std::vector<MetricInfo> metrics() const;
    [[nodiscard]] std::uint64_t held_bytes() const noexcept;

    void add(const std::vector<double>& scores);  // of the next item's turns
    [[nodiscard]] std::size_t samples() const noexcept { return added_; }
    // Metrics, and columns of what every sample has.
    void results(TaskResult& out) const;

  private:
    struct Label {
        std::int64_t length = 0;
        std::vector<std::int64_t> depths;  // of the turns
        std::vector<std::string> parts;
    };
    // A mean over turns: per sample their scores' sum and count, so that the turns of one text are
    // not taken for independent ones.
    struct Mean {
        std::string name;
        std::vector<double> sums, counts;
        [[nodiscard]] Estimate estimate() const;
    };
    [[nodiscard]] std::vector<std::string> names_of(const Label& label, std::size_t turn) const;
    [[nodiscard]] Mean& mean(const std::string& name);

    std::vector<Label> labels_;
    std::set<std::int64_t> lengths_, depths_;
    std::set<std::string> parts_;
    std::size_t most_turns_ = 0, added_ = 0;
    std::vector<Mean> means_;  // of all turns first
};

}  // namespace thimble::eval
