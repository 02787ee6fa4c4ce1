// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint.h"

#include "core/error.h"
#include "core/strings.h"
#include "io/json.h"
#include "io/model_file.h"
#include "io/safetensors_writer.h"

namespace thimble::train {
namespace {

constexpr const char* kHead = "thimble.training";

std::string slot_name(const Parameter& p, const SlotInfo& slot) {
    return p.name + "/" + std::string(slot.name);
}

// Tensors of a checkpoint: the head, then each parameter and its slots.
std::vector<TensorSpec> specs_of(const ParameterSet& parameters, const Optimizer& optimizer,
                                 std::size_t head_bytes) {
    std::vector<TensorSpec> specs;
    for (const Parameter& p : parameters.items()) {
        specs.push_back({p.name,
                         p.in_bf16 ? TensorType::kBF16 : TensorType::kF32,
                         {static_cast<std::uint64_t>(p.info.shape.rows),
                          static_cast<std::uint64_t>(p.info.shape.cols)}});
    }
    for (const Parameter& p : parameters.items()) {
        for (const SlotInfo& slot : optimizer.slots(p.info))
            specs.push_back({slot_name(p, slot), TensorType::kU8, {slot.bytes(p.info.elements())}});
    }
    specs.push_back({kHead, TensorType::kU8, {head_bytes}});
    return specs;
}

// fn(place of a slot's tensor among all of them, offset in it, its bytes in memory), chunk by
// chunk.
template <class Fn>
void for_slots(const ParameterSet& parameters, const Optimizer& optimizer,
               const std::vector<Chunk>& chunks, SlotStore& slots, Fn&& fn) {
    std::vector<std::size_t> first;  // of each parameter
    std::size_t next = parameters.size();
    for (const Parameter& p : parameters.items()) {
        first.push_back(next);
        next += optimizer.slots(p.info).size();
    }
    for (std::size_t c = 0; c < chunks.size(); ++c) {
        const Chunk& chunk = chunks[c];
        const SlotStore::Slots at = slots.acquire(c);
        std::size_t s = 0;
        for (const SlotInfo& slot : optimizer.slots(parameters.items()[chunk.parameter].info)) {
            const std::size_t begin = slot.bytes(chunk.first);
            const std::size_t end = slot.bytes(chunk.first + chunk.count);
            fn(first[chunk.parameter] + s, begin, std::span(at[s], end - begin));
            ++s;
        }
        slots.release(c);
    }
}

}  // namespace

void write_checkpoint(const std::string& path, const CheckpointHead& head, ParameterSet& parameters,
                      const Optimizer& optimizer, const std::vector<Chunk>& chunks,
                      SlotStore& slots) {
    Json json = Json::object();
    json.set("fingerprint", head.fingerprint);
    json.set("notes", head.notes);
    json.set("step", head.step);
    const std::string text = json.dump();
    SafetensorsOptions options;
    options.if_exists = IfExists::kReplace;
    SafetensorsWriter writer(path, specs_of(parameters, optimizer, text.size()), options);
    HeldValues held(parameters);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
        writer.write(i, 0, held.hold(i).stored());
    }
    std::size_t last = parameters.size();
    for (const Parameter& p : parameters.items()) last += optimizer.slots(p.info).size();
    for_slots(parameters, optimizer, chunks, slots,
              [&](std::size_t tensor, std::size_t offset, std::span<std::byte> bytes) {
                  writer.write(tensor, offset, bytes);
              });
    writer.write(last, 0, std::as_bytes(std::span(text)));
    writer.finish();
}

CheckpointHead read_checkpoint(const std::string& path, const std::string& fingerprint,
                               ParameterSet& parameters, const Optimizer& optimizer,
                               const std::vector<Chunk>& chunks, SlotStore& slots) {
    const auto file = ModelFile::open(path);
    const auto bad = [&](const std::string& what) {
        return Error(Exit::kBadData, escaped(path, 1024), what,
                     "remove it to begin anew, or give the options it was made with");
    };
    const TensorEntry* entry = file->find(kHead);
    if (entry == nullptr) throw bad("is no checkpoint of a training run");
    std::string text(entry->bytes, '\0');
    file->read(*entry, 0, std::as_writable_bytes(std::span(text)));
    const Json json = parse_json(text, escaped(path, 1024));
    const auto get = [&](const char* key) -> const Json& {
        const Json* value = json.find(key);
        if (value == nullptr) throw bad("has no '" + std::string(key) + "'");
        return *value;
    };
    CheckpointHead head;
    head.fingerprint = get("fingerprint").as_string(path);
    head.notes = get("notes").as_string(path);
    head.step = get("step").as_int(path);
    if (head.fingerprint != fingerprint) throw bad("belongs to a run with other options or data");

    const std::vector<TensorSpec> specs = specs_of(parameters, optimizer, text.size());
    std::vector<const TensorEntry*> entries;
    for (const TensorSpec& spec : specs) {
        const TensorEntry* tensor = file->find(spec.name);
        if (tensor == nullptr || tensor->type != spec.type || tensor->dims != spec.dims)
            throw bad("tensor '" + spec.name + "' is not what this run has");
        entries.push_back(tensor);
    }
    HeldValues held(parameters);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
        file->read(*entries[i], 0, held.hold(i).stored());
        parameters.change(i);
    }
    for_slots(parameters, optimizer, chunks, slots,
              [&](std::size_t tensor, std::size_t offset, std::span<std::byte> bytes) {
                  file->read(*entries[tensor], offset, bytes);
              });
    return head;
}

}  // namespace thimble::train
