// SPDX-License-Identifier: Apache-2.0
// How a model's text is scored against the right answers, from 0 to 1: the measures of "SCBench: A
// KV Cache-Centric Analysis of Long-Context Methods" (2024) and one for repeated text.
// differs: letters are compared without case in ASCII only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thimble::eval {

struct Gold {
    std::vector<std::string> answers = {};  // one at least
    // What the text could be taken for instead, the answer among it (kBestMatch only).
    std::vector<std::string> candidates = {};
};

enum class Measure : unsigned char {
    kContains,       // an answer stands in the text
    kContainsUpper,  // the same without case
    kShareFound,     // share of the answers that stand in the text, without case
    kFirstNumber,    // the first number, with or without a decimal point, is the answer
    kFirstDigits,    // the first run of digits is the answer, digit for digit
    kChoice,         // the text begins with the answer's letter (A to D), or names it
    kCharacterF1,    // F1 of characters, without spaces and punctuation; best of the answers
    kRougeLsum,      // ROUGE-Lsum F1 of the first answer
    kBestMatch,      // of all candidates the answer is the most like the text
    kWordsInOrder,   // share of the first answer's words that the text has, in their order
};
[[nodiscard]] double score_answer(Measure measure, const std::string& text, const Gold& gold);
// Bytes of Purpose::kOther that it may hold, for plans.
[[nodiscard]] std::uint64_t answer_scratch_bytes(Measure measure) noexcept;

// ROUGE-Lsum (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 3.2):
// lines are sentences; words are runs of ASCII letters and digits in lower case; for each line of
// the reference the words that its longest common subsequences with the lines of the text cover
// together. F1 of these, no word counted oftener than it stands in either.
[[nodiscard]] double rouge_lsum(std::string_view text, std::string_view reference);
[[nodiscard]] double character_f1(std::string_view text, std::string_view reference);

}  // namespace thimble::eval
