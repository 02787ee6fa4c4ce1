// SPDX-License-Identifier: Apache-2.0
#include "calib/hf_side_files.h"

#include <filesystem>

#include "model/hf_export.h"

namespace thimble {

HfSideFiles::HfSideFiles(const ModelSource& source, TensorType dtype, const Tokenizer* tokenizer) {
    Json config = hf_config(source, dtype);
    const ModelFile& file = source.file();
    if (tokenizer == nullptr && file.container() == Container::kGguf) {
        has_tokenizer_ = file.metadata().find("tokenizer.ggml.model") != nullptr;
        if (has_tokenizer_) {
            opened_ = Tokenizer::open(file);
            vocabulary_bytes_ = Tokenizer::predict_bytes(file);
            tokenizer = opened_.get();
        }
    } else if (tokenizer == nullptr && std::filesystem::is_directory(file.path())) {
        files_ = side_files_of(file.path());
        std::erase_if(files_, [](const SideFile& side) { return side.name == "config.json"; });
    }
    if (tokenizer != nullptr) add_tokenizer(source, *tokenizer, config);
    files_.insert(files_.begin(), side_file("config.json", config.dump(2) + "\n"));
}

void HfSideFiles::add_tokenizer(const ModelSource& source, const Tokenizer& tokenizer,
                                Json& config) {
    tokenizer_files_ = tokenizer.hf_files(source.spec().context_tokens);
    vocabulary_bytes_ += tokenizer_files_.held->bytes();
    Json generation = Json::object();
    generation.set("_from_model_config", true);
    for (const auto& [key, id] : tokenizer_files_.token_ids) {
        config.set(key, id);
        generation.set(key, id);
    }
    if (tokenizer_files_.end_ids.size() > 1) {
        JsonArray ends(tokenizer_files_.end_ids.begin(), tokenizer_files_.end_ids.end());
        generation.set("eos_token_id", std::move(ends));
    }
    files_.push_back(side_file("generation_config.json", generation.dump(2) + "\n"));
    for (SideFile& side : tokenizer_files_.files) files_.push_back(std::move(side));
}

}  // namespace thimble
