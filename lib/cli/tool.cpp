// SPDX-License-Identifier: Apache-2.0
#include "cli/tool.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <new>

#include "cli/console.h"
#include "cli/describe.h"
#include "cli/report.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/strings.h"
#include "io/atomic_file.h"

namespace thimble::cli {
namespace {

// The input files that a value "name:key=value,..." names.
std::vector<std::string> inline_files(const OptionInfo& info, std::string_view value) {
    std::vector<std::string> files;
    const std::size_t colon = value.find(':');
    if (info.inline_forms == nullptr || colon == std::string_view::npos) return files;
    for (const InlineForm& form : info.inline_forms()) {
        if (form.name != value.substr(0, colon)) continue;
        for (const InlineOption& option : split_inline_options(value.substr(colon + 1))) {
            for (const OptionRecord& record : form.options) {
                if (record.info.is_input && option.key == record.info.name && option.value != "-")
                    files.push_back(option.value);
            }
        }
    }
    return files;
}

// What a command tells about itself instead of running.
struct AboutOptions {
    std::string config;
    bool print_config = false, print_schema = false, list = false, help = false, version = false;
    void visit(OptionVisitor& v) {
        v.group("About");
        v.option({.name = "config", .help = "YAML file of options; flags beat it", .value = "FILE"},
                 config);
        v.option({.name = "print-config",
                  .help = "print every option's value and where it comes from, as YAML"},
                 print_config);
        v.option({.name = "print-schema", .help = "print the JSON Schema of the options"},
                 print_schema);
        v.option({.name = "list", .help = "list the names that options take"}, list);
        v.option({.name = "help", .letter = 'h', .help = "print this text"}, help);
        v.option({.name = "version", .help = "print the version"}, version);
    }
};

std::string without_slash(std::string path) {
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    return path;
}

Visitable visitable(auto& options) {
    return [&options](OptionVisitor& v) { options.visit(v); };
}

// One command with its own and the common options.
class Invocation {
  public:
    Invocation(const ToolInfo& tool, std::span<const Command> commands, Console& console)
        : tool_(tool), commands_(commands), console_(console) {}

    int run(std::vector<std::string> arguments) {
        settings_ = [this](OptionVisitor& v) {
            if (command_->options) command_->options(v);
            v.group("General options");
            common_.visit(v);
        };
        if (!choose(arguments)) return 0;
        refuse_clashes();
        const std::vector<std::string> words = command_names();
        const std::vector<OptionRecord> all = list_options(with_about());
        std::vector<GivenOption> given = parse_arguments(all, std::move(arguments), words);
        take_about(given);
        if (about_.help || about_.version || about_.print_schema || about_.list) {
            describe(all);
            return 0;
        }
        apply_sources(given);
        console_.configure(common_);
        if (about_.print_config) {
            console_.out(config_text(list_options(settings_), sources_));
            return 0;
        }
        check_required(settings_, sources_);
        refuse_clashing_files();
        return work();
    }

  private:
    // False when the tool has described itself and nothing is left to do.
    bool choose(std::vector<std::string>& arguments) {
        const auto named = [&](std::string_view name) {
            return std::find_if(commands_.begin(), commands_.end(),
                                [&](const Command& c) { return c.name == name; });
        };
        const std::string first = arguments.empty() ? "" : arguments.front();
        auto found = first.empty() ? commands_.end() : named(first);
        if (found != commands_.end()) {
            arguments.erase(arguments.begin());
        } else {
            found = flagged(arguments);
        }
        if (found == commands_.end()) found = named("");
        if (found != commands_.end()) {
            command_ = &*found;
            return true;
        }
        return describe_tool(first);
    }

    // The command whose flag stands among the arguments, which is taken out.
    std::span<const Command>::iterator flagged(std::vector<std::string>& arguments) const {
        for (auto command = commands_.begin(); command != commands_.end(); ++command) {
            if (command->flag.empty()) continue;
            if (take_value(command->flag, arguments)) return command;
            const auto at = std::find(arguments.begin(), arguments.end(), command->flag);
            if (at != arguments.end()) {
                arguments.erase(at);
                return command;
            }
            const auto with_value = std::find_if(
                arguments.begin(), arguments.end(),
                [&](const std::string& word) { return word.starts_with(command->flag + "="); });
            if (with_value == arguments.end()) continue;
            with_value->erase(0, command->flag.size() + 1);
            return command;
        }
        return commands_.end();
    }

