// SPDX-License-Identifier: Apache-2.0
// Any bytes as the samples of each kind of task that reads them, with a tokenizer that takes every
// text: an Error that names the file, or a task that can be planned.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

#include "core/error.h"
#include "eval/task.h"
#include "text/hf_export.h"

using namespace thimble;

namespace {

class ByteTokenizer final : public Tokenizer {
  public:
    [[nodiscard]] std::vector<Token> encode(std::string_view text,
                                            const EncodeText&) const override {
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
    [[nodiscard]] const std::string& chat_template() const noexcept override { return template_; }

  private:
    std::string template_ = "<|im_start|> <|im_end|>";
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const int fd = ::memfd_create("items", 0);
    if (fd < 0 || ::write(fd, data, size) != static_cast<ssize_t>(size)) std::abort();
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    const ByteTokenizer tokenizer;
    ModelSpec model;
    model.vocab = 256;
    const std::string file = ":file=" + path;
    std::vector<std::string> specs = {"hellaswag" + file, "choice" + file, "generate" + file};
    for (const char* kind : {"kv", "vt", "choice_eng", "mf", "repoqa", "repoqa_and_kv"})
        specs.push_back("scbench" + file + ",kind=" + kind + ",mode=multi-turn");
    for (const std::string& spec : specs) {
        try {
            // The caps of SCBench's answers need a longer one.
            model.context_tokens = spec.starts_with("scbench") ? 2048 : 64;
            eval::TaskSetting setting;
            setting.spec = &model;
            setting.tokenizer = &tokenizer;
            const auto task = eval::make_task(spec, "fuzz");
            task->open(setting);
            Plan plan;
            task->add_to_plan(plan);
            if (task->samples() < 1 || task->needs().sequence_tokens < 1) std::abort();
            if (task->needs().sequence_tokens > model.context_tokens) std::abort();
        } catch (const Error& e) {
            if (e.exit() != Exit::kBadData && e.exit() != Exit::kUsage) std::abort();
        }
    }
    ::close(fd);
    return 0;
}
