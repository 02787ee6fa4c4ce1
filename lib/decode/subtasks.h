// SPDX-License-Identifier: Apache-2.0
// Finished subtasks leave the cache while an answer goes on: "Beyond Context Limits: Subconscious
// Threads for Long-Horizon Reasoning" (2025). The model writes a marker where a subtask begins and
// another where it ends, nested as it likes, and what later parts need outside of them. A subtask
// that ends waits in a buffer of a few; when there are more, the earliest one's tokens go. What
// follows it is read again as if it had never been there, so places in the context are used again
// and an answer may be longer than the context.
// differs: two texts mark subtasks, where the paper decodes JSON under a grammar and prunes lists
// of subtasks; so any model that was told of the markers will do, one trained to them does better.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "core/options.h"
#include "kv/engine.h"
#include "text/tokenizer.h"

namespace thimble {

struct SubtaskOptions {
    std::string open, close;  // empty: nothing is pruned
    std::int64_t buffer = 1;  // finished subtasks that stay; 0: none
    void visit(OptionVisitor& v);

    [[nodiscard]] bool on() const noexcept { return !open.empty(); }
    // Error(kUsage) for markers that cannot be told apart, and for a KV policy that chooses keys by
    // what was attended to: what read a subtask's keys would have chosen otherwise without them.
    void check(const KvOptions& kv) const;
};

// What has left a text.
struct SubtaskEdit {
    std::size_t first = 0;    // place of the first token that left: those before are as they were
    std::int64_t spans = 0;   // subtasks
    std::int64_t tokens = 0;  // theirs, but for those of inner subtasks that had left before
    bool keeps_last = true;   // the token last given is not among them
    [[nodiscard]] bool empty() const noexcept { return tokens == 0; }
};

// Finds subtasks in the tokens of an answer. A subtask is all tokens that lie wholly between the
// first byte of its opening marker and the last of its closing one, both included: a token that
// carries other text, too, stays. The texts of markers may be spread over tokens in any way, or be
// the names of control tokens. A closing marker belongs to the last opening one that has none;
// without one it is text.
class Subtasks {
  public:
    explicit Subtasks(const SubtaskOptions& options) : options_(options) {}

    // `text` has got one more token, the answer's next: as it is shown, and a control token's name,
    // which is not. Takes subtasks out of `text` that have to go now.
    SubtaskEdit push(std::vector<Token>& text, std::string_view shown, std::string_view name);

    // Of the answer as it is shown: what belongs to tokens that have gone, ascending.
    [[nodiscard]] const std::vector<TextRange>& gone() const noexcept { return gone_; }

  private:
    struct Place {
        std::size_t token = 0, byte = 0;  // in the text that is left; in the answer as shown
    };
    struct Span {
        Place begin, end;
    };
    void close(Place end, std::vector<Span>& leave);
    SubtaskEdit take_out(std::vector<Token>& text, const std::vector<Span>& leave);

    SubtaskOptions options_;
    std::string pending_;       // bytes that may begin a marker
    std::deque<Place> starts_;  // where a subtask begins whose marker begins with each of them
    std::vector<Place> open_;   // subtasks that have not ended
    std::deque<Span> buffer_;   // those that have, in the order of the text, none in another
    std::size_t shown_ = 0;     // bytes of the answer so far
    std::vector<TextRange> gone_;
};

// The answer without what has gone.
[[nodiscard]] std::string without(std::string_view answer, const std::vector<TextRange>& gone);

}  // namespace thimble
