// SPDX-License-Identifier: Apache-2.0
// Made texts, as a tokenizer sees them: their lengths, what stands where, and that the right
// answers follow from the text.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "core/error.h"
#include "eval/synthetic.h"
#include "io/json.h"
#include "text/hf_export.h"

using namespace thimble;
using namespace thimble::eval;

namespace {

// One token a byte; keeps what it was given.
class Recorder final : public Tokenizer {
  public:
    [[nodiscard]] std::vector<Token> encode(std::string_view text,
                                            const EncodeText&) const override {
        seen.emplace_back(text);
        std::vector<Token> out;
        for (const char c : text) out.push_back(static_cast<unsigned char>(c));
        return out;
    }
    [[nodiscard]] std::string piece(Token token, bool) const override {
        return {1, static_cast<char>(token)};
    }
    [[nodiscard]] std::int64_t size() const noexcept override { return 256; }
    [[nodiscard]] Token bos() const noexcept override { return -1; }
    [[nodiscard]] Token eos() const noexcept override { return 0; }
    [[nodiscard]] bool is_end(Token token) const noexcept override { return token == 0; }
    [[nodiscard]] Token find(std::string_view) const noexcept override { return -1; }
    void write_vocabulary(Metadata&) const override {}
    [[nodiscard]] HfTokenizerFiles hf_files(std::int64_t) const override { return {}; }
    [[nodiscard]] const std::string& chat_template() const noexcept override { return none_; }
    mutable std::vector<std::string> seen;

  private:
    std::string none_;
};

struct Asked {
    std::string question, answer;  // the answer of all but the last turn
};
struct Made {
    std::string text;
    std::vector<Asked> turns;
};
struct Opened {
    std::vector<Made> items;
    std::string sha256;
    std::vector<std::string> figures;
    std::int64_t sequence_tokens = 0;
};

// What the task makes, with its turns in one conversation, so that their answers are seen.
Opened open_task(const std::string& spec, std::int64_t limit = 0) {
    Recorder tokenizer;
    ModelSpec model;
    model.context_tokens = 1 << 20;
    model.vocab = 256;
    TaskSetting setting;
    setting.spec = &model;
    setting.tokenizer = &tokenizer;
    setting.samples_limit = limit;
    const auto task = make_task(spec + ",mode=multi-turn", "--task");
    task->open(setting);
    Opened out;
    out.sha256 = task->facts().sha256;
    for (const MetricInfo& metric : task->metrics()) out.figures.push_back(metric.name);
    out.sequence_tokens = task->needs().sequence_tokens;
    // A text is followed by its pieces: "\n\nquestion\nAnswer:", later ones with an answer before.
    // Texts on trial are followed by a question mark only.
    for (const std::string& seen : tokenizer.seen) {
        if (!seen.ends_with("\nAnswer:")) {
            if (!out.items.empty() && out.items.back().turns.empty()) out.items.pop_back();
            out.items.push_back({seen, {}});
            continue;
        }
        const std::size_t at = seen.find("\n\n");
        const std::string question = seen.substr(at + 2, seen.size() - at - 2 - 8);
        if (question == "?") continue;
        Made& item = out.items.back();
        if (!item.turns.empty()) item.turns.back().answer = seen.substr(1, at - 1);
        item.turns.push_back({question, {}});
    }
    while (!out.items.empty() && out.items.back().turns.empty()) out.items.pop_back();
    return out;
}

std::vector<std::string> sentences_of(const std::string& text) {
    std::vector<std::string> out;
    const std::regex sentence("[A-Z][^.]*\\.");
    for (std::sregex_iterator i(text.begin(), text.end(), sentence), end; i != end; ++i)
        out.push_back(i->str());
    return out;
}

}  // namespace

