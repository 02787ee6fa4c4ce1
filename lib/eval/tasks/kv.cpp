// SPDX-License-Identifier: Apache-2.0
// Key-value retrieval: a JSON object of random strings fills the text, and the values of some of
// its keys are asked for: nothing but the key tells where to look.
#include <cstdio>

#include "eval/synthetic.h"

namespace thimble::eval {
namespace {

std::string hex(std::uint64_t value) {
    char text[16];
    std::snprintf(text, sizeof(text), "%08llx", static_cast<unsigned long long>(value));
    return text;
}

struct Kv {
    static constexpr const char* kName = "kv";
    static constexpr const char* kHelp = "values of keys of a JSON object of random strings";
    struct Options {
        SyntheticOptions all;
        std::int64_t questions = 5;
        void visit(OptionVisitor& v) {
            all.visit(v);
            v.option(
                {.name = "questions", .help = "keys that are asked for", .least = 1, .most = 101},
                questions);
        }
    };
    static std::int64_t depths(const Options&) { return 1; }

    // Different for different entries: steps by an odd number, scrambled by ones that can be
    // undone.
    static std::string key(const Draws& draws, std::int64_t entry) {
        auto x = static_cast<std::uint32_t>(
            draws.below(Draws::Purpose::kChoice, 0, std::uint64_t{1} << 32) +
            static_cast<std::uint64_t>(entry) * 0x9e3779b1u);
        x = (x ^ (x >> 16)) * 0x85ebca6bu;
        x = (x ^ (x >> 13)) * 0xc2b2ae35u;
        return hex(x ^ (x >> 16));
    }
    static std::string value(const Draws& draws, std::int64_t entry) {
        return hex(draws.below(Draws::Purpose::kValue, entry, std::uint64_t{1} << 32));
    }

    static ContextItem make(const Options& options, const SyntheticCase& one) {
        const auto text = [&](std::int64_t entries) {
            std::string out = "The JSON object below has keys and values.\n\n{";
            for (std::int64_t i = 0; i < entries; ++i) {
                out += (i == 0 ? "\"" : ",\n\"") + key(one.draws, i) + "\": \"" +
                       value(one.draws, i) + "\"";
            }
            return out + "}";
        };
        const std::int64_t entries =
            fit_parts(text, one.count, one.length, options.questions, one.where);
        ContextItem item;
        item.text = text(entries);
        for (const std::int64_t n : one.draws.order(0, options.questions)) {
            const std::int64_t depth = depth_of(n, options.questions);
            const std::int64_t entry = place_of(depth, entries - 1);
            item.turns.push_back({.question = "What is the value of the key \"" +
                                              key(one.draws, entry) +
                                              "\"? Answer with the value only.",
                                  .gold = {{value(one.draws, entry)}},
                                  .most_tokens = 32,
                                  .depth = depth});
        }
        return item;
    }
};

}  // namespace

std::unique_ptr<TaskType> make_kv_task();
std::unique_ptr<TaskType> make_kv_task() { return make_synthetic_task_type<Kv>(); }

}  // namespace thimble::eval
