// SPDX-License-Identifier: Apache-2.0
// Any bytes as a GGUF file with a vocabulary: an Error, or a tokenizer that keeps its promises.
#include "core/ledger.h"
#include "memory_model.h"
#include "tokenizer_checks.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const fuzz::MemoryModel file(std::as_bytes(std::span(data, size)));
        const auto held = [] {
            return Ledger::process().current_bytes(Tier::kRam, Purpose::kVocabulary);
        };
        const std::uint64_t before = held();
        const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(file);
        if (held() - before != Tokenizer::predict_bytes(file)) std::abort();
        fuzz::check_tokenizer(*tokenizer, file.metadata().find_string("text").value_or(""), true);
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