    // Takes out "--method value" or "--method=value", a flag with the value that names a command.
    static bool take_value(const std::string& flag, std::vector<std::string>& arguments) {
        const std::size_t space = flag.find(' ');
        if (space == std::string::npos) return false;
        const std::string name = flag.substr(0, space), value = flag.substr(space + 1);
        for (auto at = arguments.begin(); at != arguments.end(); ++at) {
            const bool apart = *at == name && at + 1 != arguments.end() && *(at + 1) == value;
            if (!apart && *at != name + "=" + value) continue;
            arguments.erase(at, at + (apart ? 2 : 1));
            return true;
        }
        return false;
    }

    bool describe_tool(const std::string& first) {
        if (first == "--help" || first == "-h") {
            console_.out(help_text(tool_, commands_));
        } else if (first == "--version") {
            console_.out(version_line());
        } else if (first == "--print-schema") {
            Json all = Json::object();
            for (const Command& command : commands_) {
                command_ = &command;
                all.set(command.name, schema());
            }
            console_.out(all.dump(2) + "\n");
        } else {
            const std::vector<std::string> names = command_names();
            std::string known;
            for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
            const std::string hint = did_you_mean(first, names);
            throw Error(Exit::kUsage, first.empty() ? "" : "'" + escaped(first) + "'",
                        "the first argument must be a command: " + known,
                        hint.empty() ? "see --help" : hint);
        }
        return false;
    }

    [[nodiscard]] std::vector<std::string> command_names() const {
        std::vector<std::string> names;
        for (const Command& command : commands_)
            if (!command.name.empty()) names.push_back(command.name);
        return names;
    }
    [[nodiscard]] Visitable with_about() {
        return [this](OptionVisitor& v) {
            settings_(v);
            about_.visit(v);
        };
    }
    [[nodiscard]] std::string version_line() const {
        return tool_.name + " (thimble) " + std::string(version()) + "\n";
    }

    void refuse_clashes() {
        std::vector<std::string> seen;
        for (const OptionRecord& record : list_options(with_about())) {
            std::vector<std::string> names = {std::string("--") + record.info.name};
            if (record.info.letter != 0) names.push_back(std::string("-") + record.info.letter);
            for (std::string& name : names) {
                if (std::find(seen.begin(), seen.end(), name) != seen.end())
                    throw Error(Exit::kFailure, name, "is declared by two options");
                seen.push_back(std::move(name));
            }
        }
    }

    void take_about(std::vector<GivenOption>& given) {
        const Visitable about = visitable(about_);
        std::vector<GivenOption> rest;
        const std::vector<OptionRecord> records = list_options(about);
        for (GivenOption& option : given) {
            const bool mine = std::any_of(records.begin(), records.end(), [&](const auto& r) {
                return option.name == r.info.name;
            });
            if (mine) {
                set_option(about, option.name, option.values, "--" + option.name);
            } else {
                rest.push_back(std::move(option));
            }
        }
        given = std::move(rest);
    }

    [[nodiscard]] Json schema() {
        Json schema = option_schema(tool_, *command_, list_options(settings_));
        if (!command_->name.empty()) return schema;
        Json names = Json::array();
        for (const std::string& name : command_names()) names.push(name);
        schema.set("x-commands", names);
        return schema;
    }

    void describe(std::span<const OptionRecord> all) {
        if (about_.help) {
            console_.out(help_text(tool_, commands_, *command_, all));
        } else if (about_.version) {
            console_.out(version_line());
        } else if (about_.print_schema) {
            console_.out(schema().dump(2) + "\n");
        } else {
            console_.out(command_->list ? list_text(command_->list()) : std::string{});
        }
    }

