// SPDX-License-Identifier: Apache-2.0
#include "decode/subtasks.h"

#include <algorithm>

#include "core/error.h"
#include "kv/chain.h"

namespace thimble {

void SubtaskOptions::visit(OptionVisitor& v) {
    v.group("Subtasks");
    v.option({.name = "subtask-open",
              .help = "text with which the model begins a subtask. One that has ended leaves the "
                      "cache, and its place in the context is free again; the text shown stays "
                      "whole. Works best with a model trained to write such markers; others must "
                      "be told to in the prompt",
              .value = "TEXT"},
             open);
    v.option({.name = "subtask-close",
              .help = "text with which the model ends a subtask. What it needs later it must write "
                      "outside",
              .value = "TEXT"},
             close);
    v.option({.name = "prune-buffer",
              .help = "most subtasks that have ended and stay in the cache: with one more the "
                      "earliest leaves; 0: each leaves at once, and a model not trained so may "
                      "well begin it anew",
              .value = "N",
              .least = 0},
             buffer);
}

void SubtaskOptions::check(const KvOptions& kv) const {
    if (open.empty() != close.empty()) {
        throw Error(Exit::kUsage, open.empty() ? "--subtask-open" : "--subtask-close",
                    "is missing: subtasks have a text at both ends",
                    "give --subtask-open and --subtask-close");
    }
    if (!on()) {
        if (buffer == SubtaskOptions{}.buffer) return;
        throw Error(Exit::kUsage, "--prune-buffer", "there are no subtasks to keep",
                    "give --subtask-open and --subtask-close");
    }
    if (open.find(close) != std::string::npos || close.find(open) != std::string::npos) {
        throw Error(Exit::kUsage, "--subtask-close",
                    "'" + escaped(close) + "' and --subtask-open '" + escaped(open) +
                        "' cannot be told apart",
                    "choose texts of which none holds the other");
    }
    const KvChain chain = KvChain::parse(kv.policy, "--kv-policy");
    if (chain.edits() || chain.of(KvPolicy::kFilter) != nullptr ||
        chain.of(KvPolicy::kBlocks) != nullptr) {
        throw Error(Exit::kUsage, "--kv-policy",
                    "'" + escaped(kv.policy) +
                        "' chooses keys by what was attended to, so subtasks cannot be taken back",
                    "use full or streaming, or no --subtask-open");
    }
}

SubtaskEdit Subtasks::push(std::vector<Token>& text, std::string_view shown,
                           std::string_view name) {
    if (!options_.on()) return {};
    const Place here{text.size() - 1, shown_};
    const Place after{text.size(), shown_ + shown.size()};
    const bool control = shown.empty() && (name == options_.open || name == options_.close);
    const std::string_view piece = control ? name : shown;
    shown_ = after.byte;
    std::vector<Span> leave;
    const auto found = [&](const std::string& marker) { return pending_.ends_with(marker); };
    const auto forget = [&](std::size_t bytes) {
        pending_.erase(0, bytes);
        starts_.erase(starts_.begin(), starts_.begin() + static_cast<std::ptrdiff_t>(bytes));
    };
    for (std::size_t i = 0; i < piece.size(); ++i) {
        pending_ += piece[i];
        starts_.push_back(i == 0 ? here : after);
        if (found(options_.open)) {
            open_.push_back(starts_[pending_.size() - options_.open.size()]);
            forget(pending_.size());
        } else if (found(options_.close)) {
            close(i + 1 == piece.size() ? after : here, leave);
            forget(pending_.size());
        }
        const auto may_begin = [&](std::size_t from) {
            const std::string_view tail = std::string_view(pending_).substr(from);
            return options_.open.starts_with(tail) || options_.close.starts_with(tail);
        };
        std::size_t free = 0;
        while (free < pending_.size() && !may_begin(free)) ++free;
        forget(free);
    }
    return take_out(text, leave);
}

// The subtask begun last ends here; `leave` gets what the buffer has no room for.
void Subtasks::close(Place end, std::vector<Span>& leave) {
    if (open_.empty()) return;
    const Span span{open_.back(), end};
    open_.pop_back();
    if (span.begin.token >= span.end.token) return;  // no token is its own
    while (!buffer_.empty() && buffer_.back().begin.token >= span.begin.token) buffer_.pop_back();
    buffer_.push_back(span);
    if (std::ssize(buffer_) <= options_.buffer) return;
    leave.push_back(buffer_.front());
    buffer_.pop_front();
}

SubtaskEdit Subtasks::take_out(std::vector<Token>& text, const std::vector<Span>& leave) {
    SubtaskEdit edit;
    // One that ended with its outer one is part of that.
    std::vector<Span> apart;
    for (const Span& span : leave) {
        while (!apart.empty() && apart.back().begin.token >= span.begin.token) apart.pop_back();
        apart.push_back(span);
        while (!gone_.empty() && gone_.back().begin >= span.begin.byte) gone_.pop_back();
        if (span.begin.byte < span.end.byte) gone_.push_back({span.begin.byte, span.end.byte});
    }
    edit.spans = std::ssize(leave);
    for (auto span = apart.rbegin(); span != apart.rend(); ++span) {
        const std::size_t first = span->begin.token, end = span->end.token, count = end - first;
        if (end == text.size() && edit.empty()) edit.keeps_last = false;
        edit.first = first;
        edit.tokens += static_cast<std::int64_t>(count);
        text.erase(text.begin() + static_cast<std::ptrdiff_t>(first),
                   text.begin() + static_cast<std::ptrdiff_t>(end));
        const auto move = [&](Place& place) {
            if (place.token >= end) place.token -= count;
        };
        for (Place& place : open_) move(place);
        for (Place& place : starts_) move(place);
        for (Span& other : buffer_) move(other.begin), move(other.end);
    }
    return edit;
}

std::string without(std::string_view answer, const std::vector<TextRange>& gone) {
    std::string out;
    std::size_t from = 0;
    for (const TextRange& range : gone) {
        if (range.begin >= answer.size()) break;
        out += answer.substr(from, range.begin - from);
        from = std::min(range.end, answer.size());
    }
    return out += answer.substr(from);
}

}  // namespace thimble
