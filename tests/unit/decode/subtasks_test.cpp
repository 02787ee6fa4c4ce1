// SPDX-License-Identifier: Apache-2.0
#include "decode/subtasks.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"

using namespace thimble;

namespace {

using Pieces = std::vector<std::string>;

// What Subtasks leaves after each piece of an answer that follows `prompt` tokens: the piece with
// number i is token i, those of the prompt are below 0.
struct Pruner {
    Pruner(const SubtaskOptions& options, int prompt) : subtasks(options) {
        for (int i = 0; i < prompt; ++i) text.push_back(-1 - i);
    }
    SubtaskEdit push(const std::string& piece) {
        text.push_back(count++);
        shown += piece;
        return subtasks.push(text, piece, {});
    }
    Subtasks subtasks;
    std::vector<Token> text;
    std::string shown;
    Token count = 0;
};

SubtaskOptions marked(std::string open, std::string close, std::int64_t buffer) {
    SubtaskOptions options;
    options.open = std::move(open);
    options.close = std::move(close);
    options.buffer = buffer;
    return options;
}

std::vector<Token> left_of(const Pieces& pieces, const SubtaskOptions& options) {
    Pruner pruner(options, 2);
    for (const std::string& piece : pieces) pruner.push(piece);
    CHECK(pruner.text[0] == -1);
    CHECK(pruner.text[1] == -2);
    return {pruner.text.begin() + 2, pruner.text.end()};
}

// The rule, from the whole text each time: markers are looked for from left to right, a subtask is
// read by recursion, and tokens are struck out of the list of all.
class Reference {
  public:
    Reference(const Pieces& pieces, const SubtaskOptions& options)
        : options_(options), gone_(pieces.size(), false) {
        for (std::size_t i = 0; i < pieces.size(); ++i) {
            for (std::size_t k = 0; k < pieces[i].size(); ++k) {
                first_.push_back(k == 0 ? i : i + 1);
                end_.push_back(k + 1 == pieces[i].size() ? i + 1 : i);
            }
            text_ += pieces[i];
        }
        while (at_ < text_.size()) {
            if (!marker(options_.open)) {
                if (!marker(options_.close)) ++at_;  // which closes nothing
                continue;
            }
            subtask(at_ - options_.open.size());
        }
    }
    [[nodiscard]] std::vector<Token> left() const {
        std::vector<Token> out;
        for (std::size_t i = 0; i < gone_.size(); ++i)
            if (!gone_[i]) out.push_back(static_cast<Token>(i));
        return out;
    }

  private:
    bool marker(const std::string& text) {
        if (text_.compare(at_, text.size(), text) != 0) return false;
        at_ += text.size();
        return true;
    }
    void subtask(std::size_t begin) {
        while (at_ < text_.size()) {
            const std::size_t here = at_;
            if (marker(options_.close)) return ended(first_[begin], end_[at_ - 1]);
            if (marker(options_.open)) {
                subtask(here);
            } else {
                ++at_;
            }
        }
    }
    void ended(std::size_t first, std::size_t end) {
        if (first >= end) return;
        std::erase_if(waiting_, [&](const auto& w) { return w.first >= first; });
        waiting_.emplace_back(first, end);
        if (std::ssize(waiting_) <= options_.buffer) return;
        for (std::size_t i = waiting_.front().first; i < waiting_.front().second; ++i)
            gone_[i] = true;
        waiting_.erase(waiting_.begin());
    }

