// SPDX-License-Identifier: Apache-2.0
// A tool for tests of what all tools share: copies a text, changed a little, as a model tool would.
#include <string>
#include <thread>
#include <vector>

#include "cli/tool.h"
#include "core/error.h"
#include "core/log.h"
#include "io/file.h"
#include "tensor/buffer.h"
#include "tests/support/process.h"

using namespace thimble;

namespace {

constexpr std::uint64_t kBaselineBytes = 1 << 20;

// What each copy ends with: "file:from=FILE,but=FILE" or "word:text=TEXT".
struct EndOptions {
    std::string from, but, text;
    void visit(OptionVisitor& v) {
        v.option({.name = "from", .help = "file to append", .is_input = true}, from);
        v.option({.name = "but", .help = "unless this file is empty", .is_input = true}, but);
        v.option({.name = "text", .help = "text to append"}, text);
    }
};

std::vector<InlineForm> end_forms() {
    EndOptions options;
    const auto all = list_options([&](OptionVisitor& v) { options.visit(v); });
    return {{"file", {all[0], all[1]}}, {"word", {all[2]}}};
}

std::string end_of(const std::string& value) {
    EndOptions options;
    const std::size_t colon = value.find(':');
    if (colon != std::string::npos)
        parse_inline_options(
            value.substr(colon + 1), [&](OptionVisitor& v) { options.visit(v); }, "--end");
    if (!options.but.empty() && read_text_file(options.but, 1 << 20).empty()) return {};
    return options.from.empty() ? options.text : read_text_file(options.from, 1 << 20);
}

struct CopyOptions {
    std::string input, output;
    std::string format = "plain";
    std::int64_t repeat = 1, hold_bytes = 0, wait_ms = 0;
    double scale = 0.5;
    bool newline = true, shout = false;
    std::vector<std::string> rules, ends;
    std::string cache_type;
    void visit(OptionVisitor& v) {
        v.group("Input and output");
        v.option({.name = "input",
                  .letter = 'i',
                  .help = "text to copy",
                  .value = "FILE",
                  .is_input = true,
                  .positional = true},
                 input);
        v.option({.name = "output",
                  .letter = 'o',
                  .help = "where to",
                  .value = "FILE",
                  .is_output = true,
                  .positional = true},
                 output);
        v.group("");
        v.option({.name = "format", .help = "form", .choices = {"plain", "upper"}}, format);
        v.option({.name = "repeat", .letter = 'n', .help = "times", .least = 0, .most = 1e6},
                 repeat);
        v.option({.name = "scale", .help = "a number", .least = 0}, scale);
        v.option({.name = "newline", .help = "end each copy with a newline"}, newline);
        v.option({.name = "shout", .help = "add exclamation marks"}, shout);
        v.option({.name = "rule", .help = "shown in the output", .value = "RE=TYPE"}, rules);
        v.option({.name = "end",
                  .help = "what each copy ends with",
                  .value = "NAME:KEY=VALUE,...",
                  .inline_forms = end_forms},
                 ends);
        v.option({.name = "cache-type-k", .help = "an alias users know", .also = "ctk"},
                 cache_type);
        v.option({.name = "hold", .help = "bytes to allocate", .changes_output = false},
                 hold_bytes);
        v.option({.name = "wait", .help = "milliseconds between copies", .changes_output = false},
                 wait_ms);
    }
};

Plan plan(const CopyOptions& o) {
    Plan p;
    p.at(Tier::kRam, Purpose::kOther) =
        Buffer::charged_bytes(static_cast<std::size_t>(o.hold_bytes));
    p.notes.push_back("everything sits in ram");
    p.cheapest_change = "--hold 0 saves it";
    return p;
}

void copy(const CopyOptions& o, cli::Context& context) {
    const Buffer held(static_cast<std::size_t>(o.hold_bytes), Purpose::kOther);
    std::string text = o.input.empty() ? "text" : read_text_file(o.input, 1 << 20);
    if (o.format == "upper") {
        for (char& c : text) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
    }
    for (const std::string& rule : o.rules) text += " " + rule;
    for (const std::string& end : o.ends) text += end_of(end);
    text += o.cache_type;
    if (o.shout) text += "!";
    if (o.newline) text += "\n";
    std::string all;
    std::int64_t done = 0;
    log_info("starting");
    for (; done < o.repeat && !context.interrupted(); ++done) {
        all += text;
        if (!context.stdout_is_json()) context.print(text);
        context.progress("copying", done + 1, o.repeat, 2, "copies/s");
        std::this_thread::sleep_for(std::chrono::milliseconds(o.wait_ms));
    }
    if (!o.output.empty()) test::write_file(o.output, all);
    context.report.set("copies", done);
}

struct FailOptions {
    std::int64_t code = 1;
    void visit(OptionVisitor& v) {
        v.option({.name = "code", .help = "exit code", .required = true, .positional = true}, code);
    }
};

}  // namespace

int main(int argc, char** argv) {
    CopyOptions copy_options;
    FailOptions fail_options;
    const auto fail = [&](cli::Context& context) {
        context.report.set("progress", "half");
        throw Error(static_cast<Exit>(fail_options.code), "file.bin", "is odd", "make it even");
    };
    return cli::run_tool({.name = "toy",
                          .summary = "copies a text",
                          .epilog = "Examples:\n  toy in.txt out.txt --format upper\n",
                          .baseline_bytes = kBaselineBytes},
                         {{.name = "",
                           .help = "copies a text",
                           .options = [&](OptionVisitor& v) { copy_options.visit(v); },
                           .plan = [&](const cli::CommonOptions&) { return plan(copy_options); },
                           .run = [&](cli::Context& c) { copy(copy_options, c); },
                           .list =
                               [] {
                                   Json formats = Json::array();
                                   formats.push("plain");
                                   formats.push("upper");
                                   Json names = Json::object();
                                   names.set("formats", formats);
                                   return names;
                               }},
                          {.name = "fail",
                           .help = "fails with a code",
                           .options = [&](OptionVisitor& v) { fail_options.visit(v); },
                           .run = fail}},
                         argc, argv);
}
