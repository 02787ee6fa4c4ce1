// SPDX-License-Identifier: Apache-2.0
// Any bytes as a --config file: a usage error, or options whose texts YAML gives back as they are.
#include "cli/yaml.h"

#include <cstdint>
#include <cstdlib>

#include "cli/settings.h"
#include "core/error.h"

using namespace thimble;

namespace {

struct Options {
    bool flag = false;
    std::int64_t count = 0;
    double rate = 0;
    std::string name;
    std::vector<std::string> list;
    void visit(OptionVisitor& v) {
        OptionInfo bounded{.name = "count"};
        bounded.least = 0, bounded.most = 100;
        OptionInfo chosen{.name = "name"};
        chosen.also = "n";
        v.option({.name = "flag"}, flag);
        v.option(bounded, count);
        v.option({.name = "rate"}, rate);
        v.option(chosen, name);
        v.option({.name = "list"}, list);
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    try {
        Options options;
        cli::Sources sources;
        const Visitable visit = [&](OptionVisitor& v) { options.visit(v); };
        cli::apply_config(cli::parse_yaml(text, "fuzz"), "fuzz", visit, sources);
        if (options.count < 0 || options.count > 100) std::abort();
        for (const std::string& item : options.list) {
            const cli::YamlNode again = cli::parse_yaml("k: " + cli::yaml_scalar(item), "again");
            if (again.find("k")->text != item) std::abort();
        }
        parse_inline_options(text, visit, "fuzz");
    } catch (const Error& e) {
        if (e.exit() != Exit::kUsage) std::abort();
    }
    return 0;
}
