// SPDX-License-Identifier: Apache-2.0
// The option visitor: each option struct has `void visit(OptionVisitor&)`, the single source of its
// flags, YAML keys, defaults, help, schema, provenance and test sweeps.
//
//   struct StreamingOptions {
//       std::int64_t sink = 4;
//       void visit(OptionVisitor& v) { v.option({"sink", 0, "first tokens that are always kept"},
//       sink); }
//   };
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

struct InlineForm;

struct OptionInfo {
    const char* name;  // long name, kebab-case: flag --name and YAML key
    char letter = 0;   // short flag or 0
    const char* help = "";
    const char* value = "";      // placeholder in --help: FILE, N, RE=TYPE
    bool changes_output = true;  // recorded as provenance and part of cache keys
    bool required = false;
    std::vector<std::string> choices = {};  // empty: anything
    double least = -1e300, most = 1e300;    // bounds for numbers
    bool is_input = false;   // names an input file or directory (hashed in cache keys)
    bool is_output = false;  // names an output file
    // Comma-separated aliases that users know; "ctk" is accepted as --ctk and as -ctk.
    const char* also = "";
    bool positional = false;  // may be given without its flag
    // What "name:key=value,..." can be, for an option whose value has that form; null: none.
    std::vector<InlineForm> (*inline_forms)() = nullptr;
};

class OptionVisitor {
  public:
    virtual ~OptionVisitor() = default;
    virtual void option(const OptionInfo& info, bool& value) = 0;
    virtual void option(const OptionInfo& info, std::int64_t& value) = 0;
    virtual void option(const OptionInfo& info, double& value) = 0;
    virtual void option(const OptionInfo& info, std::string& value) = 0;
    virtual void option(const OptionInfo& info,
                        std::vector<std::string>& value) = 0;  // repeatable flag, YAML list
    virtual void group(std::string_view heading) = 0;          // heading in --help for what follows
};

// Type-erased reference to an option struct, for interfaces that cannot be templates.
using Visitable = std::function<void(OptionVisitor&)>;

enum class OptionType : std::uint8_t { kBool, kInt, kDouble, kString, kList };

// One visited option as data: what help, schemas, configuration sources and cache keys work with.
struct OptionRecord {
    OptionInfo info;
    OptionType type = OptionType::kString;
    std::string group;                // heading it stands under; may be empty
    std::vector<std::string> values;  // canonical text of the current value: one, or a list's items
};
[[nodiscard]] std::vector<OptionRecord> list_options(const Visitable& options);

// A name that options can follow, "name:key=value,...".
struct InlineForm {
    std::string name;
    std::vector<OptionRecord> options;
};

// Sets the option called `name` from text, with type, bounds and choices checked; a list takes all
// of `texts`, the others exactly one. Error(kUsage) naming `where`.
void set_option(const Visitable& options, std::string_view name, std::span<const std::string> texts,
                std::string_view where);

// Parses "key=value,key=value" (the inline form after `name:`) into what `options` visits. A comma
// or backslash inside a value is written with a backslash before it, a bool's "=true" may be left
// out, and a list's key may be repeated. Unknown key, bad value or duplicate: Error(kUsage) naming
// `where`.
void parse_inline_options(std::string_view text, const Visitable& options, std::string_view where);
// "key=value,key=value" in the order given, escapes undone; and its text again.
struct InlineOption {
    std::string key, value;
    std::size_t at = 0;  // where the value begins in the text
};
[[nodiscard]] std::vector<InlineOption> split_inline_options(std::string_view text);
[[nodiscard]] std::string join_inline_options(std::span<const InlineOption> options);
// The inverse: "key=value,..." of every option that differs from the defaults given.
[[nodiscard]] std::string format_inline_options(const Visitable& options,
                                                const Visitable& defaults);

}  // namespace thimble