    SubtaskOptions options_;
    std::string text_;
    std::vector<std::size_t> first_, end_;  // of a subtask that begins or ends with a byte
    std::size_t at_ = 0;
    std::vector<std::pair<std::size_t, std::size_t>> waiting_;
    std::vector<bool> gone_;
};

// A tree of subtasks with stray markers, as text.
std::string random_tree(std::mt19937& random, int depth, const SubtaskOptions& options) {
    std::string out;
    for (auto n = random() % 5; n > 0; --n) {
        const auto kind = random() % 16;
        if (kind < 7 && depth > 0) {
            out += options.open + random_tree(random, depth - 1, options) + options.close;
        } else if (kind == 13) {
            out += options.open;
        } else if (kind == 14) {
            out += options.close;
        } else if (kind == 15) {
            out += options.open.substr(0, options.open.size() - 1);
        } else {
            out += "x\xc3\xa9";
        }
    }
    return out;
}

// Tokens of 0 to 4 bytes, mostly one.
Pieces random_cuts(std::mt19937& random, const std::string& text) {
    Pieces out;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t bytes = random() % 3 > 0 ? 1 : random() % 5;
        out.push_back(text.substr(at, bytes));
        at += bytes;
    }
    return out;
}

}  // namespace

TEST_CASE("subtasks: random trees in random tokens leave what the rule says, after each token") {
    std::mt19937 random(7);
    const std::vector<std::pair<std::string, std::string>> markers{
        {"(", ")"}, {"<s>", "</s>"}, {"aab", "aba"}, {"\xc2\xab", "\xc2\xbb"}, {"xx", "\xc3\xa9!"}};
    std::int64_t gone = 0, nested = 0;
    for (int round = 0; round < 1500; ++round) {
        const auto& [open, close] = markers[static_cast<std::size_t>(round) % markers.size()];
        const SubtaskOptions shape = marked(open, close, 0);
        const Pieces pieces = random_cuts(random, random_tree(random, 3, shape));
        for (const std::int64_t buffer : {0, 1, 2, 1000}) {
            const SubtaskOptions options = marked(open, close, buffer);
            Pruner pruner(options, 3);
            std::int64_t tokens = 0;
            for (std::size_t i = 0; i < pieces.size(); ++i) {
                const std::vector<Token> before = pruner.text;
                const SubtaskEdit edit = pruner.push(pieces[i]);
                const std::vector<Token> left(pruner.text.begin() + 3, pruner.text.end());
                const Pieces so_far(pieces.begin(), pieces.begin() + std::ptrdiff_t(i) + 1);
                REQUIRE(left == Reference(so_far, options).left());
                tokens += edit.tokens;
                if (edit.empty()) continue;
                nested += edit.spans > 1 || edit.tokens > 4;
                REQUIRE(edit.first <= before.size());
                CHECK(std::equal(before.begin(), before.begin() + std::ptrdiff_t(edit.first),
                                 pruner.text.begin()));
                CHECK((edit.first == pruner.text.size() ||
                       pruner.text[edit.first] !=
                           (edit.first < before.size() ? before[edit.first] : pruner.count - 1)));
                CHECK(edit.keeps_last == (pruner.text.back() == pruner.count - 1));
            }
            CHECK(tokens + std::ssize(pruner.text) == std::ssize(pieces) + 3);
            std::string kept;
            for (std::size_t i = 3; i < pruner.text.size(); ++i)
                kept += pieces[static_cast<std::size_t>(pruner.text[i])];
            CHECK(without(pruner.shown, pruner.subtasks.gone()) == kept);
            if (buffer == 1000) CHECK(tokens == 0);
            gone += tokens;
        }
    }
    CHECK(gone > 1000);
    CHECK(nested > 100);
}

TEST_CASE("subtasks: markers over several tokens, and tokens that carry other text") {
    const SubtaskOptions now = marked("<s>", "</s>", 0);
    CHECK(left_of({"a", "<", "s", ">", "b", "</", "s>", "c"}, now) == std::vector<Token>{0, 7});
    CHECK(left_of({"a<", "s", ">", "b", "</", "s>c"}, now) == std::vector<Token>{0, 5});
    CHECK(left_of({"<s>b</s>"}, now).empty());
    CHECK(left_of({"a<s>b</s>c"}, now) == std::vector<Token>{0});
    CHECK(left_of({"</s", "><s>", "b", "</s>"}, now) == std::vector<Token>{0, 1});
    CHECK(left_of({"<", "<s>", "</s", "</s>", ">"}, now) == std::vector<Token>{0, 4});
    CHECK(left_of({"<s>", "\xc3", "\xa9</", "s>\xc3", "\xa9"}, now) == std::vector<Token>{3, 4});
    CHECK(left_of({"<s>", "a", "</s>"}, marked("", "", 0)) == std::vector<Token>{0, 1, 2});
}

