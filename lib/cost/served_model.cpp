// SPDX-License-Identifier: Apache-2.0
#include "cost/served_model.h"

#include "kv/chain.h"
#include "kv/layer_store.h"

namespace thimble::cost {

ServedModel served_model(const ModelSource& source, const KvOptions& kv) {
    const ModelSpec& spec = source.spec();
    ServedModel out;
    for (const SourceTensor& tensor : source.tensors()) {
        const auto bytes = static_cast<double>(tensor.stored_bytes());
        const bool table = tensor.name == "token_embd.weight";
        out.weight_bytes += bytes;
        // A table's row is next to nothing; where it is the head, too, all of it is read.
        if (!table || spec.tied_embedding) out.read_bytes += bytes;
        if (!tensor.is_matrix || table || tensor.name == "output.weight") continue;
        out.prompt_parameters +=
            static_cast<double>(tensor.rows()) * static_cast<double>(tensor.cols());
    }
    out.decode_parameters =
        out.prompt_parameters + static_cast<double>(spec.vocab) * static_cast<double>(spec.hidden);

    for (const RecurrentLayer& layer : spec.recurrent)
        out.state_bytes += static_cast<double>(layer.channels) * sizeof(float);
    ModelInfo info = spec.info();
    info.context_tokens = kv.context_tokens;
    const KvChain chain = KvChain::parse(kv.policy, "--kv-policy");
    std::size_t governed_bytes = 0;  // of a token, where the policy has a say
    for (const AttentionLayer& shape : info.layers) {
        const auto k = KvEncoding::parse(kv.type_k, "-ctk", shape.head_dim, Device::kCpu);
        const auto v = KvEncoding::parse(kv.type_v, "-ctv", shape.head_dim, Device::kCpu);
        const std::size_t row = (k.row_bytes(shape.head_dim) + v.row_bytes(shape.head_dim)) *
                                static_cast<std::size_t>(shape.kv_heads);
        if (KvChain::governs(shape)) governed_bytes += row;
        out.layers.push_back({.heads = shape.heads,
                              .head_dim = shape.head_dim,
                              .bytes_per_key = static_cast<double>(row)});
    }
    for (std::size_t i = 0; i < info.layers.size(); ++i) {
        const std::int64_t window = info.layers[i].window;
        out.layers[i].most_keys = window > 0 ? window
                                             : chain.read_tokens(info, static_cast<int>(i),
                                                                 kv.context_tokens, governed_bytes);
        // Other policies drop keys when the prompt ends.
        const KvBand band = chain.band(info, static_cast<int>(i));
        if (window > 0) out.layers[i].prompt_keys = window;
        if (window == 0 && band.bounded()) out.layers[i].prompt_keys = band.sinks + band.window;
    }
    return out;
}

}  // namespace thimble::cost
