// SPDX-License-Identifier: Apache-2.0
// A list of named things built once from a folder's .def list; no self-registering statics.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/strings.h"

namespace thimble {

// T has `std::string_view name() const`. `kind` is used in errors: "format", "KV policy".
template <class T>
class Registry {
  public:
    Registry(std::string kind, std::vector<std::unique_ptr<T>> items)
        : kind_(std::move(kind)), items_(std::move(items)) {}

    [[nodiscard]] const T* find(std::string_view name) const noexcept {
        for (const auto& item : items_) {
            if (item->name() == name) return item.get();
        }
        return nullptr;
    }
    // Throws Error(kUsage) with the nearest name.
    [[nodiscard]] const T& get(std::string_view name, std::string_view where) const {
        if (const T* item = find(name)) return *item;
        throw Error(Exit::kUsage, std::string(where),
                    "unknown " + kind_ + " '" + escaped(name) + "'", did_you_mean(name, names()));
    }
    [[nodiscard]] std::vector<std::string> names() const {
        std::vector<std::string> out;
        for (const auto& item : items_) out.emplace_back(item->name());
        return out;
    }
    [[nodiscard]] const std::vector<std::unique_ptr<T>>& items() const noexcept { return items_; }

  private:
    std::string kind_;
    std::vector<std::unique_ptr<T>> items_;
};

}  // namespace thimble