    void apply_sources(std::span<const GivenOption> given) {
        std::vector<std::string> variables;
        for (const Command& command : commands_) {
            const Visitable options = command.name == command_->name ? settings_ : command.options;
            for (const OptionRecord& record : list_options(options))
                variables.push_back(environment_name(tool_.name, record.info.name));
        }
        const std::string config_variable = environment_name(tool_.name, "config");
        variables.push_back(config_variable);
        apply_environment(tool_.name, settings_, variables, environ, sources_);
        if (about_.config.empty()) {
            const char* from_environment = std::getenv(config_variable.c_str());
            if (from_environment != nullptr) about_.config = from_environment;
        }
        if (!about_.config.empty())
            apply_config(read_yaml_file(about_.config), about_.config, settings_, sources_);
        apply_flags(given, settings_, sources_);
    }

    // No output, the report included, may be an input, a file of an input directory or another
    // output.
    void refuse_clashing_files() {
        std::vector<std::string> taken, outputs;
        if (!about_.config.empty()) taken.push_back(about_.config);
        for (const OptionRecord& record : list_options(settings_)) {
            for (const std::string& path : record.values) {
                if (path.empty() || path == "-") continue;
                if (record.info.is_output) outputs.push_back(path);
                for (std::string& file : inline_files(record.info, path))
                    taken.push_back(std::move(file));
                if (!record.info.is_input) continue;
                taken.push_back(path);
                std::error_code none;
                for (const auto& entry : std::filesystem::directory_iterator(path, none))
                    taken.push_back(entry.path().string());
            }
        }
        for (const std::string& output : outputs) {
            refuse_overwriting_inputs(output, taken);
            if (std::count(outputs.begin(), outputs.end(), output) > 1)
                throw Error(Exit::kUsage, escaped(output), "is given as two outputs",
                            "choose another name for one of them");
        }
    }

    // Before long work, not after it.
    void check_outputs() {
        for (const OptionRecord& record : list_options(settings_)) {
            if (!record.info.is_output) continue;
            // What is called PATH may be a directory: the command itself looks at it.
            const bool may_be_directory = record.info.value == std::string_view("PATH");
            for (const std::string& path : record.values) {
                if (path.empty() || path == "-") continue;
                if (may_be_directory && std::filesystem::is_directory(path)) continue;
                check_can_create(without_slash(path));
            }
        }
    }

    int work() {
        const Isa isa = parse_isa(common_.cpu_isa, "--cpu-isa");
        const Budget budget = Budget::parse(common_.max_memory, "--max-memory");
        if (common_.device == "cuda" && !command_->on_cuda)
            throw Error(Exit::kUsage, "--device", "this works on the CPU only", "--device cpu");
        plan_ = command_->plan ? command_->plan(common_) : Plan{};
        plan_.at(Tier::kRam, Purpose::kBaseline) += tool_.baseline_bytes;
        if (common_.dry_run && !command_->runs_dry) {
            if (common_.json != "-") console_.out(plan_text(plan_, budget));
            Json json = envelope(isa);
            json.set("plan", plan_json(plan_, budget));
            write_report(json);
            check_budget(plan_, budget);
            return 0;
        }
        check_budget(plan_, budget);
        check_outputs();
        Ledger::process().set_budget(budget);
        const Charge baseline(Tier::kRam, Purpose::kBaseline, tool_.baseline_bytes);
        Team team(threads());
        Context context{common_, team, isa, device_named(common_.device), console_};
        return run_and_report(context, budget);
    }

    int run_and_report(Context& context, const Budget& budget) {
        const auto start = std::chrono::steady_clock::now();
        const auto report = [&](int code, const Error* error) {
            Json json = envelope(context.isa);
            for (const auto& [key, value] : context.report.as_members("report"))
                json.set(key, value);
            if (command_->plan) json.set("plan", plan_json(plan_, budget));
            json.set("measured", measured_json());
            const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
            json.set("wall_seconds", wall.count());
            json.set("exit", code);
            if (error != nullptr) {
                Json what = Json::object();
                what.set("where", error->where());
                what.set("what", error->problem());
                what.set("hint", error->hint());
                json.set("error", what);
            }
            write_report(json);
        };
        try {
            command_->run(context);
        } catch (const Error& error) {
            try {
                report(static_cast<int>(error.exit()), &error);
            } catch (const Error& second) {
                console_.error(second.what());
            }
            throw;
        }
        if (command_->plan && !common_.quiet) console_.err(memory_text(plan_));
        const int signal = seen_signal();
        const int code = signal == 0 ? 0 : 128 + signal;
        report(code, nullptr);
        return code;
    }