TEST_CASE("made texts: a needle stands at its depth, in a text of the length asked for") {
    const Opened made = open_task("needle:length=700,length=3000,depths=5,count=2,seed=3");
    REQUIRE(made.items.size() == 20);
    std::set<std::string> texts;
    for (std::size_t i = 0; i < made.items.size(); ++i) {
        const std::string& text = made.items[i].text;
        const std::size_t length = i / 5 % 2 == 0 ? 700 : 3000;
        CHECK(text.size() <= length);
        CHECK(text.size() > length - 80);  // a byte is a token here: the longest sentence
        texts.insert(text);
        const auto sentences = sentences_of(text.substr(text.find("\n\n")));
        std::vector<std::size_t> places;
        for (std::size_t s = 0; s < sentences.size(); ++s)
            if (sentences[s].find("pass number") != std::string::npos) places.push_back(s);
        REQUIRE(places.size() == 1);
        CHECK(places[0] == (sentences.size() - 1) * (25 * (i % 5)) / 100);
        const std::string& needle = sentences[places[0]];
        const std::string name = needle.substr(19, needle.find(" is ") - 19);
        CHECK(made.items[i].turns[0].question.find(name) != std::string::npos);
    }
    CHECK(texts.size() == 20);
    CHECK(made.figures == std::vector<std::string>{
                              "score", "length_700", "length_3000", "depth_0", "depth_25",
                              "depth_50", "depth_75", "depth_100", "length_700_depth_0",
                              "length_700_depth_25", "length_700_depth_50", "length_700_depth_75",
                              "length_700_depth_100", "length_3000_depth_0", "length_3000_depth_25",
                              "length_3000_depth_50", "length_3000_depth_75",
                              "length_3000_depth_100"});
}

TEST_CASE("made texts: a seed gives the same texts everywhere, another one other texts") {
    const std::string spec = "needle:length=900,depths=3,count=2,seed=";
    const std::string one = open_task(spec + "1").sha256;
    CHECK(one == open_task(spec + "1").sha256);
    CHECK(one != open_task(spec + "2").sha256);
    // What was made when this was written: a change of words or numbers is a change of the task.
    const std::map<std::string, std::string> known = {
        {"needle:length=900,depths=3,count=2",
         "76de1e5501145fff26adb6c0fc25c5dcbf7d19808b1d0006ebbb689d7bc91d67"},
        {"multi_needle:length=2000,count=2",
         "bcd566b353175a0e75dea6641b7fff142e9e318824b549f184392546b7805bc3"},
        {"kv:length=900,count=2",
         "f47d5638e7a62cdc212b3c152fc4379334abb3df483cc47f42b81f5a79d26de4"},
        {"vt:length=2000,count=2",
         "746f24c46be40fbce2548082553af3599f1f7867e0309c3b5e52ebaf2fa28406"},
        {"many_shot:length=900,count=2",
         "dce767184fa16bb0796bc0dadd7ff703a4fbb5b52b2cc497c2ae9cb742ef268e"},
        {"copy:length=900,count=2",
         "aeccaf37601c6959812863656ada836196f9aadd93560b436f717c4bda974ea7"},
    };
    for (const auto& [task, hash] : known) {
        CAPTURE(task);
        CHECK(open_task(task).sha256 == hash);
    }
}

TEST_CASE("made texts: several needles have names and numbers of their own, each asked for once") {
    const Opened made = open_task("multi_needle:length=4000,count=2,needles=6");
    REQUIRE(made.items.size() == 2);
    for (const Made& item : made.items) {
        std::map<std::string, std::string> numbers;
        for (const std::string& s : sentences_of(item.text)) {
            std::smatch match;
            static const std::regex needle("The pass number of (\\w+) is (\\d{7})\\.");
            if (std::regex_match(s, match, needle)) numbers[match[1].str()] = match[2].str();
        }
        CHECK(numbers.size() == 6);
        REQUIRE(item.turns.size() == 6);
        std::set<std::string> asked;
        for (const Asked& turn : item.turns) {
            const std::string name = turn.question.substr(27, turn.question.find('?') - 27);
            asked.insert(name);
            REQUIRE(numbers.count(name) == 1);
            if (&turn != &item.turns.back()) CHECK(turn.answer == numbers[name]);
        }
        CHECK(asked.size() == 6);
    }
}

