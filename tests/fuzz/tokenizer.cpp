// SPDX-License-Identifier: Apache-2.0
// Any bytes as tokenizer.json and its side files: an Error, or a tokenizer that keeps its promises.
// The input is one JSON object of the files by name, with a text to encode.
#include "text/hf.h"
#include "tokenizer_checks.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    try {
        const Json parts = parse_json(input, "fuzz");
        const auto part = [&](const char* key) {
            const Json* value = parts.find(key);
            return value == nullptr ? Json() : *value;
        };
        HfFiles files;
        files.where = "fuzz";
        files.tokenizer = part("tokenizer");
        files.settings = part("settings");
        files.special_map = part("special_map");
        files.config = part("config");
        files.bytes = size;
        const std::unique_ptr<Tokenizer> tokenizer = tokenizer_from_hf(files);
        const Json text = part("text");
        // Not rewritten: a GGUF vocabulary has no key for a prefix before the first word only.
        fuzz::check_tokenizer(*tokenizer, text.is_string() ? text.as_string("text") : "", false);
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
