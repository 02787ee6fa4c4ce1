// SPDX-License-Identifier: Apache-2.0
// run --subtask-open: what a user sees of subtasks that leave the cache. The model is not trained,
// so the markers are letters that it happens to write.
#include <doctest/doctest.h>

#include <algorithm>

#include "io/json.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Setting {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf"), report = directory.file("report.json");

    Setting() { write_tiny_model(model, "llama-tied"); }
    ProcessResult run(std::vector<std::string> more, const std::string& input = "") const {
        std::vector<std::string> command{
            tool_path("run"), "-m", model,    "--ignore-eos", "-q", "--temp", "1.5",
            "--top-k",        "3",  "--json", report};
        command.insert(command.end(), more.begin(), more.end());
        ProcessOptions options;
        options.input = input;
        return run_process(command, options);
    }
    Json result(std::vector<std::string> more, const std::string& input = "") const {
        const ProcessResult r = run(std::move(more), input);
        REQUIRE_MESSAGE(r.exit == 0, r.err);
        return read_json_file(report);
    }
};

std::string text_of(const Json& json, const char* key) {
    REQUIRE(json.find(key) != nullptr);
    return json.find(key)->as_string(key);
}
std::int64_t count_of(const Json& json, const char* key) { return json.find(key)->as_int(key); }

// What is left of a text of one token per character, `pruned` subtasks gone; the last token is not
// looked at.
std::string left_of(const std::string& text, char open, char close, std::int64_t buffer,
                    std::int64_t& pruned) {
    std::vector<std::size_t> begun;
    std::vector<std::pair<std::size_t, std::size_t>> ended;
    std::string out = text;
    for (std::size_t i = 0; i + 1 < text.size(); ++i) {
        if (text[i] == open) begun.push_back(i);
        if (text[i] != close || begun.empty()) continue;
        std::erase_if(ended, [&](const auto& pair) { return pair.first > begun.back(); });
        ended.emplace_back(begun.back(), i);
        begun.pop_back();
        if (std::ssize(ended) <= buffer) continue;
        for (std::size_t k = ended[0].first; k <= ended[0].second; ++k) out[k] = '\0';
        ended.erase(ended.begin());
        ++pruned;
    }
    std::erase(out, '\0');
    return out;
}

// The letters that would end most subtasks of a text; of none if there are none.
std::vector<std::string> markers(const std::string& text, std::int64_t buffer) {
    std::vector<std::string> best;
    std::int64_t most = 0;
    for (const char open : text) {
        for (const char close : text) {
            if (open == close || open <= ' ' || close <= ' ') continue;
            std::int64_t pruned = 0;
            (void)left_of(text, open, close, 0, pruned);
            if (pruned <= most) continue;
            most = pruned;
            best = {"--subtask-open", {open},           "--subtask-close",
                    {close},          "--prune-buffer", std::to_string(buffer)};
        }
    }
    return best;
}

std::vector<std::string> join(std::vector<std::string> a, const std::vector<std::string>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

// Options with a seed and markers for which a subtask leaves the first answer, and no token of it
// is without text.
std::vector<std::string> pruning(const Setting& s, const std::vector<std::string>& base,
                                 const std::string& input = "") {
    const auto answer = [&](const std::vector<std::string>& options) {
        const Json json = s.result(options, input);
        return json.find("turns") == nullptr ? json : json.find("turns")->as_array("turns")[0];
    };
    for (int seed = 1; seed < 100; ++seed) {
        const auto seeded = join(base, {"--seed", std::to_string(seed)});
        const auto marked = join(seeded, markers(text_of(answer(seeded), "text"), 0));
        const Json json = answer(marked);
        const Json& stats = json.find("stats") == nullptr ? json : *json.find("stats");
        const auto tokens = static_cast<std::size_t>(count_of(stats, "generated_tokens"));
        if (text_of(json, "text").size() == tokens && count_of(stats, "pruned_tokens") > 0)
            return marked;
    }
    FAIL("no seed prunes");
    return {};
}

}  // namespace

TEST_CASE("subtasks: run shows the whole text, and the cache holds what is left of it") {
    const Setting s;
    const std::vector<std::string> base{"-p", "hello", "-n", "60", "-c", "256"};
    const std::string plain = text_of(s.result(base), "text");
    std::int64_t all_pruned = 0;
    for (const std::int64_t buffer : {0, 1, 2, 1000}) {
        const std::string dump = s.directory.file("kept.json");
        const auto marked = markers(plain, buffer);
        REQUIRE(!marked.empty());
        const Json json = s.result(join(join(base, marked), {"--kv-dump", dump}));
        const std::string text = text_of(json, "text"), kept = text_of(json, "kept_text");
        std::int64_t pruned = 0;
        CHECK(kept == left_of(text, marked[1][0], marked[3][0], buffer, pruned));
        all_pruned += pruned;
        const Json& stats = *json.find("stats");
        CHECK(count_of(stats, "pruned_subtasks") == pruned);
        CHECK(count_of(stats, "generated_tokens") == 60);
        // The last token chosen is not in the cache.
        const auto held = std::ssize(read_json_file(dump).find("tokens")->as_array(dump));
        CHECK(held == count_of(stats, "prompt_tokens") + 60 - 1 - count_of(stats, "pruned_tokens"));
        CHECK(count_of(stats, "most_held_tokens") >= held);
        if (buffer < 1000) continue;
        CHECK(text == plain);
        CHECK(kept == plain);
    }
    CHECK(all_pruned > 2);
}

