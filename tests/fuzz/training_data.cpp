// SPDX-License-Identifier: Apache-2.0
// Any bytes as a data file, the first one choosing how it is read: an Error, or rows that hold
// each sample once and say what they hold.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

#include "core/error.h"
#include "text/bpe.h"
#include "train/data/batch_stream.h"

using namespace thimble;
using namespace thimble::train;

namespace {

// Every byte, and the control tokens of a chat.
std::unique_ptr<Tokenizer> byte_tokenizer(bool add_bos) {
    std::vector<std::string> pieces;
    for (int byte = 0; byte < 256; ++byte) {
        const char c = static_cast<char>(static_cast<unsigned char>(byte));
        append_spelled(pieces.emplace_back(), std::string_view(&c, 1));
    }
    std::vector<std::int32_t> kinds(pieces.size(), static_cast<int>(TokenKind::kNormal));
    for (const char* text : {"<s>", "</s>", "<|im_start|>", "<|im_end|>"}) {
        pieces.emplace_back(text);
        kinds.push_back(static_cast<int>(TokenKind::kControl));
    }
    Metadata metadata("fuzz");
    const auto set = [&](const char* key, MetaElements elements) {
        metadata.set(key, std::make_shared<const MetaArray>(MetaArray{std::move(elements), false}));
    };
    metadata.set("tokenizer.ggml.model", std::string("gpt2"));
    metadata.set("tokenizer.ggml.pre", std::string("gpt-2"));
    set("tokenizer.ggml.tokens", std::move(pieces));
    set("tokenizer.ggml.token_type", std::move(kinds));
    set("tokenizer.ggml.merges", std::vector<std::string>{});
    metadata.set("tokenizer.ggml.bos_token_id", std::uint32_t{256});
    metadata.set("tokenizer.ggml.eos_token_id", std::uint32_t{257});
    metadata.set("tokenizer.ggml.add_bos_token", add_bos);
    metadata.set("tokenizer.chat_template", std::string("<|im_start|> <|im_end|>"));
    return tokenizer_from_metadata(metadata);
}

DataOptions options_of(unsigned choice) {
    DataOptions options;
    options.format = choice % 2 == 0 ? "jsonl" : "text";
    options.pack = (choice >> 1) % 3 == 0 ? "bfd" : (choice >> 1) % 3 == 1 ? "ff" : "none";
    options.pack_window = 3;
    options.context_tokens = choice % 5 == 0 ? 2 : 24;
    options.too_long = choice % 7 == 0 ? "truncate" : choice % 7 == 1 ? "drop" : "split";
    options.text_split = choice % 3 == 0 ? "none" : choice % 3 == 1 ? "paragraph" : "line";
    options.mask_prompt = choice % 4 != 3;
    return options;
}

void check(const DataSet& data, const DataOptions& options) {
    BatchStream stream(data, options, {.rows_per_step = 2, .seed = 1});
    std::int64_t tokens = 0, targets = 0, documents = 0;
    TrainingBatch batch;
    while (stream.next(batch)) {
        if (batch.global_rows != std::ssize(batch.rows)) std::abort();
        for (const PackedRow& row : batch.rows) {
            if (std::ssize(row.tokens) > options.context_tokens) std::abort();
            if (row.targets.size() != row.tokens.size()) std::abort();
            std::int64_t sum = 0;
            for (const std::int64_t length : row.document_lengths) {
                sum += length;
                if (row.targets[static_cast<std::size_t>(sum - 1)] != kNoTarget) std::abort();
            }
            if (sum != std::ssize(row.tokens)) std::abort();
            for (const std::int32_t target : row.targets) targets += target != kNoTarget ? 1 : 0;
            tokens += sum;
            documents += std::ssize(row.document_lengths);
        }
    }
    const DataCounts& counts = data.counts();
    if (tokens != counts.tokens || targets != counts.targets || documents != counts.samples)
        std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const int fd = ::memfd_create("data", 0);
    if (fd < 0 || ::write(fd, data + 1, size - 1) != static_cast<ssize_t>(size - 1)) std::abort();
    const DataOptions options = options_of(data[0]);
    const auto tokenizer = byte_tokenizer(data[0] >= 128);
    try {
        const std::vector<std::string> paths = {"/proc/self/fd/" + std::to_string(fd)};
        check(DataSet(options, paths, *tokenizer), options);
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    ::close(fd);
    return 0;
}
