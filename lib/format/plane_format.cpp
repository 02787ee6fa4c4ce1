// SPDX-License-Identifier: Apache-2.0
#include "format/plane_format.h"

#include <algorithm>

namespace thimble {

void PlanePicker::fail(const char* plane, const std::string& what) {
    throw Error(Exit::kBadData, std::string("plane '") + plane + "'", what);
}

bool PlanePicker::has(const char* name) const noexcept {
    return std::any_of(planes_.begin(), planes_.end(),
                       [&](const PlaneInfo& p) { return p.name == name; });
}

const PlaneInfo* PlanePicker::take(const char* name, std::initializer_list<DType> types) {
    const PlaneInfo* found = nullptr;
    for (std::size_t i = 0; i < planes_.size(); ++i) {
        if (planes_[i].name != name) continue;
        if (found != nullptr) fail(name, "occurs twice");
        found = &planes_[i];
        taken_[i] = true;
    }
    if (found == nullptr) fail(name, "is missing");
    if (std::find(types.begin(), types.end(), found->dtype) == types.end()) {
        std::string list;
        for (const DType type : types)
            list += (list.empty() ? "" : " or ") + std::string(thimble::name(type));
        fail(name, "has type " + std::string(thimble::name(found->dtype)) + ", expected " + list);
    }
    return found;
}

PlaneInfo PlanePicker::rows(const char* name, std::initializer_list<DType> types, std::int64_t& n) {
    PlaneInfo plane = *take(name, types);
    if (plane.dims.size() != 2 || plane.dims[0] != static_cast<std::uint64_t>(shape_.rows) ||
        plane.dims[1] == 0) {
        fail(name, "is not one row for each of " + std::to_string(shape_.rows) + " rows");
    }
    n = static_cast<std::int64_t>(plane.dims[1]);
    plane.row_bytes = static_cast<std::size_t>(plane.dims[1]) * size_of(plane.dtype);
    plane.bytes = static_cast<std::size_t>(plane.dims[0]) * plane.row_bytes;
    return plane;
}

PlaneInfo PlanePicker::table(const char* name, std::initializer_list<DType> types,
                             std::int64_t& n) {
    PlaneInfo plane = *take(name, types);
    if (plane.dims.size() != 1 || plane.dims[0] == 0) fail(name, "is not a vector");
    n = static_cast<std::int64_t>(plane.dims[0]);
    plane.row_bytes = 0;
    plane.bytes = static_cast<std::size_t>(plane.dims[0]) * size_of(plane.dtype);
    return plane;
}

void PlanePicker::finish() const {
    for (std::size_t i = 0; i < planes_.size(); ++i) {
        if (!taken_[i]) fail(escaped(planes_[i].name).c_str(), "is not one of this format");
    }
}

void throw_no_encoder(const FormatInfo& info) {
    throw Error(
        Exit::kUsage, std::string(info.name),
        "there is no encoder for this format: matrices in it come from files that have them",
        "give another --format");
}

void throw_bad_group(const FormatInfo& info, std::int64_t row, std::int64_t group,
                     const char* what) {
    throw Error(Exit::kBadData, "row " + std::to_string(row) + ", group " + std::to_string(group),
                std::string(what) + " in a matrix of " + std::string(info.name));
}

}  // namespace thimble
