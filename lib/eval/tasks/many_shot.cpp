// SPDX-License-Identifier: Apache-2.0
// Many-shot classification: the text is a long list of sentences with the names of their groups,
// made-up words that stand for what the sentence is about; new sentences are to be classified.
#include <array>

#include "eval/synthetic.h"

namespace thimble::eval {
namespace {

constexpr std::int64_t kMostGroups = 4;
constexpr std::size_t kNouns = 12;
constexpr std::array<std::array<const char*, kNouns>, kMostGroups> kSubjects = {{
    {"otter", "falcon", "rabbit", "salmon", "badger", "pigeon", "lizard", "donkey", "spider",
     "beaver", "turtle", "weasel"},
    {"pancake", "cheese", "soup", "apple", "noodle", "bread", "honey", "pudding", "sausage",
     "cherry", "biscuit", "omelette"},
    {"hammer", "saw", "wrench", "drill", "chisel", "shovel", "pliers", "axe", "screwdriver",
     "crowbar", "rake", "sickle"},
    {"scarf", "jacket", "sandal", "glove", "trousers", "shirt", "bonnet", "stocking", "apron",
     "sweater", "skirt", "cloak"},
}};
constexpr std::array<const char*, 8> kGroupNames = {"dax",     "wug",  "fep",    "zorp",
                                                    "blicket", "tupa", "morvin", "kesh"};
constexpr std::array<const char*, 8> kScenes = {
    "was seen behind the old barn", "was mentioned in the letter", "appeared in the picture",
    "was left near the gate",       "was the talk of the village", "came up in the story",
    "was drawn on the wall",        "lay in the morning sun"};

struct ManyShot {
    static constexpr const char* kName = "many_shot";
    static constexpr const char* kHelp =
        "groups of new sentences, by the many examples that the text gives";
    struct Options {
        SyntheticOptions all;
        std::int64_t questions = 5, groups = kMostGroups;
        void visit(OptionVisitor& v) {
            all.visit(v);
            v.option(
                {.name = "questions", .help = "sentences to classify", .least = 1, .most = 1000},
                questions);
            v.option({.name = "groups",
                      .help = "groups that sentences belong to",
                      .least = 2,
                      .most = kMostGroups},
                     groups);
        }
    };
    static std::int64_t depths(const Options&) { return 1; }

    struct Example {
        std::string sentence, group;
    };
    static Example example(const Options& options, const Draws& draws, std::int64_t n) {
        const auto bits = draws.below(Draws::Purpose::kFiller, n, std::uint64_t{1} << 32);
        const std::uint64_t group = bits % static_cast<std::uint64_t>(options.groups);
        const auto names = draws.order(0, std::ssize(kGroupNames));
        return {std::string("The ") + kSubjects[group][(bits >> 8) % kNouns] + " " +
                    kScenes[(bits >> 16) % kScenes.size()] + ".",
                kGroupNames[static_cast<std::size_t>(names[group])]};
    }

    static ContextItem make(const Options& options, const SyntheticCase& one) {
        const auto text = [&](std::int64_t examples) {
            std::string out = "Each sentence below belongs to a group.";
            for (std::int64_t n = 0; n < examples; ++n) {
                const Example e = example(options, one.draws, options.questions + n);
                out += "\n\nSentence: " + e.sentence + "\nGroup: " + e.group;
            }
            return out;
        };
        ContextItem item;
        item.text = text(fit_parts(text, one.count, one.length, options.groups, one.where));
        for (std::int64_t n = 0; n < options.questions; ++n) {
            const Example e = example(options, one.draws, n);
            item.turns.push_back({.question = "Which group does this sentence belong to? Answer "
                                              "with the group's name only.\nSentence: " +
                                              e.sentence,
                                  .gold = {{e.group}},
                                  .measure = Measure::kContainsUpper,
                                  .most_tokens = 10});
        }
        return item;
    }
};

}  // namespace

std::unique_ptr<TaskType> make_many_shot_task();
std::unique_ptr<TaskType> make_many_shot_task() { return make_synthetic_task_type<ManyShot>(); }

}  // namespace thimble::eval
