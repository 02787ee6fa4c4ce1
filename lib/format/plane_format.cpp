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

std::int32_t PlanePicker::bits(const char* name, std::int64_t bytes, std::int64_t elements,
                               std::int32_t least, std::int32_t most) const {
    const std::int64_t cols = shape_.cols, bits = 8 * bytes / cols;
    if (cols % elements != 0 || bits < least || bits > most || bits * cols != 8 * bytes) {
        const std::string known = least == most
                                      ? std::to_string(least)
                                      : std::to_string(least) + " to " + std::to_string(most);
        fail(name, "has rows of " + std::to_string(bytes) + " bytes for " + std::to_string(cols) +
                       " columns; known are " + known + " bits each and multiples of " +
                       std::to_string(elements) + " columns");
    }
    return static_cast<std::int32_t>(bits);
}

std::int32_t PlanePicker::group(const char* name, std::int64_t groups,
                                std::int64_t elements) const {
    const std::int64_t group = shape_.cols / groups;
    if (group * groups != shape_.cols || group % elements != 0) {
        fail(name, "has " + std::to_string(groups) + " groups for " + std::to_string(shape_.cols) +
                       " columns; groups are multiples of " + std::to_string(elements) +
                       " columns");
    }
    return static_cast<std::int32_t>(group);
}

void PlanePicker::finish() const {
    for (std::size_t i = 0; i < planes_.size(); ++i) {
        if (!taken_[i] && !planes_[i].name.empty())
            fail(escaped(planes_[i].name).c_str(), "is not one of this format");
    }
}

std::int64_t dividing_group(std::int64_t wanted, std::int64_t cols) {
    std::int64_t group = wanted == 0 ? cols : wanted;
    while (group % 2 == 0 && cols % group != 0) group /= 2;
    return group;
}

std::int64_t checked_group(const char* format, std::int64_t wanted, std::int64_t cols) {
    const std::int64_t group = dividing_group(wanted, cols);
    if (cols % group == 0) return group;
    throw Error(Exit::kUsage, std::string(format) + ": group",
                std::to_string(wanted) + " does not divide rows of " + std::to_string(cols) +
                    " columns, nor does its half, and so on");
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
