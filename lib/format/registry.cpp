// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/strings.h"
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

std::span<const FormatAlias> format_aliases() noexcept {
    static constexpr FormatAlias kAliases[] = {
#define THIMBLE_FORMAT(id, type)
#define THIMBLE_PLANES(id)
#define THIMBLE_ALIAS(name, spec) {name, spec},
#include "format/formats.def"
#undef THIMBLE_FORMAT
    };
    return kAliases;
}

SharedFormat make_format(std::string_view spec, std::string_view where) {
    const std::string name = to_lower(spec.substr(0, spec.find(':')));
    std::string options(spec.substr(std::min(spec.size(), spec.find(':'))));
    if (!options.empty()) options.erase(0, 1);
    for (const FormatAlias& alias : format_aliases()) {
        if (name != alias.name) continue;
        const std::size_t colon = alias.spec.find(':');
        // Of a key that both give, what was asked for holds.
        return weight_formats()
            .get(alias.spec.substr(0, colon), where)
            .with(alias.spec.substr(colon + 1), where)
            ->with(options, where);
    }
    return weight_formats().get(name, where).with(options, where);
}

std::string spec_of(const WeightFormat& format) {
    const std::string options = format_inline_options(
        [&](OptionVisitor& v) { format.visit_options(v); },
        [&](OptionVisitor& v) { weight_formats().get(format.name(), "format").visit_options(v); });
    return std::string(format.name()) + (options.empty() ? "" : ":" + options);
}

const WeightFormat& format_of(LayoutId layout) {
    return weight_formats().get(layout_info(layout).name, "layout");
}

SharedFormat shared_format_of(LayoutId layout) {
    return {std::shared_ptr<void>{}, &format_of(layout)};  // the registry's own, which never ends
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

PackedForm form_of(const WeightFormat& format, Shape2 shape) {
    const LayoutId layout = format.info().layout;
    if (has_planes(layout)) return format.form(shape, format.planes(shape, {}));
    return {layout, {}, format.planes(shape, {})};
}

PackedForm block_form(LayoutId layout, Shape2 shape) { return form_of(format_of(layout), shape); }

void Encoder::encode_doubles(std::int64_t, std::span<const double>, PlaneSink&) const {
    throw Error(Exit::kFailure, "encode_doubles", "the format takes floats");
}

PackedForm WeightFormat::form(Shape2, std::span<const PlaneInfo>) const {
    throw Error(Exit::kBadData, std::string(name()), "is stored as one tensor, not as planes");
}

}  // namespace thimble
