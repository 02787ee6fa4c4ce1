// SPDX-License-Identifier: Apache-2.0
#include "format/weight_format.h"

namespace thimble {

#define THIMBLE_FORMAT(id, type) std::unique_ptr<WeightFormat> make_format_##id();
#include "format/formats.def"
#undef THIMBLE_FORMAT

const Registry<WeightFormat>& weight_formats() {
    static const Registry<WeightFormat> registry = [] {
        std::vector<std::unique_ptr<WeightFormat>> items;
#define THIMBLE_FORMAT(id, type) items.push_back(make_format_##id());
#include "format/formats.def"
#undef THIMBLE_FORMAT
        return Registry<WeightFormat>("format", std::move(items));
    }();
    return registry;
}

const WeightFormat& format_of(LayoutId layout) {
    return weight_formats().get(layout_info(layout).name, "layout");
}

std::optional<LayoutId> layout_of(TensorType type) {
#define THIMBLE_FORMAT(id, stored) \
    if (type == TensorType::stored) return LayoutId::k_##id;
#include "format/formats.def"
#undef THIMBLE_FORMAT
    return std::nullopt;
}

std::optional<TensorType> tensor_type_of(LayoutId layout) {
#define THIMBLE_FORMAT(id, stored) \
    if (layout == LayoutId::k_##id) return TensorType::stored;
#include "format/formats.def"
#undef THIMBLE_FORMAT
    return std::nullopt;
}

}  // namespace thimble
