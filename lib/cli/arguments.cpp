// SPDX-License-Identifier: Apache-2.0
#include "cli/arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/strings.h"

namespace thimble::cli {
namespace {

std::vector<std::string> aliases(const OptionRecord& record) {
    return *record.info.also == 0 ? std::vector<std::string>{} : split(record.info.also, ',');
}

// CLI11 knows one-letter and long flags only: "-ctk" becomes "--ctk" where ctk is an alias.
void widen_short_aliases(std::span<const OptionRecord> records,
                         std::vector<std::string>& arguments) {
    std::vector<std::string> known;
    for (const OptionRecord& record : records)
        for (std::string& alias : aliases(record)) known.push_back(std::move(alias));
    for (std::string& argument : arguments) {
        if (argument == "--") return;
        if (argument.size() < 3 || argument[0] != '-' || argument[1] == '-') continue;
        const std::string word = argument.substr(1, argument.find('=') - 1);
        if (std::find(known.begin(), known.end(), word) != known.end()) argument.insert(0, "-");
    }
}

CLI::Option* declare(CLI::App& app, const OptionRecord& record) {
    const OptionInfo& info = record.info;
    std::string names = std::string("--") + info.name;
    if (info.letter != 0) names += std::string(",-") + info.letter;
    for (const std::string& alias : aliases(record)) names += ",--" + alias;
    if (record.type == OptionType::kBool) {
        if (record.values.front() == "true") names += std::string(",!--no-") + info.name;
        return app.add_flag(names)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    }
    if (info.positional) names += std::string(",") + info.name;
    CLI::Option* option = app.add_option(names);
    // A positional list takes every word that is left; a flag only the one after it.
    option->allow_extra_args(info.positional && record.type == OptionType::kList);
    if (record.type == OptionType::kList) {
        option->expected(1, CLI::detail::expected_max_vector_size)
            ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    } else {
        option->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    }
    return option;
}

[[noreturn]] void refuse(const std::string& argument, std::span<const OptionRecord> records,
                         std::span<const std::string> words) {
    if (argument.size() < 2 || argument[0] != '-') {
        throw Error(Exit::kUsage, "'" + escaped(argument) + "'", "unexpected argument",
                    did_you_mean(argument, words));
    }
    std::vector<std::string> names;
    for (const OptionRecord& record : records) {
        names.push_back(std::string("--") + record.info.name);
        for (const std::string& alias : aliases(record)) names.push_back("--" + alias);
    }
    const std::string word = argument.substr(0, argument.find('='));
    throw Error(Exit::kUsage, escaped(word), "unknown option",
                word.size() < 3 ? "see --help" : did_you_mean(word, names));
}

}  // namespace

std::vector<GivenOption> parse_arguments(std::span<const OptionRecord> records,
                                         std::vector<std::string> arguments,
                                         std::span<const std::string> words) {
    CLI::App app;
    app.set_help_flag();
    app.allow_extras();
    std::vector<GivenOption> given;
    try {
        std::vector<CLI::Option*> options;
        for (const OptionRecord& record : records) options.push_back(declare(app, record));
        widen_short_aliases(records, arguments);
        std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them last first
        app.parse(std::move(arguments));
        std::vector<std::string> rest = app.remaining();
        std::erase(rest, "--");
        if (!rest.empty()) refuse(rest.front(), records, words);
        for (std::size_t i = 0; i < records.size(); ++i) {
            if (options[i]->count() == 0) continue;
            std::vector<std::string> values = options[i]->results();
            if (records[i].type != OptionType::kList) values = {values.back()};
            given.push_back({records[i].info.name, std::move(values)});
        }
    } catch (const CLI::ArgumentMismatch& e) {  // "--name: ..."
        const std::string text = e.what();
        throw Error(Exit::kUsage, escaped(text.substr(0, text.find(':'))), "needs a value",
                    "see --help");
    } catch (const CLI::Error& e) {
        throw Error(Exit::kUsage, "", escaped(e.what(), 200), "see --help");
    }
    return given;
}

}  // namespace thimble::cli
