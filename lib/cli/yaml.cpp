// SPDX-License-Identifier: Apache-2.0
#include "cli/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "core/error.h"
#include "core/strings.h"
#include "io/file.h"

namespace thimble::cli {
namespace {

std::string at_line(std::string_view file, int line) {
    return std::string(file) + ":" + std::to_string(line);
}

int line_of(const YAML::Mark& mark) { return mark.is_null() ? 1 : mark.line + 1; }

std::size_t count_nodes(const YamlNode& node) {
    std::size_t count = 1;
    for (const YamlNode& item : node.items) count += count_nodes(item);
    for (const YamlMember& member : node.members) count += count_nodes(member.value);
    return count;
}

std::size_t depth_of(const YamlNode& node) {
    std::size_t deepest = 0;
    for (const YamlNode& item : node.items) deepest = std::max(deepest, depth_of(item));
    for (const YamlMember& m : node.members) deepest = std::max(deepest, depth_of(m.value));
    return deepest + 1;
}

// Builds the tree from parse events, so that limits hold before memory is spent.
class Builder final : public YAML::EventHandler {
  public:
    Builder(std::string_view file, const YamlLimits& limits) : file_(file), limits_(limits) {}
    YamlNode root;

    void OnDocumentStart(const YAML::Mark&) override {}
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
        add(node(YamlNode::Kind::kNull, mark), anchor);
    }
    void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
        const auto found = anchors_.find(anchor);
        if (found == anchors_.end()) throw bad(line_of(mark), "an alias refers to its own parent");
        const YamlNode& target = found->second;
        nodes_ += count_nodes(target);
        if (open_.size() + depth_of(target) > limits_.max_depth) throw too_deep(line_of(mark));
        add(target, 0);
    }
    void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  const std::string& value) override {
        check_tag(mark, tag);
        YamlNode scalar = node(YamlNode::Kind::kScalar, mark);
        scalar.quoted = tag == "!";
        scalar.text = value;
        add(std::move(scalar), anchor);
    }
    void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                         YAML::EmitterStyle::value) override {
        check_tag(mark, tag);
        open(YamlNode::Kind::kList, mark, anchor);
    }
    void OnSequenceEnd() override { close(); }
    void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                    YAML::EmitterStyle::value) override {
        check_tag(mark, tag);
        open(YamlNode::Kind::kMap, mark, anchor);
    }
    void OnMapEnd() override { close(); }

  private:
    struct Open {
        YamlNode node;
        YAML::anchor_t anchor = 0;
        bool key_pending = false;  // a map whose last member awaits its value
    };

    static YamlNode node(YamlNode::Kind kind, const YAML::Mark& mark) {
        YamlNode made;
        made.kind = kind;
        made.line = line_of(mark);
        return made;
    }
    Error bad(int line, const std::string& what, const std::string& hint = {}) const {
        return {Exit::kUsage, at_line(file_, line), what, hint};
    }
    Error too_deep(int line) const {
        return bad(line, "nested deeper than " + std::to_string(limits_.max_depth) + " levels");
    }
    void check_tag(const YAML::Mark& mark, const std::string& tag) const {
        if (tag.empty() || tag == "?" || tag == "!") return;
        throw bad(line_of(mark), "tag '" + escaped(tag) + "' is not supported");
    }
    void open(YamlNode::Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor) {
        if (open_.size() + 1 > limits_.max_depth) throw too_deep(line_of(mark));
        if (awaits_key()) throw bad(line_of(mark), "a key must be a plain text");
        open_.push_back({node(kind, mark), anchor, false});
    }
    void close() {
        Open done = std::move(open_.back());
        open_.pop_back();
        add(std::move(done.node), done.anchor);
    }
    [[nodiscard]] bool awaits_key() const {
        return !open_.empty() && open_.back().node.is_map() && !open_.back().key_pending;
    }
    void add(YamlNode node, YAML::anchor_t anchor) {
        if (++nodes_ > limits_.max_nodes) {
            throw bad(node.line, "more than " + std::to_string(limits_.max_nodes) + " nodes",
                      "aliases count each time they are used");
        }
        if (anchor != 0) anchors_[anchor] = node;
        if (open_.empty()) {
            root = std::move(node);
            return;
        }
        Open& parent = open_.back();
        if (parent.node.is_list()) {
            parent.node.items.push_back(std::move(node));
        } else if (parent.key_pending) {
            parent.node.members.back().value = std::move(node);
            parent.key_pending = false;
        } else {
            add_key(parent, node);
        }
    }
    void add_key(Open& map, const YamlNode& key) {
        if (!key.is_scalar()) throw bad(key.line, "a key must be a plain text");
        if (key.text == "<<") throw bad(key.line, "merge keys are not supported");
        if (map.node.find(key.text) != nullptr)
            throw bad(key.line, "key '" + escaped(key.text) + "' is given twice");
        map.node.members.push_back({key.text, key.line, {}});
        map.key_pending = true;
    }

    std::string file_;
    YamlLimits limits_;
    std::size_t nodes_ = 0;
    std::vector<Open> open_;
    std::map<YAML::anchor_t, YamlNode> anchors_;
};

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const noexcept {
    for (const YamlMember& member : members)
        if (member.key == key) return &member.value;
    return nullptr;
}

YamlNode parse_yaml(std::string_view text, std::string_view file, const YamlLimits& limits) {
    const std::string name(file);
    if (text.size() > limits.max_bytes) {
        throw Error(Exit::kUsage, name,
                    "is larger than " + format_bytes(limits.max_bytes) + ", the limit for YAML");
    }
    if (!is_utf8(text) || text.find('\0') != std::string_view::npos)
        throw Error(Exit::kUsage, name, "is not UTF-8 text");
    std::istringstream stream{std::string(text)};
    Builder builder(file, limits);
    try {
        YAML::Parser parser(stream);
        parser.HandleNextDocument(builder);
        const YamlNode first = std::move(builder.root);
        Builder rest(file, limits);
        if (parser.HandleNextDocument(rest))
            throw Error(Exit::kUsage, name, "holds more than one YAML document");
        return first;
    } catch (const YAML::Exception& e) {
        throw Error(Exit::kUsage, at_line(file, line_of(e.mark)), escaped(e.msg));
    }
}

YamlNode read_yaml_file(const std::string& path, const YamlLimits& limits) {
    return parse_yaml(read_text_file(path, limits.max_bytes), path, limits);
}

std::string yaml_scalar(std::string_view text) {
    static constexpr std::string_view kSafe =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-";
    const bool dash_only = text.starts_with('-') && text.find_first_of("0123456789") != 1;
    const bool plain = !text.empty() && !dash_only && to_lower(text) != "null" &&
                       text.find_first_not_of(kSafe) == std::string_view::npos;
    if (plain) return std::string(text);
    std::string out = "\"";
    for (const char c : text) {
        static constexpr char kHex[] = "0123456789abcdef";
        const auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (byte < 0x20 || byte == 0x7f) {
            out += "\\x";
            out += kHex[byte >> 4];
            out += kHex[byte & 15];
        } else {
            out += c;
        }
    }
    return out + '"';
}

}  // namespace thimble::cli
