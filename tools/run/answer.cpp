// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <iostream>

#include "cli/console.h"
#include "core/log.h"
#include "pipeline.h"

namespace thimble::run {
namespace {

std::string summary(const GenerateStats& s) {
    char text[256];
    std::snprintf(
        text, sizeof(text),
        "prompt: %lld tokens (%lld in the cache), %.1f tokens/s; first token after %.3f s",
        static_cast<long long>(s.prompt_tokens), static_cast<long long>(s.cached_tokens),
        s.prompt_tokens_per_second(), s.first_token_seconds);
    return text;
}

std::string decode_summary(const GenerateStats& s) {
    char text[256];
    const double megabytes = s.decode_steps > 0 ? static_cast<double>(s.decode_bytes) / 1e6 /
                                                      static_cast<double>(s.decode_steps)
                                                : 0;
    std::snprintf(text, sizeof(text),
                  "generated: %lld tokens, %.1f tokens/s; %.1f MB per token, %.2f GB/s; ended by: ",
                  static_cast<long long>(s.generated_tokens), s.decode_tokens_per_second(),
                  megabytes, s.decode_bytes_per_second() / 1e9);
    return text + std::string(name(s.reason));
}

std::string subtask_summary(const GenerateStats& s) {
    char text[256];
    std::snprintf(text, sizeof(text),
                  "subtasks: %lld left the cache with %lld tokens, %lld tokens were read again in "
                  "%.3f s; %lld tokens in the cache at most",
                  static_cast<long long>(s.pruned_subtasks),
                  static_cast<long long>(s.pruned_tokens), static_cast<long long>(s.reread_tokens),
                  s.reread_seconds, static_cast<long long>(s.most_held_tokens));
    return text;
}

}  // namespace

Json stats_json(const GenerateStats& s) {
    Json json = Json::object();
    json.set("prompt_tokens", s.prompt_tokens);
    json.set("cached_tokens", s.cached_tokens);
    json.set("generated_tokens", s.generated_tokens);
    json.set("prompt_seconds", s.prompt_seconds);
    json.set("prompt_tokens_per_second", s.prompt_tokens_per_second());
    json.set("first_token_seconds", s.first_token_seconds);
    json.set("decode_steps", s.decode_steps);
    json.set("decode_seconds", s.decode_seconds);
    json.set("decode_tokens_per_second", s.decode_tokens_per_second());
    json.set("decode_bytes", s.decode_bytes);
    json.set("decode_bytes_per_second", s.decode_bytes_per_second());
    json.set("most_held_tokens", s.most_held_tokens);
    json.set("pruned_subtasks", s.pruned_subtasks);
    json.set("pruned_tokens", s.pruned_tokens);
    json.set("reread_tokens", s.reread_tokens);
    json.set("reread_seconds", s.reread_seconds);
    json.set("ended_by", name(s.reason));
    return json;
}

std::string answer(cli::Context& context, Session& session, std::span<const Token> prompt,
                   bool end_line, GenerateStats& stats) {
    std::string text;
    const bool show = !context.stdout_is_json();
    GenerateHooks hooks;
    hooks.text = [&](std::string_view piece) {
        text += piece;
        if (show) context.print(piece);
    };
    hooks.interrupted = [&] { return context.interrupted(); };
    stats = session.generate(prompt, hooks);
    if (show && end_line && !text.ends_with('\n')) context.print("\n");
    log_info(summary(stats));
    log_info(decode_summary(stats));
    if (stats.pruned_subtasks > 0) log_info(subtask_summary(stats));
    return text;
}

void answer_together(cli::Context& context, Runner& runner, const Tokenizer& tokenizer,
                     std::span<const Token> prompt, const RunOptions& options) {
    Workers workers(runner, tokenizer, options.generate, options.workers,
                    static_cast<std::uint64_t>(context.common.seed));
    const auto start = std::chrono::steady_clock::now();
    const auto results = workers.generate(prompt, [&] { return context.interrupted(); });
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    Json list = Json::array();
    std::string text;
    std::int64_t tokens = 0;
    for (std::size_t i = 0; i < results.size(); ++i) {
        text += "Worker " + std::to_string(i + 1) + ": " + results[i].text + "\n\n";
        tokens += results[i].tokens;
        Json one = Json::object();
        one.set("text", results[i].text);
        one.set("tokens", results[i].tokens);
        one.set("ended", results[i].ended);
        list.push(one);
    }
    context.report.set("workers", list);
    context.report.set("seconds", seconds);
    if (!context.stdout_is_json()) context.print(text);
    log_info(std::to_string(results.size()) + " workers wrote " + std::to_string(tokens) +
             " tokens in " + std::to_string(seconds) + " s, the prompt included");
}

void converse(cli::Context& context, Session& session, const Tokenizer& tokenizer,
              const RunOptions& options, SizeControl& size) {
    std::vector<ChatMessage> messages;
    const auto clear = [&] {
        messages.clear();
        if (!options.system.empty()) messages.push_back({"system", options.system});
    };
    clear();
    const bool terminal = isatty(0) == 1;
    Json turns = Json::array();
    for (std::string line; !context.interrupted();) {
        if (terminal) context.console.err("> ");
        if (!std::getline(std::cin, line) || line == "/exit") break;
        if (line == "/clear") {
            clear();
            continue;
        }
        if (line.empty() || size.take(line)) continue;
        messages.push_back({"user", options.repeat.apply(line)});
        const std::vector<Token> prompt =
            encode_chat(tokenizer, options.chat_template, messages, true);
        GenerateStats stats;
        const std::string text = answer(context, session, prompt, true, stats);
        // What has left the cache does not come back with the next turn.
        messages.push_back({"assistant", without(text, stats.pruned_text)});
        Json turn = stats_json(stats);
        turn.set("user", line);
        turn.set("text", text);
        if (Json now = size.state(); now.is_object()) turn.set("size", std::move(now));
        if (options.generate.subtasks.on()) turn.set("kept_text", messages.back().content);
        turns.push(turn);
    }
    context.report.set("turns", turns);
}

}  // namespace thimble::run
