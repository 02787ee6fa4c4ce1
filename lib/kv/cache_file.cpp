// SPDX-License-Identifier: Apache-2.0
#include "kv/cache_file.h"

#include <algorithm>

#include "core/error.h"
#include "core/strings.h"
#include "io/json.h"
#include "io/model_file.h"
#include "io/safetensors_writer.h"
#include "kv/engine_state.h"
#include "kv/slot_list.h"

namespace thimble {
namespace {

constexpr const char* kHeadTensor = "thimble.kv";
constexpr std::int64_t kVersion = 2;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

Error bad(const std::string& path, const std::string& what,
          const std::string& hint = "make the file anew with --kv-save") {
    return {Exit::kBadData, escaped(path, 1024), what, hint};
}

// Tensors of one part, all heads one after the other.
enum class Field : std::uint8_t { kKeys, kValues, kPositions, kBias };
std::string tensor_name(std::size_t layer, const std::string& part, const char* what) {
    return "layer." + std::to_string(layer) + "/" + part + "/" + what;
}

// Bytes of a head that a field holds after `tokens` tokens, and where they are.
struct Extent {
    std::byte* data;
    std::size_t bytes;
};
Extent extent(const LayerStore& store, LayerStore::Part& part, Field field, int head,
              std::int64_t tokens) {
    const LayerPlan& plan = store.plan();
    const auto h = index(head);
    const std::size_t slots = index(plan.ring() ? plan.used_slots(tokens) : part.slots[h]);
    switch (field) {
        case Field::kKeys:
            return {part.k.lane(head), slots * store.k_row_bytes(part)};
        case Field::kValues:
            return {part.v.lane(head), slots * plan.v.row_bytes(plan.head_dim)};
        case Field::kPositions:
            if (part.positions.empty()) return {nullptr, 0};
            return {reinterpret_cast<std::byte*>(part.positions[h].data()),
                    part.positions[h].size() * sizeof(std::int32_t)};
        case Field::kBias:
            if (part.bias.empty()) return {nullptr, 0};
            return {reinterpret_cast<std::byte*>(part.bias[h].data()),
                    part.bias[h].size() * sizeof(float)};
    }
    return {nullptr, 0};
}

constexpr std::pair<Field, const char*> kFields[] = {{Field::kKeys, "keys"},
                                                     {Field::kValues, "values"},
                                                     {Field::kPositions, "positions"},
                                                     {Field::kBias, "bias"}};

// fn(name, bytes of each head): every tensor of a sequence that holds anything, in a fixed order.
template <class Fn>
void for_tensors(KvEngine::State::Sequence& sequence, std::int64_t tokens, Fn&& fn) {
    for (std::size_t layer = 0; layer < sequence.layers.size(); ++layer) {
        LayerState& state = *sequence.layers[layer];
        const auto heads = state.store.plan().kv_heads;
        for (std::size_t p = 0; p < state.store.parts().size(); ++p) {
            for (const auto& [field, what] : kFields) {
                std::vector<Extent> extents;
                for (int head = 0; head < heads; ++head)
                    extents.push_back(
                        extent(state.store, *state.store.parts()[p], field, head, tokens));
                fn(tensor_name(layer, "part." + std::to_string(p), what), extents);
            }
        }
        std::vector<Extent> sums;
        for (auto& head : state.sums)
            sums.push_back(
                {reinterpret_cast<std::byte*>(head.data()), head.size() * sizeof(float)});
        fn(tensor_name(layer, "policy", "sums"), sums);
    }
    // Of recurrent layers, the states that the sequence can go back to, but for the zeros before
    // its first token.
    for (std::size_t layer = 0; layer < sequence.recurrent.layers(); ++layer) {
        std::vector<Extent> states;
        const std::int64_t least = sequence.recurrent.rollback_floor(sequence.written);
        for (std::int64_t t = std::max<std::int64_t>(least, 1); t <= tokens; ++t) {
            const std::span<std::byte> state = sequence.recurrent.state(layer, t);
            states.push_back({state.data(), state.size()});
        }
        fn(tensor_name(layer, "recurrent", "states"), states);
    }
}

std::uint64_t bytes_of(const std::vector<Extent>& extents) {
    std::uint64_t sum = 0;
    for (const Extent& e : extents) sum += e.bytes;
    return sum;
}

Json numbers(const auto& values) {
    Json list = Json::array();
    for (const auto value : values) list.push(static_cast<std::int64_t>(value));
    return list;
}

Json layer_json(const LayerState& state) {
    Json parts = Json::array();
    for (const auto& part : state.store.parts()) {
        Json one = Json::object(), channels = Json::array();
        one.set("first", part->first_position);
        one.set("slots", numbers(part->slots));
        for (const auto& head : part->channels) channels.push(numbers(head));
        one.set("channels", channels);
        one.set("bias", !part->bias.empty());
        parts.push(one);
    }
    Json layer = Json::object();
    layer.set("sparse", state.store.sparse());
    layer.set("floor", state.floor);
    layer.set("prompt_tokens", state.prompt_tokens);
    layer.set("parts", parts);
    Json sums = Json::array();
    for (const auto& head : state.sums) sums.push(static_cast<std::int64_t>(head.size()));
    layer.set("sums", sums);
    return layer;
}

// Reads a document whose every field must be there and sane.
class HeadReader {
  public:
    HeadReader(const std::string& path, const Json& json) : path_(path), json_(json) {}
    [[nodiscard]] const Json& get(const char* key) const {
        const Json* value = json_.find(key);
        if (value == nullptr) throw bad(path_, "has no '" + std::string(key) + "'");
        return *value;
    }
    [[nodiscard]] HeadReader sub(const Json& json) const { return {path_, json}; }
    [[nodiscard]] std::int64_t number(const char* key, std::int64_t least,
                                      std::int64_t most) const {
        return check(get(key).as_int(path_), key, least, most);
    }
    [[nodiscard]] std::vector<std::int64_t> list(const char* key, std::size_t count,
                                                 std::int64_t least, std::int64_t most) const {
        std::vector<std::int64_t> out;
        for (const Json& item : get(key).as_array(path_))
            out.push_back(check(item.as_int(path_), key, least, most));
        if (out.size() != count)
            throw bad(path_, "'" + std::string(key) + "' has the wrong length");
        return out;
    }
    [[nodiscard]] const std::string& text(const char* key) const {
        return get(key).as_string(path_);
    }

