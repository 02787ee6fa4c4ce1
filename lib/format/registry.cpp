// SPDX-License-Identifier: Apache-2.0
#include "format/weight_format.h"

namespace thimble {

#define THIMBLE_FORMAT(id, type) std::unique_ptr<WeightFormat> make_format_##id();
#define THIMBLE_PLANES(id) std::unique_ptr<WeightFormat> make_format_##id();
#include "format/formats.def"
#undef THIMBLE_FORMAT

const Registry<WeightFormat>& weight_formats() {
    static const Registry<WeightFormat> registry = [] {
        std::vector<std::unique_ptr<WeightFormat>> items;
#define THIMBLE_FORMAT(id, type) items.push_back(make_format_##id());
#define THIMBLE_PLANES(id) items.push_back(make_format_##id());
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

bool has_planes(LayoutId layout) noexcept { return layout_info(layout).block_bytes == 0; }

PackedForm block_form(LayoutId layout, Shape2 shape) {
    const WeightFormat& format = format_of(layout);
    if (has_planes(layout)) return format.form(shape, format.planes(shape, {}));
    return {layout, {}, format.planes(shape, {})};
}

PackedForm WeightFormat::form(Shape2, std::span<const PlaneInfo>) const {
    throw Error(Exit::kBadData, std::string(name()), "is stored as one tensor, not as planes");
}

}  // namespace thimble