TEST_CASE("made texts: values of keys are those of the JSON object") {
    const Opened made = open_task("kv:length=5000,count=2,questions=7");
    for (const Made& item : made.items) {
        const Json object = parse_json(item.text.substr(item.text.find("\n\n{") + 2), "kv");
        CHECK(object.as_members("kv").size() > 150);  // and no key twice, or it would not parse
        REQUIRE(item.turns.size() == 7);
        for (const Asked& turn : item.turns) {
            const std::size_t at = turn.question.find('"') + 1;
            const Json* value = object.find(turn.question.substr(at, 8));
            REQUIRE(value != nullptr);
            if (&turn != &item.turns.back()) CHECK(turn.answer == value->as_string("kv"));
        }
    }
}

TEST_CASE("made texts: variables are those that lead to the number") {
    const Opened made = open_task("vt:length=6000,count=2,chains=3,hops=5");
    for (const Made& item : made.items) {
        std::map<std::string, std::string> number_of;
        static const std::regex assignment("VAR ([A-Z]{5}) = (?:VAR )?(\\w+)\\.");
        for (std::sregex_iterator i(item.text.begin(), item.text.end(), assignment), end; i != end;
             ++i) {
            const std::string from = (*i)[2].str();
            const bool direct = from[0] >= '0' && from[0] <= '9';
            if (!direct) REQUIRE(number_of.count(from) == 1);  // set before it is read
            number_of[(*i)[1].str()] = direct ? from : number_of[from];
        }
        CHECK(number_of.size() == 18);
        REQUIRE(item.turns.size() == 3);
        for (std::size_t t = 0; t + 1 < item.turns.size(); ++t) {
            const std::string& question = item.turns[t].question;
            const std::string number = question.substr(question.find("number ") + 7, 5);
            std::set<std::string> wanted, given;
            for (const auto& [name, value] : number_of)
                if (value == number) wanted.insert(name);
            std::istringstream words(item.turns[t].answer);
            for (std::string word; words >> word;) given.insert(word.substr(0, 5));
            CHECK(wanted.size() == 6);
            CHECK(given == wanted);
        }
    }
}

TEST_CASE("made texts: groups of new sentences follow from the examples") {
    const Opened made = open_task("many_shot:length=20000,count=1,questions=6,groups=3");
    const Made& item = made.items.at(0);
    std::map<std::string, std::string> group_of;
    static const std::regex shot("Sentence: The (\\w+) [^\n]*\nGroup: (\\w+)");
    for (std::sregex_iterator i(item.text.begin(), item.text.end(), shot), end; i != end; ++i) {
        const auto known = group_of.emplace((*i)[1].str(), (*i)[2].str()).first;
        CHECK(known->second == (*i)[2].str());
    }
    CHECK(group_of.size() == 36);
    for (const Asked& turn : item.turns) {
        const std::size_t at = turn.question.find("Sentence: The ") + 14;
        const std::string noun = turn.question.substr(at, turn.question.find(' ', at) - at);
        if (&turn != &item.turns.back()) CHECK(turn.answer == group_of.at(noun));
    }
}

TEST_CASE("made texts: passages to repeat are lines of the text") {
    const Opened made = open_task("copy:length=5000,count=1,questions=4,lines=3");
    const Made& item = made.items.at(0);
    REQUIRE(item.turns.size() == 4);
    for (const Asked& turn : item.turns) {
        if (&turn == &item.turns.back()) continue;
        CHECK(std::count(turn.answer.begin(), turn.answer.end(), '\n') == 2);
        const std::size_t at = item.text.find("\n" + turn.answer);
        CHECK(at != std::string::npos);
        CHECK(turn.question.find(" " + turn.answer.substr(0, turn.answer.find('.')) + " ") !=
              std::string::npos);
    }
}

TEST_CASE("made texts: the first samples cover the grid, and bad lengths are refused") {
    const Opened few = open_task("needle:length=500,length=600,depths=2,count=9", 4);
    REQUIRE(few.items.size() == 4);
    CHECK(few.figures.size() == 1 + 2 + 2 + 4);
    for (const char* bad : {"needle:length=0", "needle:length=x", "needle:length=9,depths=1",
                            "needle:length=500,length=500", "kv:length=60", "needle:lenght=500"}) {
        CAPTURE(bad);
        CHECK_THROWS_AS((void)open_task(bad), Error);
    }
}