TEST_CASE("subtasks: run goes on past the context while subtasks leave, in the memory planned") {
    const Setting s;
    const std::vector<std::string> base{"-p", "hello", "-n", "150", "-c", "40"};
    const Json plain = s.result(base);
    CHECK(text_of(*plain.find("stats"), "ended_by") == "context full");
    const Json json = s.result(join(base, markers(text_of(plain, "text"), 0)));
    const Json& stats = *json.find("stats");
    CHECK(count_of(stats, "generated_tokens") > count_of(*plain.find("stats"), "generated_tokens"));
    CHECK(count_of(stats, "most_held_tokens") <= 40);
    CHECK(count_of(stats, "pruned_tokens") > 0);
    CHECK(count_of(json, "kv_bytes") <= count_of(plain, "kv_bytes"));
}

TEST_CASE("subtasks: a conversation goes on from what is left of its answers") {
    const Setting s;
    const std::string input = "hi\nmore\n";
    const auto marked = pruning(s, {"-i", "--chat", "-n", "40", "-c", "400"}, input);
    const auto turns = s.result(marked, input).find("turns")->as_array("turns");
    REQUIRE(turns.size() == 2);
    const std::string text = text_of(turns[0], "text"), kept = text_of(turns[0], "kept_text");
    CHECK(text.size() > kept.size());
    // What is left of the answer, but for its last token, is found again; the rest does not come
    // back.
    CHECK(count_of(turns[1], "cached_tokens") ==
          count_of(turns[0], "prompt_tokens") + std::ssize(kept) - 1);
    // The second prompt is longer than the first by what is left and the marks of the template.
    const auto marks = [&](const std::vector<Json>& both, const char* answer) {
        return count_of(both[1], "prompt_tokens") - count_of(both[0], "prompt_tokens") -
               std::ssize(text_of(both[0], answer));
    };
    const std::vector<std::string> plain{"-i", "--chat", "-n", "40", "-c", "400"};
    CHECK(marks(turns, "kept_text") ==
          marks(s.result(plain, input).find("turns")->as_array("turns"), "text"));
}

TEST_CASE("subtasks: what is left can be saved, and goes on as if it had been the prompt") {
    const Setting s;
    const std::string cache = s.directory.file("cache.safetensors"), prompt = "hello";
    const auto marked = pruning(s, {"-c", "256", "-n", "40", "-p", prompt});
    const Json saved = s.result(join(marked, {"--kv-save", cache}));
    std::string kept = text_of(saved, "kept_text");
    kept.pop_back();  // the last token is not fed
    const std::string next = "bcd";
    const std::vector<std::string> same(marked.begin() + 6, marked.end());
    const auto goes_on = [&](const std::vector<std::string>& from) {
        return s.result(join(join({"-n", "50", "-c", "256"}, same), from));
    };
    const Json loaded = goes_on({"-p", prompt + kept + next, "--kv-load", cache});
    const Json fresh = goes_on({"-p", prompt + kept + next});
    CHECK(text_of(loaded, "text") == text_of(fresh, "text"));
    CHECK(text_of(loaded, "kept_text") == text_of(fresh, "kept_text"));
    CHECK(count_of(*loaded.find("stats"), "cached_tokens") ==
          count_of(*fresh.find("stats"), "prompt_tokens") - std::ssize(next));
}

TEST_CASE("subtasks: what makes no sense is refused in one line") {
    const Setting s;
    const auto refused = [&](std::vector<std::string> more, const std::string& why) {
        more.insert(more.begin(), {"-p", "hello", "-n", "4"});
        const ProcessResult r = s.run(more);
        CHECK(r.exit == 2);
        CHECK_MESSAGE(r.err.find(why) != std::string::npos, r.err);
        CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
        CHECK(r.out.empty());
    };
    const std::vector<std::string> marked{"--subtask-open", "(", "--subtask-close", ")"};
    const auto with = [&](std::vector<std::string> more) {
        more.insert(more.begin(), marked.begin(), marked.end());
        return more;
    };
    refused({"--subtask-open", "("}, "--subtask-close");
    refused({"--subtask-close", ")"}, "--subtask-open");
    refused({"--subtask-open", "<a>", "--subtask-close", "<a>"}, "told apart");
    refused({"--prune-buffer", "3"}, "no subtasks");
    refused(with({"--prune-buffer", "-1"}), "--prune-buffer");
    refused(with({"--workers", "2"}), "--workers");
    refused(with({"--kv-policy", "h2o:budget=8"}), "h2o:budget=8");
    refused(with({"--kv-policy", "quest"}), "use full or streaming");
    refused(with({"--kv-policy", "gemfilter"}), "use full or streaming");
    refused(with({"--kv-policy", "snapvk"}), "snapkv");
    CHECK(s.run(with({"-p", "hello", "-n", "4", "--kv-policy", "streaming:budget=16"})).exit == 0);
}
