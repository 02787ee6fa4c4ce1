// SPDX-License-Identifier: Apache-2.0
#include "eval/facts.h"

#include <algorithm>
#include <map>

#include "io/sha256.h"

namespace thimble::eval {
namespace {

std::string hash_of(const std::vector<std::string>& files) {
    if (files.size() == 1) return sha256_of_file(files.front());
    Sha256 all;
    for (const std::string& file : files)
        all.update(sha256_of_file(file) + "  " + basename_of(file) + "\n");
    return all.finish();
}

}  // namespace

std::string basename_of(const std::string& path) {
    const std::size_t end = path.find_last_not_of('/');
    if (end == std::string::npos) return path;
    const std::size_t slash = path.find_last_of('/', end);
    const std::size_t begin = slash == std::string::npos ? 0 : slash + 1;
    return path.substr(begin, end + 1 - begin);
}

std::string format_name(const ModelSource& source) {
    std::map<std::string_view, std::uint64_t> bytes_of_type;
    for (const SourceTensor& tensor : source.tensors()) {
        if (!tensor.is_matrix || !tensor.name.starts_with("blk.")) continue;
        bytes_of_type[layout_info(tensor.layout()).name] += tensor.stored_bytes();
    }
    if (bytes_of_type.empty()) return "none";
    const auto most =
        std::max_element(bytes_of_type.begin(), bytes_of_type.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    return std::string(most->first) + (bytes_of_type.size() > 1 ? "+" : "");
}

ModelFacts model_facts(const ModelSource& source) {
    ModelFacts facts;
    facts.name = source.spec().name;
    facts.file = basename_of(source.file().path());
    facts.sha256 = hash_of(source.file().files());
    facts.architecture = source.spec().architecture;
    facts.format = format_name(source);
    facts.file_bytes = source.file().file_bytes();
    std::uint64_t bytes = 0;
    for (const SourceTensor& tensor : source.tensors()) {
        bytes += tensor.stored_bytes();
        facts.parameters += static_cast<std::uint64_t>(tensor.rows() * tensor.cols());
    }
    if (facts.parameters > 0)
        facts.bits_per_weight =
            8 * static_cast<double>(bytes) / static_cast<double>(facts.parameters);
    return facts;
}

std::vector<AdapterFacts> adapter_facts(const std::vector<AdapterUse>& adapters) {
    std::vector<AdapterFacts> facts;
    for (const AdapterUse& use : adapters)
        facts.push_back({basename_of(use.file->path()), hash_of(use.file->files()), use.scale});
    return facts;
}

}  // namespace thimble::eval