  private:
    std::int64_t check(std::int64_t value, const char* key, std::int64_t least,
                       std::int64_t most) const {
        if (value >= least && value <= most) return value;
        throw bad(path_, "'" + std::string(key) + "' is out of range");
    }
    const std::string& path_;
    const Json& json_;
};

Json read_head_json(const ModelFile& file, const std::string& path) {
    const TensorEntry* entry = file.find(kHeadTensor);
    if (entry == nullptr || entry->type != TensorType::kU8)
        throw bad(path, "is no saved KV cache", "--kv-save makes one");
    std::string text(entry->bytes, '\0');
    file.read(*entry, 0, std::as_writable_bytes(std::span(text)));
    return parse_json(text, escaped(path, 1024));
}

KvFileHead head_of(const HeadReader& json, const std::string& path) {
    if (json.number("version", 0, INT64_MAX) != kVersion)
        throw bad(path, "is a saved KV cache of another version");
    KvFileHead head{.model = json.text("model"),
                    .policy = json.text("policy"),
                    .type_k = json.text("type_k"),
                    .type_v = json.text("type_v"),
                    .tokens = {}};
    for (const Json& token : json.get("tokens").as_array(path)) {
        const std::int64_t id = token.as_int(path);
        if (id < 0 || id > INT32_MAX) throw bad(path, "'tokens' is out of range");
        head.tokens.push_back(static_cast<std::int32_t>(id));
    }
    return head;
}

std::shared_ptr<LayerStore::Part> make_part(const LayerStore& store, const HeadReader& json,
                                            bool sparse, std::int64_t tokens,
                                            std::pmr::memory_resource& memory) {
    const LayerPlan& plan = store.plan();
    const auto heads = index(plan.kv_heads);
    const std::vector<std::int64_t> slots = json.list("slots", heads, 0, plan.all_slots());
    std::vector<std::vector<std::int16_t>> channels;
    for (const Json& head : json.get("channels").as_array("channels")) {
        auto& list = channels.emplace_back();
        for (const Json& c : head.as_array("channels")) {
            const std::int64_t channel = c.as_int("channels");
            const bool ascends = list.empty() || channel > list.back();
            if (channel < 0 || channel >= plan.head_dim || !ascends ||
                list.size() >= index(plan.head_dim))
                throw bad("channels", "are out of order");
            list.push_back(static_cast<std::int16_t>(channel));
        }
    }
    const bool even = std::all_of(channels.begin(), channels.end(), [&](const auto& list) {
        return !list.empty() && list.size() == channels.front().size();
    });
    if (!channels.empty() && (channels.size() != heads || !even || !sparse))
        throw bad("channels", "do not fit the model");
    auto part = store.new_part(plan.all_slots(),
                               channels.empty() ? plan.head_dim : std::ssize(channels.front()));
    part->first_position = json.number("first", 0, tokens);
    part->slots = slots;
    part->channels = std::move(channels);
    const bool bias = json.get("bias").as_bool("bias");
    for (std::size_t h = 0; h < heads; ++h) {
        const auto count = index(slots[h]);
        if (plan.ring()) {
            const auto rows = index(plan.used_slots(tokens));
            part->k.resize(static_cast<int>(h), rows * plan.k.row_bytes(plan.head_dim));
            part->v.resize(static_cast<int>(h), rows * plan.v.row_bytes(plan.head_dim));
            continue;
        }
        part->k.resize(static_cast<int>(h), count * store.k_row_bytes(*part));
        part->v.resize(static_cast<int>(h), count * plan.v.row_bytes(plan.head_dim));
        if (!sparse) continue;
        make_room(part->positions.emplace_back(&memory), count);
        part->positions.back().resize(count);
        if (!bias) continue;
        make_room(part->bias.emplace_back(&memory), count);
        part->bias.back().resize(count);
    }
    return part;
}

// What attention relies on, whatever the file says.
void check_state(const LayerState& state, std::int64_t tokens, const std::string& path) {
    const LayerStore& store = state.store;
    std::int64_t next = 0;
    for (const auto& part : store.parts()) {
        if (!store.sparse() && !store.plan().ring()) {
            const bool even = std::all_of(part->slots.begin(), part->slots.end(),
                                          [&](auto n) { return n == part->slots.front(); });
            if (!even || part->first_position != next || next % ops::kAttentionTile != 0)
                throw bad(path, "its parts do not follow one another");
            next += part->slots.front();
        }
        for (const auto& head : part->positions) {
            for (const std::int32_t p : head) {
                if (p < 0 || p >= tokens) throw bad(path, "has a position outside its text");
            }
        }
    }
    if (!store.sparse() && !store.plan().ring() && next != tokens)
        throw bad(path, "does not hold all of its tokens");
    if (!store.parts().back()->channels.empty()) throw bad(path, "ends with narrowed keys");
    for (int head = 0; head < store.plan().kv_heads; ++head) {
        const auto& sums = state.sums[index(head)];
        if (!sums.empty() && std::ssize(sums) != store.slots(head))
            throw bad(path, "has sums of other slots");
    }
}

void restore_layer(LayerState& state, const HeadReader& json, std::int64_t tokens,
                   std::pmr::memory_resource& memory, const std::string& path) {
    const bool sparse = json.get("sparse").as_bool(path);
    if (sparse && state.store.plan().ring()) throw bad(path, "a window's slots are not sparse");
    std::vector<std::shared_ptr<LayerStore::Part>> parts;
    for (const Json& part : json.get("parts").as_array(path))
        parts.push_back(make_part(state.store, json.sub(part), sparse, tokens, memory));
    if (parts.empty() || (state.store.plan().ring() && parts.size() != 1))
        throw bad(path, "has a layer without its parts");
    state.store.set_parts(std::move(parts), sparse);
    state.floor = json.number("floor", 0, tokens);
    state.prompt_tokens = json.number("prompt_tokens", 0, tokens);
    const auto sums = json.list("sums", state.sums.size(), 0, INT32_MAX);
    for (std::size_t h = 0; h < sums.size(); ++h) {
        if (sums[h] > state.store.slots(static_cast<int>(h)))
            throw bad(path, "has sums of other slots");
        make_room(state.sums[h], index(sums[h]));
        state.sums[h].resize(index(sums[h]));
    }
}

}  // namespace

void check_kv_path(const std::string& path, const char* flag) {
    if (path.empty() || path.ends_with(".safetensors")) return;
    throw Error(Exit::kUsage, flag, "'" + escaped(path, 1024) + "' is not named *.safetensors",
                "give a name that ends so: the file is one");
}

KvFileHead KvFileHead::of(const std::string& model, const KvOptions& options,
                          std::vector<std::int32_t> tokens) {
    return {model, options.policy, options.type_k, options.type_v, std::move(tokens)};
}

void save_sequence(const KvEngine& engine, SeqId seq, const KvFileHead& head,
                   const std::string& path) {
    KvEngine::State& s = engine.state();
    KvEngine::State::Sequence& sequence = s.at(seq);
    for (const LayerPlan& plan : s.shape.plans) {
        if (plan.device_slots == 0) continue;
        throw Error(Exit::kUsage, "--kv-save", "keys and values lie on a CUDA device",
                    "use --device cpu");
    }
    Json json = Json::object(), layers = Json::array();
    for (const auto& layer : sequence.layers) layers.push(layer_json(*layer));
    json.set("version", kVersion);
    json.set("model", head.model);
    json.set("policy", head.policy);
    json.set("type_k", head.type_k);
    json.set("type_v", head.type_v);
    json.set("seen", sequence.tokens);
    json.set("written", sequence.written);
    json.set("tokens", numbers(head.tokens));
    json.set("layers", layers);
    const std::string text = json.dump();

    std::vector<TensorSpec> specs{{kHeadTensor, TensorType::kU8, {text.size()}}};
    for_tensors(sequence, sequence.tokens,
                [&](const std::string& name, const std::vector<Extent>& extents) {
                    if (bytes_of(extents) > 0)
                        specs.push_back({name, TensorType::kU8, {bytes_of(extents)}});
                });
    SafetensorsOptions options;
    options.if_exists = IfExists::kReplace;
    SafetensorsWriter writer(path, specs, options);
    writer.write(0, 0, std::as_bytes(std::span(text)));
    std::size_t tensor = 1;
    for_tensors(sequence, sequence.tokens,
                [&](const std::string&, const std::vector<Extent>& extents) {
                    if (bytes_of(extents) == 0) return;
                    std::uint64_t offset = 0;
                    for (const Extent& e : extents) {
                        writer.write(tensor, offset, {e.data, e.bytes});
                        offset += e.bytes;
                    }
                    ++tensor;
                });
    writer.finish();
}

KvFileHead read_kv_head(const std::string& path) {
    const auto file = ModelFile::open(path);
    const Json json = read_head_json(*file, path);
    return head_of({path, json}, path);
}

SeqId load_sequence(KvEngine& engine, const KvFileHead& expected, const std::string& path) {
    const auto file = ModelFile::open(path);
    const Json json = read_head_json(*file, path);
    const HeadReader reader(path, json);
    const KvFileHead head = head_of(reader, path);
    const auto same = [&](const char* what, const std::string& saved, const std::string& wanted) {
        if (saved == wanted) return;
        throw bad(path,
                  "was saved with " + std::string(what) + " '" + escaped(saved) +
                      "', this run has '" + escaped(wanted) + "'",
                  "give the options that it was saved with, or save it anew");
    };
    if (head.model != expected.model)
        throw bad(path, "was saved with another model", "save it anew with this one");
    same("--kv-policy", head.policy, expected.policy);
    same("-ctk", head.type_k, expected.type_k);
    same("-ctv", head.type_v, expected.type_v);

    KvEngine::State& s = engine.state();
    const std::int64_t tokens = reader.number("seen", 1, s.shape.capacity);
    const SeqId seq = engine.open();
    try {
        KvEngine::State::Sequence& sequence = s.at(seq);
        const auto& layers = reader.get("layers").as_array(path);
        if (layers.size() != sequence.layers.size()) throw bad(path, "has another count of layers");
        sequence.written = reader.number("written", tokens, s.shape.capacity);
        for (std::size_t i = 0; i < layers.size(); ++i)
            restore_layer(*sequence.layers[i], reader.sub(layers[i]), tokens, s.memory, path);
        for_tensors(sequence, tokens,
                    [&](const std::string& name, const std::vector<Extent>& extents) {
                        if (bytes_of(extents) == 0) return;
                        const TensorEntry* entry = file->find(name);
                        if (entry == nullptr || entry->type != TensorType::kU8 ||
                            entry->bytes != bytes_of(extents))
                            throw bad(path, "tensor '" + name + "' is not what the head says");
                        std::uint64_t offset = 0;
                        for (const Extent& e : extents) {
                            file->read(*entry, offset, {e.data, e.bytes});
                            offset += e.bytes;
                        }
                    });
        for (const auto& layer : sequence.layers) check_state(*layer, tokens, path);
        sequence.tokens = tokens;
        sequence.in_prompt = false;
        return seq;
    } catch (...) {
        engine.close(seq);
        throw;
    }
}

}  // namespace thimble