TEST_CASE("subtasks: a mark without its fellow is text") {
    const SubtaskOptions now = marked("(", ")", 0);
    CHECK(left_of({")", "a", ")", "(", "b"}, now) == std::vector<Token>{0, 1, 2, 3, 4});
    CHECK(left_of({"(", "(", "a", ")", "b"}, now) == std::vector<Token>{0, 4});
}

TEST_CASE("subtasks: the buffer keeps the last ones, and an outer one takes its inner ones along") {
    const Pieces pieces{"(", "a", ")", "(", "b", ")", "(", "c", ")", "d"};
    CHECK(left_of(pieces, marked("(", ")", 0)) == std::vector<Token>{9});
    CHECK(left_of(pieces, marked("(", ")", 1)) == std::vector<Token>{6, 7, 8, 9});
    CHECK(left_of(pieces, marked("(", ")", 2)) == std::vector<Token>{3, 4, 5, 6, 7, 8, 9});
    // When the outer one ends, its inner one waits no longer.
    CHECK(left_of({"(", "z", ")", "(", "a", "(", "b", ")", "c", ")"}, marked("(", ")", 1)) ==
          std::vector<Token>{3, 4, 5, 6, 7, 8, 9});
    const Pieces two{"(", "z", ")", "(", "(", "a", ")", "(", "b", ")", ")", "d"};
    CHECK(left_of(two, marked("(", ")", 1)) == std::vector<Token>{3, 7, 8, 9, 10, 11});
    CHECK(left_of(two, marked("(", ")", 0)) == std::vector<Token>{11});
}

TEST_CASE("subtasks: control tokens may be markers; of their names nothing else counts") {
    Pruner pruner(marked("<s>", "</s>", 0), 1);
    const auto push = [&](std::string_view shown, std::string_view name) {
        pruner.text.push_back(pruner.count++);
        return pruner.subtasks.push(pruner.text, shown, name).tokens;
    };
    CHECK(push("ab", "ab") == 0);
    CHECK(push("", "<s>") == 0);
    CHECK(push("cd", "cd") == 0);
    CHECK(push("", "x</s>") == 0);
    CHECK(push("", "</s>") == 4);
    CHECK(pruner.text == std::vector<Token>{-1, 0});
    CHECK(without("abcdef", pruner.subtasks.gone()) == "abef");
    CHECK(without("abc", pruner.subtasks.gone()) == "ab");
    CHECK(without("a", pruner.subtasks.gone()) == "a");
}

TEST_CASE("subtasks: options that make no sense are refused") {
    const auto why = [](const SubtaskOptions& options, const std::string& policy) -> std::string {
        KvOptions kv;
        kv.policy = policy;
        try {
            options.check(kv);
        } catch (const Error& e) {
            CHECK(e.exit() == Exit::kUsage);
            return e.what();
        }
        return "";
    };
    CHECK(why(marked("", "", 1), "h2o:budget=8").empty());
    CHECK(why(marked("<s>", "</s>", 0), "full").empty());
    CHECK(why(marked("<s>", "</s>", 9), "streaming:budget=64").empty());
    CHECK(why(marked("<s>", "", 1), "full").find("--subtask-close") != std::string::npos);
    CHECK(why(marked("", "x", 1), "full").find("--subtask-open") != std::string::npos);
    CHECK(why(marked("", "", 2), "full").find("--prune-buffer") != std::string::npos);
    CHECK(why(marked("ab", "cabd", 1), "full").find("told apart") != std::string::npos);
    CHECK(why(marked("ab", "ab", 1), "full").find("told apart") != std::string::npos);
    for (const char* policy : {"snapkv", "h2o:budget=8", "quest", "gemfilter", "snapkv+think"})
        CHECK(why(marked("<s>", "</s>", 1), policy).find("--kv-policy") != std::string::npos);
}
