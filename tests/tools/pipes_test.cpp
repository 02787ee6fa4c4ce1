// SPDX-License-Identifier: Apache-2.0
// The tools in shell pipelines, over tiny models: readers that leave, stdin that is closed, JSON
// and JSON lines through jq.
#include <doctest/doctest.h>

#include <algorithm>

#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Shell {
    TemporaryDirectory directory;

    Shell() {
        write_tiny_model(directory.file("model.gguf"), "llama-tied", "f16");
        directory.write("text.txt",
                        "word number one, word number two, and so on to the end of it\n");
    }
    // In the directory, with the tools by their names; a pipeline fails as its first failing part.
    [[nodiscard]] ProcessResult operator()(const std::string& line) const {
        const std::string tool = tool_path("run");
        const std::string bin = tool.substr(0, tool.rfind('/'));
        return run_process({"/bin/bash", "-o", "pipefail", "-c", "PATH=" + bin + ":$PATH; " + line},
                           {.directory = directory.path()});
    }
};

}  // namespace

TEST_CASE("pipes: a reader that leaves ends run quietly") {
    const Shell shell;
    const ProcessResult r = shell("run -q -m model.gguf -p 'some words' -n 40 | head -c 3");
    CAPTURE(r.err);
    CHECK(r.out.size() == 3);
    CHECK((r.exit == 0 || r.exit == 141));  // SIGPIPE, as cat and seq end
    CHECK(r.err.empty());
}

TEST_CASE("pipes: closed stdin, and a prompt through it") {
    const Shell shell;
    const ProcessResult closed = shell("run -q -m model.gguf -p 'some words' -n 4 <&-");
    CHECK_MESSAGE(closed.exit == 0, closed.err);
    const ProcessResult piped = shell("printf 'some words' | run -q -m model.gguf -f - -n 4");
    CHECK_MESSAGE(piped.exit == 0, piped.err);
    CHECK(piped.out == closed.out);
    // Where it is read, a closed stdin is an empty one.
    for (const char* tool : {"run -q -m model.gguf -f - -n 4", "evaluate -q -m model.gguf -f -"}) {
        const ProcessResult none = shell(std::string(tool) + " <&-"),
                            empty = shell(std::string(tool) + " </dev/null");
        CHECK(none.exit == empty.exit);
        CHECK(none.out == empty.out);
        CHECK(none.err == empty.err);
    }
}

TEST_CASE("pipes: JSON lines and reports are what jq reads") {
    const Shell shell;
    const auto passes = [&](const std::string& line) {
        const ProcessResult r = shell(line);
        CHECK_MESSAGE(r.exit == 0, line, ": ", r.err);
        return r.out;
    };
    const std::string names =
        passes("quantize -q -m model.gguf -o q.gguf --format q8_0 --error-report - | jq -er .name");
    CHECK(names.find("blk.0.attn_q.weight\n") != std::string::npos);
    const std::string tensors =
        passes("quantize inspect q.gguf -q --json - | jq -e '.tensors | length'");
    CHECK(std::stol(tensors) == std::count(names.begin(), names.end(), '\n'));
    CHECK(passes("run -m model.gguf -p word -n 4 --json - 2>/dev/null | jq -er .tool") == "run\n");
    passes(
        "evaluate -q -m q.gguf --reference model.gguf -f text.txt -c 16 -o r.json "
        "--samples s.jsonl >/dev/null && jq -es 'length > 1' s.jsonl >/dev/null");
    CHECK(passes("jq -e '.divergence.kld_mean.value >= 0' r.json") == "true\n");
    CHECK(passes("evaluate report r.json --json - -q | jq -er .tool") == "evaluate\n");
    passes(
        "evaluate -m q.gguf -f text.txt -c 16 -q --progress jsonl 2>&1 >/dev/null | jq -e .event");
}
