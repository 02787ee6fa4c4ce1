// SPDX-License-Identifier: Apache-2.0
#include "compress/embedding_store.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "io/safetensors.h"

namespace thimble {
namespace {

constexpr std::string_view kCosine = "cosine", kDot = "dot";
constexpr std::int64_t kMostDims = static_cast<std::int64_t>(VectorFile::kMostDims);
constexpr int kMostPrescale = 64;

Error damaged(const std::string& path, const std::string& what) {
    return {Exit::kBadData, escaped(path, 1024), what};
}

}  // namespace

std::vector<TensorSpec> store_specs(const StoreFacts& facts) {
    const auto rows = static_cast<std::uint64_t>(facts.rows),
               dims = static_cast<std::uint64_t>(facts.dims),
               source = static_cast<std::uint64_t>(facts.source_dims);
    const EmbeddingFormat& format = *find_embedding_format(name_of(facts.code));
    const bool packed = bits_of(facts.code) < 8;
    const auto width =
        packed ? static_cast<std::uint64_t>(vector_bytes(facts.code, facts.dims)) : dims;
    // Floats first: they are aligned then.
    std::vector<TensorSpec> out;
    const auto floats = [&](const char* name, std::vector<std::uint64_t> shape) {
        out.push_back({name, TensorType::kF32, std::move(shape)});
    };
    if (facts.code == VectorCode::kU8) floats("offset", {dims}), floats("step", {dims});
    if (facts.code == VectorCode::kSign) floats("magnitude", {1});
    if (facts.projected) {
        floats("mean", {source}), floats("basis", {dims, source}), floats("variances", {dims});
    }
    if (facts.has_length()) floats("length", {1});
    out.push_back({"codes", format.stored, {rows, width}});
    return out;
}

std::string store_description(const StoreFacts& facts) {
    Json json = Json::object();
    json.set("version", 1);
    json.set("format", name_of(facts.code));
    json.set("rows", facts.rows);
    json.set("dims", facts.dims);
    json.set("source_dims", facts.source_dims);
    json.set("similarity", facts.similarity == Similarity::kCosine ? kCosine : kDot);
    json.set("prescale", facts.prescale);
    return json.dump();
}

std::span<const std::byte> part_bytes(const StoreParts& parts, std::string_view tensor) {
    const auto of = [](std::span<const float> values) { return std::as_bytes(values); };
    const PrincipalComponents* const c = parts.components;
    if (tensor == "offset") return of(parts.parameters.offset);
    if (tensor == "step") return of(parts.parameters.step);
    if (tensor == "magnitude") return of({&parts.parameters.magnitude, 1});
    if (tensor == "length") return of({&parts.length, 1});
    if (tensor == "mean") return of(c->mean());
    const auto kept = static_cast<std::size_t>(parts.parameters.dims);
    if (tensor == "variances") return of(c->variances().first(kept));
    return of(c->basis().first(kept * static_cast<std::size_t>(c->dims())));
}

EmbeddingStore::EmbeddingStore(const std::string& path) : file_(path) {
    Cursor cursor(file_, file_.bytes());
    SafetensorsHeader header = parse_safetensors_header(cursor, file_.bytes());
    tensors_ = std::move(header.tensors);
    describe(header.metadata);
    for (const TensorSpec& wanted : store_specs(facts_)) {
        const TensorEntry& found = entry(wanted.name);
        if (found.type != wanted.type || found.dims != wanted.dims) {
            throw damaged(path, "tensor '" + wanted.name +
                                    "' is of another type or shape than its description says");
        }
    }
}

void EmbeddingStore::describe(const Json& metadata) {
    const Json* const text = metadata.find(kEmbeddingsKey);
    if (text == nullptr) {
        throw Error(Exit::kUsage, escaped(path(), 1024), "is no store of embeddings",
                    "compress embeddings writes them");
    }
    const std::string where = escaped(path(), 1024) + ": " + std::string(kEmbeddingsKey);
    const Json json = parse_json(text->as_string(where), where);
    const auto number = [&](const char* key, std::int64_t least, std::int64_t most) {
        const Json* const value = json.find(key);
        const std::int64_t n =
            value != nullptr && value->is_int() ? value->as_int(where) : least - 1;
        if (n < least || n > most) {
            throw Error(Exit::kBadData, where,
                        std::string("'") + key + "' is no number from " + std::to_string(least) +
                            " to " + std::to_string(most));
        }
        return n;
    };
    const auto word = [&](const char* key) {
        const Json* const value = json.find(key);
        return value != nullptr && value->is_string() ? value->as_string(where) : std::string();
    };
    if (number("version", 1, INT32_MAX) != 1)
        throw Error(Exit::kBadData, where, "version 1 is known, this is a later one");
    const EmbeddingFormat* const format = find_embedding_format(word("format"));
    const std::string similarity = word("similarity");
    if (format == nullptr || (similarity != kCosine && similarity != kDot))
        throw Error(Exit::kBadData, where, "names no known format or similarity");
    facts_.code = format->code;
    facts_.similarity = similarity == kCosine ? Similarity::kCosine : Similarity::kDot;
    facts_.rows = number("rows", 1, std::int64_t{1} << 40);
    facts_.dims = number("dims", 1, kMostDims);
    facts_.source_dims = number("source_dims", facts_.dims, kMostDims);
    facts_.prescale = static_cast<int>(number("prescale", -kMostPrescale, kMostPrescale));
    facts_.projected = std::any_of(tensors_.begin(), tensors_.end(),
                                   [](const TensorEntry& t) { return t.name == "basis"; });
    if (!facts_.projected && facts_.dims != facts_.source_dims)
        throw damaged(path(), "has fewer dimensions than its source, but no basis");
}

const TensorEntry& EmbeddingStore::entry(std::string_view name) const {
    for (const TensorEntry& t : tensors_)
        if (t.name == name) return t;
    throw damaged(path(), "has no tensor '" + std::string(name) + "'");
}

void EmbeddingStore::read_floats(std::string_view tensor, std::span<float> out) const {
    file_.read(entry(tensor).offset, std::as_writable_bytes(out));
    if (!std::all_of(out.begin(), out.end(), [](float x) { return std::isfinite(x); }))
        throw damaged(path(),
                      "tensor '" + std::string(tensor) + "' holds a number that is not finite");
}

EmbeddingStore::Loaded EmbeddingStore::load() const {
    Loaded out;
    CodeParameters& p = out.parameters;
    p.code = facts_.code, p.dims = facts_.dims, p.prescale = facts_.prescale;
    const auto dims = static_cast<std::size_t>(facts_.dims);
    if (p.code == VectorCode::kU8) {
        p.offset.resize(dims), p.step.resize(dims);
        read_floats("offset", p.offset), read_floats("step", p.step);
    }
    if (p.code == VectorCode::kSign) read_floats("magnitude", {&p.magnitude, 1});
    if (facts_.projected) {
        out.components = std::make_unique<PrincipalComponents>(facts_.source_dims, facts_.dims);
        read_floats("mean", out.components->mean());
        read_floats("basis", out.components->basis());
        read_floats("variances", out.components->variances());
    }
    if (facts_.has_length()) read_floats("length", {&out.length, 1});
    return out;
}

void EmbeddingStore::read(std::int64_t first, std::int64_t count, std::span<std::byte> out) const {
    const auto bytes = static_cast<std::uint64_t>(vector_bytes(facts_.code, facts_.dims));
    file_.read(entry("codes").offset + static_cast<std::uint64_t>(first) * bytes,
               out.first(static_cast<std::size_t>(static_cast<std::uint64_t>(count) * bytes)));
}

}  // namespace thimble
