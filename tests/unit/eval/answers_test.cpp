// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "eval/answers.h"

using namespace thimble::eval;

namespace {

double score(Measure measure, const std::string& text, std::vector<std::string> answers) {
    return score_answer(measure, text, {std::move(answers)});
}

}  // namespace

TEST_CASE("answers: ROUGE-Lsum is that of the rouge_score package 0.1.2, without its stemmer") {
    CHECK(rouge_lsum("the cat sat on the mat", "the cat lay on a mat") ==
          doctest::Approx(0.6666666666666666));
    CHECK(rouge_lsum("police killed the gunman\nthe gunman was shot",
                     "police kill the gunman\ngunman the shot police") == doctest::Approx(0.625));
    CHECK(rouge_lsum("A b c d.\nE f g h!", "a c e g\nb d f h") == doctest::Approx(1.0));
    CHECK(rouge_lsum("", "one two") == 0);
    CHECK(rouge_lsum("Stra\u00dfe 12 is long", "strasse 12 was long") ==
          doctest::Approx(0.4444444444444445));
    CHECK(rouge_lsum("x x x y", "x y x") == doctest::Approx(0.5714285714285715));
    // The example of the 2004 paper: the lines of the text cover w1 w2 w3 w5 of the reference.
    CHECK(rouge_lsum("w1 w2 w3 w4 w5", "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5") ==
          doctest::Approx(0.5333333333333333));
}

TEST_CASE("answers: character F1 ignores spaces, case and punctuation of both scripts") {
    // Shared: 2 of 4 characters of the text and of 3 of the reference.
    CHECK(character_f1("北京 大学", "北，京！城") ==
          doctest::Approx(2 * 0.5 * (2.0 / 3) / (0.5 + 2.0 / 3)));
    CHECK(character_f1("A。b", "aB") == 1);
    CHECK(character_f1("aab", "ab") == doctest::Approx(0.8));  // no character counts twice
    CHECK(character_f1("", "ab") == 0);
    CHECK(score(Measure::kCharacterF1, "ab", {"xy", "abc"}) == doctest::Approx(0.8));
}

TEST_CASE("answers: containment, with and without case, and the share that is found") {
    CHECK(score(Measure::kContains, "It is 41a9.", {"41a9"}) == 1);
    CHECK(score(Measure::kContains, "It is 41A9.", {"41a9"}) == 0);
    CHECK(score(Measure::kContainsUpper, "it was PARIS.", {"Rome", "Paris"}) == 1);
    CHECK(score(Measure::kContainsUpper, "it was Par is.", {"Rome", "Paris"}) == 0);
    CHECK(score(Measure::kShareFound, "ABC, then def", {"ABC", "DEF", "GHI", "JKL"}) == 0.5);
}

TEST_CASE("answers: numbers are the first of the text") {
    CHECK(score(Measure::kFirstNumber, "The median is 3.5, not 4", {"3.5"}) == 1);
    CHECK(score(Measure::kFirstNumber, "3.7 or so", {"3"}) == 1);  // a whole answer: its whole part
    CHECK(score(Measure::kFirstNumber, "4. Then 3", {"3"}) == 0);
    CHECK(score(Measure::kFirstNumber, "none", {"3"}) == 0);
    CHECK(score(Measure::kFirstDigits, "key 00721.", {"00721"}) == 1);
    CHECK(score(Measure::kFirstDigits, "key 721", {"00721"}) == 0);
    CHECK(score(Measure::kFirstDigits, "1 00721", {"00721"}) == 0);
}

TEST_CASE("answers: a choice is the first letter, or the one that the answer names") {
    const auto chosen = [](const std::string& text) {
        return score(Measure::kChoice, text, {"B"});
    };
    CHECK(chosen("B. the river") == 1);
    CHECK(chosen(" B") == 1);
    CHECK(chosen("C, not B") == 0);
    CHECK(chosen("the correct answer is: B") == 1);
    CHECK(chosen("The Answer is \"B\".") == 1);
    CHECK(chosen("the answer is C. B is wrong") == 0);
    CHECK(chosen("I would take (B) here") == 1);
    CHECK(chosen("I would take D or B") == 0);
    CHECK(chosen("") == 0);
    CHECK(chosen("nobody knows") == 0);
}

TEST_CASE("answers: a function is right when no other is more like the text") {
    const std::string add = "def add(a, b):\n    return a + b";
    const std::string sub = "def sub(a, b):\n    return a - b";
    const Gold gold{{add}, {add, sub}};
    CHECK(score_answer(Measure::kBestMatch, "Here:\n```python\n" + add + "\n```\nDone.", gold) ==
          1);
    CHECK(score_answer(Measure::kBestMatch, "```\n" + sub + "\n```", gold) == 0);
    CHECK(score_answer(Measure::kBestMatch, "def add(a, b): return", gold) == 1);
    CHECK(score_answer(Measure::kBestMatch, "return", gold) == 0);  // as like the other one
    CHECK(score_answer(Measure::kBestMatch, "", gold) == 0);
}

TEST_CASE("answers: a copy counts by its words in order") {
    CHECK(score(Measure::kWordsInOrder, "x a b c d y", {"a b c d"}) == 1);
    CHECK(score(Measure::kWordsInOrder, "a c b", {"a b c d"}) == 0.5);
    CHECK(score(Measure::kWordsInOrder, "", {"a b"}) == 0);
    std::string most;
    for (int i = 0; i < 5000; ++i) most += "w ";
    CHECK(score(Measure::kWordsInOrder, most, {most}) == 1);  // cut, and bounded
}