    [[nodiscard]] int threads() const {
        if (common_.threads > 0) return static_cast<int>(common_.threads);
        return tool_.threads > 0 ? tool_.threads : default_threads();
    }

    [[nodiscard]] Json envelope(Isa isa) {
        Json json = Json::object();
        json.set("schema", "thimble.report/1");
        json.set("tool", tool_.name);
        json.set("command", command_->name);
        json.set("version", version());
        json.set("date", utc_now());
        json.set("machine", machine_json());
        json.set("isa", name(isa));
        json.set("threads", threads());
        json.set("options", option_values(list_options(settings_)));
        return json;
    }

    void write_report(const Json& json) {
        if (common_.json.empty()) return;
        const std::string text = json.dump(2) + "\n";
        if (common_.json == "-") {
            console_.out(text);
        } else {
            write_text_file(common_.json, text, IfExists::kReplace);
        }
    }

    const ToolInfo& tool_;
    std::span<const Command> commands_;
    Console& console_;
    const Command* command_ = nullptr;
    CommonOptions common_;
    AboutOptions about_;
    Visitable settings_;
    Sources sources_;
    Plan plan_;
};

}  // namespace

void CommonOptions::visit(OptionVisitor& v) {
    v.option({.name = "max-memory",
              .help = "budget; refuse (77) what would not fit: ram=4GiB,vram=8GiB,disk=20GB",
              .value = "TIER=BYTES,...",
              .changes_output = false},
             max_memory);
    v.option({.name = "threads",
              .letter = 't',
              .help = "worker threads; 0: as many as this process may use",
              .changes_output = false,
              .least = 0,
              .most = 1024},
             threads);
    v.option({.name = "device",
              .help = "cpu, cuda, or ref: everything in double precision, slow",
              .choices = {"cpu", "cuda", "ref"}},
             device);
    v.option({.name = "cpu-isa",
              .help = "instruction set",
              .choices = {"auto", "portable", "avx2", "avx512"}},
             cpu_isa);
    v.option({.name = "seed", .letter = 's', .help = "seed of everything random"}, seed);
    v.option({.name = "json",
              .help = "write the report as JSON; - for stdout",
              .value = "FILE",
              .changes_output = false,
              .is_output = true},
             json);
    v.option({.name = "progress",
              .help = "progress on stderr",
              .changes_output = false,
              .choices = {"auto", "none", "jsonl"}},
             progress);
    v.option({.name = "dry-run",
              .help = "print the plan (memory, output size, time) and stop",
              .changes_output = false},
             dry_run);
    v.option({.name = "quiet",
              .letter = 'q',
              .help = "warnings and progress only on stderr",
              .changes_output = false},
             quiet);
    v.option({.name = "verbose",
              .letter = 'v',
              .help = "debug notes on stderr",
              .changes_output = false},
             verbose);
}

std::string_view version() { return THIMBLE_VERSION; }

int run_tool(const ToolInfo& info, std::vector<Command> commands, int argc, char** argv) {
    Console console(info.name);
    const auto fail = [&](Exit exit, std::string line) {
        if (info.failing) info.failing(line);
        console.error(line);
        return static_cast<int>(exit);
    };
    try {
        std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
        return Invocation(info, commands, console).run(std::move(arguments));
    } catch (const OutputClosed&) {
        end_by_sigpipe();
    } catch (const Error& e) {
        return fail(e.exit(), e.what());
    } catch (const std::bad_alloc&) {
        return fail(Exit::kFailure, "out of memory (see --dry-run for what is needed)");
    } catch (const std::filesystem::filesystem_error& e) {
        return fail(Exit::kIo, escaped(e.what(), 300));
    } catch (const std::exception& e) {
        return fail(Exit::kFailure, escaped(e.what(), 300));
    }
}

}  // namespace thimble::cli
